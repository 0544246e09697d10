"""Makes the zip file that gluebenchmark.com scores from finetune.py's predictions for GLUE's tests.

    python3 scripts/make_submission.py --data-dir DATA_DIR --model-name NAME
    python3 scripts/make_submission.py --data-dir DATA_DIR --model-name NAME --trial cola=3 rte=1

Reads test_predictions/ and results/ in DATA_DIR/models/NAME (with --run-name RUN, in its
finetuning_runs/RUN), and writes submission.zip there. For each task, it takes the trial with the
median dev score among those with predictions.
"""

import argparse
import os

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from data.tasks import glue
from jobs import glue_submission
from jobs.glue_submission import Choice
from jobs.working_copy import output_directory


def main(arguments: list[str] | None = None) -> None:
    """Chooses the trials, checks their predictions, writes the zip and prints its content."""
    args = parse_arguments(arguments)
    model_dir = output_directory(args.data_dir, args.model_name, args.run_name)
    if not os.path.isdir(model_dir):
        raise InputError(f"no such model: {model_dir} does not exist")
    requested = parse_trials(args.trial)
    choices = {
        task: glue_submission.choose_trial(model_dir, task, requested.get(task))
        for task in glue.TASKS
    }
    paths = {
        file.name: glue_submission.prediction_path(
            model_dir, file, choices[file.task].trial or "TRIAL"
        )
        for file in glue_submission.FILES
    }
    missing = {name: path for name, path in paths.items() if not os.path.isfile(path)}
    if missing and not args.allow_missing:
        raise InputError(
            "no predictions for\n"
            + "".join(f"  {name}: {path}\n" for name, path in missing.items())
            + "Put GLUE's test files into DATA_DIR/finetuning_data and run finetune.sh for these "
            "tasks, or use --allow-missing to submit their most frequent labels"
        )
    predictions = {
        file.name: glue_submission.constant_predictions(file)
        if file.name in missing
        else glue_submission.read_predictions(paths[file.name], file)
        for file in glue_submission.FILES
    }
    output = args.output or os.path.join(model_dir, "submission.zip")
    glue_submission.write_zip(output, predictions)
    print(table(choices, missing))
    print(output)
    if missing:
        from absl import logging

        logging.warning("constant predictions, whose scores mean nothing: %s", ", ".join(missing))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="holds models/")
    parser.add_argument("--model-name", required=True, help="name of the directory in models/")
    parser.add_argument("--run-name", metavar="NAME", help="the run, if finetune.py was given one")
    parser.add_argument(
        "--trial",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK=N",
        help="the trial to submit for a task (default: the median one)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="submit the most frequent label where there are no predictions",
    )
    parser.add_argument(
        "--output", help="the file to write (default: submission.zip in the model's directory)"
    )
    return parser.parse_args(arguments)


def parse_trials(texts: list[str]) -> dict[str, int]:
    """The requested trials, by task."""
    trials = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not (number.isdecimal() and int(number) > 0):
            raise InputError(f'--trial {text}: expected a task and a trial, such as "cola=2"')
        trials[glue.get_task(name).name] = int(number)
    return trials


def table(choices: dict[str, Choice], missing: dict[str, str]) -> str:
    """The content of the zip, one line for each file."""
    lines = [f"{'file':12}{'rows':>7}  {'trial':>5}  {'dev score':<17}chosen"]
    for file in glue_submission.FILES:
        choice = choices[file.task]
        trial, reason, score = choice.trial, choice.reason, ""
        if file.name in missing:
            trial, reason = "-", f"no predictions: {glue_submission.constant_predictions(file)[-1]}"
        elif choice.score is not None:
            score = f"{glue.get_task(file.task).metrics[0]} {choice.score:.2f}"
        lines.append(f"{file.name + '.tsv':12}{file.num_rows:>7}  {trial:>5}  {score:<17}{reason}")
    return "\n".join(lines)


if __name__ == "__main__":
    errors.run(main)
