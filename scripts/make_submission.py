"""Makes the zip that gluebenchmark.com scores, out of what finetune.py predicted for GLUE's tests.

    python3 scripts/make_submission.py --data-dir DATA_DIR --model-name NAME
    python3 scripts/make_submission.py --data-dir DATA_DIR --model-name NAME --trial cola=3 rte=1

Reads test_predictions/ and results/ below DATA_DIR/models/NAME, and writes submission.zip there.
Of each task it takes the trial whose dev score is the median of all with predictions.
"""

import argparse
import os

import bootstrap  # noqa: F401

from common import errors
from common.errors import InputError
from data.tasks import glue
from jobs import glue_submission


def main(arguments: list[str] | None = None) -> None:
    """Chooses the trials, checks all their predictions, writes the zip and says what is in it."""
    args = parse_arguments(arguments)
    model_dir = os.path.join(args.data_dir, "models", args.model_name)
    if not os.path.isdir(model_dir):
        raise InputError(f"there is no model folder {model_dir}")
    wanted = parse_trials(args.trial)
    choices = {
        task: glue_submission.choose_trial(model_dir, task, wanted.get(task)) for task in glue.TASKS
    }
    missing = find_missing(model_dir, choices)
    if missing and not args.allow_missing:
        raise InputError(
            "no predictions for\n"
            + "".join(f"  {name}: {path}\n" for name, path in missing.items())
            + "Put GLUE's test files into DATA_DIR/finetuning_data and run finetune.sh for these "
            "tasks; or say --allow-missing, and the most frequent label stands in for them"
        )
    predictions = {}
    for file in glue_submission.FILES:
        if file.name in missing:
            predictions[file.name] = glue_submission.constant_predictions(file)
        else:
            path = glue_submission.prediction_path(model_dir, file, choices[file.task].trial)
            predictions[file.name] = glue_submission.read_predictions(path, file)
    output = args.output or os.path.join(model_dir, "submission.zip")
    glue_submission.write_zip(output, predictions)
    print(table(choices, missing))
    print(output)
    if missing:
        from absl import logging

        logging.warning(
            "%s: one answer for every row, since there are no predictions: the score means nothing",
            ", ".join(missing),
        )


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="holds models/")
    parser.add_argument("--model-name", required=True, help="the model's folder in DATA_DIR/models")
    parser.add_argument(
        "--trial",
        nargs="+",
        action="extend",
        default=[],
        metavar="TASK=N",
        help="the trial to hand in of a task (default: the median one)",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="let the most frequent label stand in for predictions that are not there",
    )
    parser.add_argument("--output", help="the file to write (default: submission.zip of the model)")
    return parser.parse_args(arguments)


def parse_trials(texts: list[str]) -> dict[str, int]:
    """The trials asked for, by task."""
    trials = {}
    for text in texts:
        name, _, number = text.partition("=")
        if not (number.isdecimal() and int(number) > 0):
            raise InputError(f'--trial {text}: expected a task and a trial, such as "cola=2"')
        trials[glue.get_task(name).name] = int(number)
    return trials


def find_missing(model_dir: str, choices: dict[str, glue_submission.Choice]) -> dict[str, str]:
    """The files of the zip that have no predictions, each with the path they should be at."""
    paths = {
        file.name: glue_submission.prediction_path(
            model_dir, file, choices[file.task].trial or "TRIAL"
        )
        for file in glue_submission.FILES
    }
    return {name: path for name, path in paths.items() if not os.path.isfile(path)}


def table(choices: dict[str, glue_submission.Choice], missing: dict[str, str]) -> str:
    """What is in the zip, a line for each file."""
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
