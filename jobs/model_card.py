"""README.md of a saved model: its card, which the Hugging Face hub shows as the model's page.

A card is rewritten when there are new results, unless somebody has edited it. Its last line is a
hidden comment with the hash of the text before it, which shows whether it was edited.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from common import files
from common.errors import InputError
from common.markdown import markdown_table
from jobs import results_table, run_record, trials

FILE = "README.md"
HUB_NAME = "OWNER/NAME"  # stands for the model's name on the hub until it has one
_MARK = re.compile(r"\n<!-- generated, sha256 (\w{64}): [^\n]*-->\n\Z")
_HUB_DATASET = re.compile(r"^hf://datasets/([^/]+/[^/]+)")
_COMMENT = "this file is written again until it is edited"

# By the class of the model: the task's name on the hub, and the pipeline here.
KINDS = {
    "ConvBertModel": ("feature-extraction", "FeatureExtractor"),
    "ConvBertForMaskedLM": ("fill-mask", "FillMask"),
    "ConvBertForSequenceClassification": ("text-classification", "TextClassifier"),
    "ConvBertForTokenClassification": ("token-classification", "Tagger"),
    "ConvBertForQuestionAnswering": ("question-answering", "QuestionAnswerer"),
    "ConvBertForMultipleChoice": ("multiple-choice", "MultipleChoice"),
}
# Tensors of heads that transformers lacks: it would open these models with random heads.
OWN_HEADS = {
    "ConvBertForSequenceClassification": ("classifier.weight", 'head "linear"'),
    "ConvBertForQuestionAnswering": ("qa_joint.start.weight", "joint head"),
}
# Hyper-parameters that may be paths. Of an absolute path, only the last part is shown.
_PATHS = ("pretrain_tfrecords", "eval_tfrecords", "vocab_file", "init_checkpoint")
LONGEST_SAMPLE = 500  # characters of a widget's text
SAMPLE_TOKENS = 24


def is_edited(path: str | os.PathLike) -> bool:
    """Whether there is a card that somebody wrote or changed."""
    if not os.path.exists(path):
        return False
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return is_edited_text(file.read())


def is_edited_text(text: str) -> bool:
    """Whether somebody wrote or changed the text of a card."""
    mark = _MARK.search(text)
    return not mark or mark[1] != _sha256(text[: mark.start()])


def sign(text: str) -> str:
    """A generated text with a mark that reveals later edits; the mark replaces an earlier one."""
    text = _MARK.sub("", text)
    return f"{text}\n<!-- generated, sha256 {_sha256(text)}: {_COMMENT} -->\n"


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def write(directory: str | os.PathLike, text: str) -> None:
    """Writes a card to a model's directory, unless it has an edited one."""
    path = Path(directory, FILE)
    text = sign(text)
    if not is_edited(path) and not (path.exists() and path.read_text("utf-8") == text):
        files.write_text(path, text)


def keep_edited(old: str | os.PathLike, new: str | os.PathLike) -> None:
    """Copies an edited card from the directory `old` to `new`, which will replace it."""
    path = os.path.join(old, FILE)
    if is_edited(path):
        shutil.copyfile(path, os.path.join(new, FILE))


def write_pretrained(directory: str | os.PathLike, run: Any, step: int) -> None:
    """Writes the card of a network that the pre-training run `run` saved after `step` updates.

    `directory` may still be in a temporary place. The card is made from the run's `run.json`, the
    metadata of its records, and the scores of an evaluation after the same step.
    """
    with _failures_logged(directory):
        start, metadata = _read_run(run.directory)
        model = os.path.basename(os.path.abspath(run.directory))
        hparams = start.get("hparams", {})
        rtd = hparams.get("electra_objective", True)
        role = os.path.basename(directory) if rtd else "encoder"
        objective = "replaced-token detection, as ELECTRA" if rtd else "masked language modeling"
        sections = [
            f"# {model}: {role}\n\nA [ConvBERT](https://arxiv.org/abs/2008.02496) of size "
            f"`{hparams.get('model_size')}`, pre-trained with {objective}.",
            _loading(directory),
            _pretraining(start, metadata, step),
            _pretraining_scores(run.directory, step),
            _hparams(hparams),
        ]
        fills_masks = _described(directory)[0] == "ConvBertForMaskedLM"
        sample = {"text": masked_text(run.metadata, run.tokenizer)} if fills_masks else None
        corpus = metadata.get("options", {}).get("corpus", "")
        datasets = _HUB_DATASET.findall(corpus)
        write(directory, _card(directory, sections, sample, datasets=datasets))


def plain_card(directory: str | os.PathLike) -> str:
    """A card for a model that no job wrote: what it is, and how to load it."""
    title = f"# {HUB_NAME}\n\nA [ConvBERT](https://arxiv.org/abs/2008.02496)."
    return sign(_card(directory, [title, _loading(directory)]))


def masked_text(metadata: Any, tokenizer: Any) -> str:
    """The first words of the records, one of them hidden by [MASK]."""
    from data.records.batches import evaluation_batches

    (batch,) = evaluation_batches(metadata, 1, 1, pad_id=tokenizer.pad_id).as_numpy_iterator()
    ids = batch["input_ids"][0][batch["segment_ids"][0] == 0]
    words = tokenizer.decode(ids[:SAMPLE_TOKENS].tolist()).split()
    if words:
        words[len(words) // 2] = tokenizer.mask_token
    return " ".join(words)


def write_finetuned(job: trials.Job) -> None:
    """Writes the cards of all models of a job that are kept, with the scores of all its trials."""
    found = trials.kept_trials(job)
    for part in job.parts:
        results = {number: each[part.task.name] for number, each in found.items()}
        for trial in found:
            directory = job.trained_model(trial, part.task)
            if os.path.isdir(directory):
                with _failures_logged(directory):
                    _write_trial(directory, job, part, results, trial)


@contextlib.contextmanager
def _failures_logged(directory):
    """Inside, an error is only a warning: the model matters more than its card."""
    try:
        yield
    except files.WriteError:
        raise
    except Exception as error:
        path = os.path.join(directory, FILE)
        logging.warning("%s: not written: %s: %s", path, type(error).__name__, error)


def _write_trial(directory, job, part, results, trial):
    """The card of one trial's model; `results` are those of all trials."""
    from model.training.checkpoints import TrainingCheckpoints

    result, task = results[trial], part.task
    settings = result.get("settings", {})
    joint = f", trained jointly on {job.name.replace('+', ', ')}" if job.is_joint else ""
    base = job.encoder.directory
    start, metadata, step = {}, {}, None
    if base is not None:
        run_dir = os.path.dirname(base)
        start, metadata = _read_run(run_dir)
        steps = TrainingCheckpoints(os.path.join(run_dir, "checkpoints")).steps()
        step = max(steps, default=None)
    origin = "random weights" if base is None else "a pre-trained encoder"
    rows = [["training file (SHA-256)", settings.get("training data")]]
    rows += [["dev files (SHA-256)", value] for value in settings.get("dev data", ())]
    rows += [["examples in the dev file", f"{result['num_examples']:,}"]]
    rows += [["encoder (SHA-256)", settings.get("encoder")]]
    names = {"seed", "encoder", "task", "training data", "dev data"}
    sections = [
        f"# {job.title}: {task.name}\n\nA [ConvBERT](https://arxiv.org/abs/2008.02496), fine-tuned "
        f"from {origin} on the task {task.name}{joint}. It is trial {trial}, with seed "
        f"{result['seed']}.",
        _scores(results, trial),
        _loading(directory),
        "## Training data\n\n" + _facts(rows),
        _pretraining(start, metadata, step) if start else "",
        _hparams({k: v for k, v in settings.items() if k not in names}),
    ]
    write(directory, _card(directory, sections, _sample(part), task.name, result["metrics"]))


def _card(directory, sections, sample=None, task="", scores=None, datasets=()):
    """A card's text: its metadata for the hub, then the sections that are not empty.

    `scores` are by metric, on the dev set of `task`.
    """
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    _, hub_task, _, problem = _described(directory)
    scores = scores or {}
    results = [
        EvalResult(hub_task, task, task, name, value, dataset_split="dev")
        for name, value in scores.items()
    ]
    data = ModelCardData(
        library_name=None if problem else "transformers",
        pipeline_tag=hub_task,
        tags=["convbert", "keras"],
        model_name=HUB_NAME if results else None,
        eval_results=results or None,
        datasets=datasets or None,
        metrics=list(scores) or None,
        widget=[sample] if sample else None,
    )
    text = "\n\n".join(section.strip() for section in sections if section)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n"))


def _described(directory):
    """A saved model's class, its row of `KINDS`, and why transformers cannot open it, or None."""
    from safetensors import safe_open

    path = os.path.join(directory, "config.json")
    config = files.read_json_object(path)
    architecture = (config.get("architectures") or ["ConvBertModel"])[0]
    if architecture not in KINDS:
        raise InputError(
            f"{path}: `architectures` is {json.dumps(architecture)}, expected {', '.join(KINDS)}"
        )
    problem = config.get("transformers_note")
    tensor, head = OWN_HEADS.get(architecture, (None, None))
    weights_path = os.path.join(directory, "model.safetensors")
    if tensor and os.path.exists(weights_path):  # only transformers writes other formats
        with safe_open(weights_path, "numpy") as weights:
            if tensor in weights.keys():  # noqa: SIM118 (not a dict)
                problem = f"its class does not have the {head}"
    return architecture, *KINDS[architecture], problem


def _loading(directory):
    """How to open the model here and, if possible, in transformers."""
    architecture, _, pipeline, problem = _described(directory)
    auto_class = "AutoModel" + architecture.removeprefix("ConvBert").removeprefix("Model")
    own = (
        "```python\nfrom data import ConvBertTokenizer\n"
        f"from model import {architecture}\nfrom pipelines import {pipeline}\n\n"
        f'tokenizer = ConvBertTokenizer.from_pretrained("{HUB_NAME}")\n'
        f'model = {architecture}.from_pretrained("{HUB_NAME}")\n'
        f'pipeline = {pipeline}.from_pretrained("{HUB_NAME}")  # both, for texts\n```'
    )
    theirs = (
        f"```python\nfrom transformers import AutoTokenizer, {auto_class}\n\n"
        f'tokenizer = AutoTokenizer.from_pretrained("{HUB_NAME}")\n'
        f'model = {auto_class}.from_pretrained("{HUB_NAME}")\n```'
    )
    if problem:
        theirs = f"transformers cannot open this model: {problem}."
    return f"## Load it\n\nIn transformers:\n\n{theirs}\n\nIn ConvBERT for Keras 3:\n\n{own}"


def _scores(results: Mapping[int, Any], trial: int) -> str:
    """The dev scores of all trials, and their statistics; a star marks this model's trial."""
    scored = [each for each in results.values() if each["metrics"]]
    if not scored:
        return ""
    names, rows = results_table.score_rows(scored)
    marked = [[f"{row[0]}{' *' * (row[0] == trial)}", *row[1:]] for row in rows]
    text = "## Scores on the dev set, in percent\n\n"
    text += markdown_table(["trial", "seed", *names], marked)
    text += "\n\\* this model" if any(row[0] == trial for row in rows) else ""
    kinds = {*map(results_table.kept_weights, scored)} - {"last"}
    return text + "".join(f"\n\nWeights: {results_table.CHOSEN_ON_DEV[kind]}." for kind in kinds)


def _read_run(run_dir):
    """The last start in a run's record, and the metadata of its records; {} for what is missing."""
    try:
        path = os.path.join(run_dir, run_record.FILE)
        start = files.read_json_object(path, max_bytes=1 << 30)["starts"][-1]
        path, known = start["records"]["metadata"], start["records"]["sha256"]
    except (InputError, LookupError, TypeError):
        return {}, {}
    if not known or not os.path.isfile(path) or files.sha256_of(path) != known:
        return start, {}
    return start, files.read_json_object(path, max_bytes=1 << 30)


def _pretraining(start, metadata, step):
    """What a network was pre-trained on, for how long, and with what."""
    options, totals = metadata.get("options", {}), metadata.get("totals", {})
    hparams, code = start.get("hparams", {}), start.get("code") or {}
    steps = f"{step:,} of {hparams.get('num_train_steps', 0):,}" if step else None
    length = hparams.get("max_seq_length") or metadata.get("max_seq_length")
    gpus = [gpu["name"] for gpu in start.get("machine", {}).get("gpus", ())]
    versions = start.get("versions", {})
    rows = [
        ["corpus", options.get("corpus")],
        ["revision of the corpus", options.get("corpus_revision")],
        ["names and sizes of its files (SHA-256)", options.get("corpus_files_sha256")],
        *(
            [name.replace("_", " "), f"{totals[name]:,}"]
            for name in ("documents", "text_bytes")
            if name in totals
        ),
        ["tokens in the records", f"{totals['tokens']:,}" if "tokens" in totals else None],
        ["records' metadata.json (SHA-256)", start.get("records", {}).get("sha256")],
        ["vocabulary (SHA-256)", metadata.get("vocab_sha256")],
        ["tokens in the vocabulary", metadata.get("vocab_size")],
        ["steps", steps],
        ["batch size", hparams.get("train_batch_size")],
        ["tokens in a sequence, at most", length],
        ["backend", start.get("backend")],
        ["Keras", versions.get("keras")],
        ["GPUs", ", ".join(gpus)],
        ["commit of the code", code.get("commit")],
    ]
    return "## Pre-training\n\n" + _facts(rows) if start else ""


def _pretraining_scores(run_dir, step):
    """The scores of the evaluation at the same step; "" if there was none."""
    path = os.path.join(run_dir, "results", "pretrain_results.json")
    scores = files.read_json_object(path) if os.path.exists(path) else {}
    if scores.pop("step", None) != step:
        return ""
    rows = [[name, value] for name, value in scores.items() if name.startswith("eval_")]
    return "## Evaluation\n\n" + markdown_table(["score", "value"], rows)


def _facts(rows):
    """A table of the rows that have a value."""
    return markdown_table(["", ""], [row for row in rows if row[1] not in (None, "")], 2)


def _hparams(hparams):
    """All hyper-parameters, as `--hparams` takes them."""
    if not hparams:
        return ""
    shown = {name: _public(value) if name in _PATHS else value for name, value in hparams.items()}
    text = json.dumps(shown, indent=2, ensure_ascii=False)
    return f"## Hyper-parameters\n\n```json\n{text}\n```"


def _public(value):
    """The last part of an absolute path, without the machine's folders; other values unchanged."""
    is_absolute = isinstance(value, str) and value.startswith(("/", "~"))
    return os.path.basename(value.rstrip("/")) if is_absolute else value


def _sample(part):
    """The widget's example: the first of the dev or training set; None for multiple choice."""
    examples = part.dev.get("dev", part.train)
    hub_task = KINDS[part.task.architecture][0]
    if examples is None or hub_task == "multiple-choice":
        return None
    texts, _ = part.task.describe(examples)[0]
    second = "context" if hub_task == "question-answering" else "text_pair"
    return dict(zip(("text", second), (text[:LONGEST_SAMPLE] for text in texts), strict=False))
