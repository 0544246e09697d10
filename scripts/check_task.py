"""Looks at a task's files before training: labels, duplicates, lengths, unknown tokens, encodings.

    python3 scripts/check_task.py --data-dir DATA_DIR cola
    python3 scripts/check_task.py --data-dir DATA_DIR --model-name NAME my_task.json \\
        --hparams '{"max_seq_length": 256}'

The files are read as finetune.py reads them, with the same errors. Texts are tokenized by the model
NAME, or with DATA_DIR/vocab.txt, or with BERT's uncased vocabulary. Nothing is written. Two texts
count as the same if they differ at most in case and spaces.
"""

import argparse
import csv
import functools
import gzip
import io
import os
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import bootstrap  # noqa: F401

from common import errors
from common.fields import shortened
from common.markdown import markdown_table, with_share
from common.remote import as_path

MOST_LABELS = 30  # that are listed
MOST_UNKNOWN = 0.01  # the share of tokens above which there is a warning


def main(arguments: list[str] | None = None) -> None:
    """Reads the task's files, and prints tables and warnings about them."""
    args = parse_arguments(arguments)
    from configure_finetuning import FinetuningConfig
    from data.tasks.registry import get_task
    from data.tensorflow_setup import prepare_tensorflow
    from model.config import load_hparams

    config = FinetuningConfig.for_tasks((args.task,), load_hparams(args.hparams))
    directory = os.path.join(args.data_dir, "finetuning_data")
    task = get_task(args.task).complete(directory)
    needed = ("train", "dev") if config.do_eval else ("train",)
    splits = {split: task.load(directory, split) for split in needed}
    splits |= task.load_if_there(directory, (*task.more_dev_splits, *task.test_splits))
    prepare_tensorflow(False)
    tokenizer, vocabulary = find_tokenizer(args, config)

    case = "uncased" if tokenizer.do_lower_case else "cased"
    print(f"# {task.name}: at most {config.max_seq_length} tokens; {vocabulary}, {case}\n")
    print(file_table(splits))
    warnings: list[str] = []
    labels = {s: task.count_labels(e) for s, e in splits.items() if s not in task.test_splits}
    print(label_table(labels, warnings))
    checks, train = {}, {}
    for split, examples in splits.items():
        features = task.make_features(tokenizer, examples, config, training=False)
        cuts = task.count_cut(tokenizer, examples, features)
        rows = task.describe(examples)
        if split in task.test_splits:
            rows = [(texts, None) for texts, _ in rows]
        groups = group(rows, getattr(task, "unordered", False))
        train = train or groups
        checks[split] = check_lengths(split, features, cuts, tokenizer, warnings)
        checks[split] |= check_duplicates(split, groups, train, warnings)
        checks[split] |= check_characters(split, rows, warnings)
    names = list(next(iter(checks.values())))
    table = [[name, *(found[name] for found in checks.values())] for name in names]
    print(markdown_table(["", *checks], table))
    count = f"{len(warnings) or 'no'} warning{'s' * (len(warnings) != 1)}"
    print("\n".join([count, *(f"- {text}" for text in warnings)]))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", metavar="TASK", help="a task's name, or the JSON file of one")
    parser.add_argument("--data-dir", required=True, help="directory with finetuning_data/")
    parser.add_argument("--model-name", help="the model in DATA_DIR/models to fine-tune")
    parser.add_argument(
        "--hparams", default="{}", help="those of finetune.py: a JSON object, or a file with one"
    )
    return parser.parse_args(arguments)


def find_tokenizer(args: argparse.Namespace, config: Any) -> tuple[Any, str]:
    """The tokenizer, and where its vocabulary comes from."""
    from data import ConvBertTokenizer
    from data.records.command_line import BERT_VOCAB
    from jobs import working_copy
    from jobs.encoder import find_encoder

    if args.model_name:
        names = (args.data_dir, args.model_name)
        model_dir, _ = working_copy.open_directory(*names, without=working_copy.FINETUNING)
        encoder = find_encoder(config, model_dir)
        return encoder.tokenizer, f"vocabulary of {encoder.directory}"
    path = as_path(args.data_dir) / "vocab.txt"
    if path.exists():
        return ConvBertTokenizer.from_pretrained(as_path(args.data_dir)), f"vocabulary {path}"
    return ConvBertTokenizer(BERT_VOCAB), "BERT's vocabulary"


def file_table(splits: dict[str, Any]) -> str:
    """The files of the splits."""
    rows = [
        [split, examples.path, *inspect_file(examples.path), f"{len(examples):,}"]
        for split, examples in splits.items()
    ]
    return markdown_table(["split", "file", "encoding", "blank lines", "examples"], rows, 3)


def inspect_file(path: str) -> tuple[str, int | None]:
    """A file's encoding, and how many blank lines are skipped; None if they have a meaning."""
    from common.files import decode_text, encoding_of
    from data.tasks.files import GZIP_START, PARQUET, file_ending, is_blank, lines_of

    if path.lower().endswith(PARQUET):
        return "parquet", None
    content, more = Path(path).read_bytes(), ""
    if content.startswith(GZIP_START):
        content, more = gzip.decompress(content), ", gzip"
    encoding = {"utf-16": "UTF-16", "utf-8-sig": "UTF-8 with a mark"}.get(
        encoding_of(content), "ASCII" if content.isascii() else "UTF-8"
    )
    text, ending = decode_text(content, path), file_ending(path)
    blank = None
    if ending == ".csv":
        blank = sum(not row for row in csv.reader(io.StringIO(text, newline="")))
    elif ending in (".tsv", ".jsonl"):
        blank = sum(is_blank(line) for _, line in lines_of(text.rstrip("\r\n")))
    return encoding + more, blank


def label_table(labels: dict[str, Counter], warnings: list[str]) -> str:
    """How often each label occurs in each split, with its share."""
    total = sum(labels.values(), Counter())
    names = list(next(iter(labels.values())))  # in the task's order, if it has one
    names += [name for name in total if name not in names]
    for split, counts in labels.items():
        absent = [name for name in names if not counts[name]]
        if absent:
            warnings.append(f"{split}: no example has the label {_some(absent)}")
    listed = names
    if len(names) > MOST_LABELS:
        listed = [name for name, _ in total.most_common(MOST_LABELS)]
    rows = [
        [shortened(name, 40), *(with_share(c[name], c.total()) for c in labels.values())]
        for name in listed
    ]
    if len(listed) < len(names):
        rows.append([f"… and {len(names) - len(listed)} more", *[""] * len(labels)])
    return markdown_table(["label", *labels], rows)


def check_lengths(
    split: str, features: Any, cuts: dict[str, tuple[int, int]], tokenizer: Any, warnings: list[str]
) -> dict[str, str]:
    """Lengths in tokens, what was too long, and unknown tokens."""
    import numpy as np

    median, most, longest = np.quantile(features.lengths, (0.5, 0.95, 1.0), method="higher")
    found = {
        "tokens: median": str(median),
        "tokens: 95 %": str(most),
        "tokens: longest, after cutting": str(longest),
    }
    for what, (count, of) in cuts.items():
        found[what] = with_share(count, of)
        if count and what.endswith("cut"):
            warnings.append(f"{split}: {with_share(count, of)} {what}")
    is_special = np.isin(features.input_ids, (tokenizer.cls_id, tokenizer.sep_id))
    is_unknown = features.input_ids[~is_special] == tokenizer.unk_id
    found["unknown tokens"] = with_share(int(is_unknown.sum()), len(is_unknown))
    if is_unknown.mean() > MOST_UNKNOWN:
        warnings.append(f"{split}: {is_unknown.mean():.1%} of the tokens are unknown ([UNK])")
    return found


def group(rows: list[tuple], unordered: bool) -> dict[tuple, list]:
    """Groups examples with the same texts: their labels, by these texts in normalized form."""
    groups = defaultdict(list)
    # Many questions have the same context: one copy of it is enough.
    normal = functools.cache(lambda text: " ".join(text.split()).casefold())
    for texts, label in rows:
        key = tuple(map(normal, texts))
        groups[tuple(sorted(key)) if unordered else key].append(label)
    return groups


def check_duplicates(
    split: str, groups: dict[tuple, list], train: dict[tuple, list], warnings: list[str]
) -> dict[str, str]:
    """Duplicates within a split and between it and the training set, and their labels."""
    total = sum(map(len, groups.values()))

    def check(what, counts):
        share = with_share(sum(counts.values()), total)
        if counts:
            example = shortened(" | ".join(next(iter(counts))), 80)
            warnings.append(f'{split}: {share} {what}, such as "{example}"')
        return share

    repeated = {key: len(labels) - 1 for key, labels in groups.items() if len(labels) > 1}
    unlike = {key: len(groups[key]) for key in repeated if len(set(groups[key])) > 1}
    found = {
        "examples repeated": check("examples repeat an earlier one", repeated),
        "… with different labels": check("repeated examples have different labels", unlike),
    }
    if train is groups:
        return found | {"also in train": "–", "… with another label": "–"}
    shared = {key: len(labels) for key, labels in groups.items() if key in train}
    found["also in train"] = check("examples are also in train", shared)
    others = {key: sum(label not in (None, *train[key]) for label in groups[key]) for key in shared}
    others = {key: count for key, count in others.items() if count}
    found["… with another label"] = check("examples have another label in train", others)
    return found


def check_characters(split: str, rows: list[tuple], warnings: list[str]) -> dict[str, str]:
    """Texts without letters, and signs that a text was decoded with the wrong encoding."""
    texts = {text for row, _ in rows for text in row}
    checks = {
        "texts without letters or digits": lambda text: not any(map(str.isalnum, text)),
        "texts with the character U+FFFD": lambda text: "\ufffd" in text,
        "texts decoded twice (Ã© for é)": is_decoded_twice,
    }
    found = {}
    for what, check in checks.items():
        wrong = sorted(filter(check, texts))
        found[what] = with_share(len(wrong), len(texts))
        if wrong:
            example = shortened(wrong[0], 80)
            warnings.append(f'{split}: {found[what]} {what}, such as "{example}"')
    return found


def is_decoded_twice(text: str) -> bool:
    """Whether a word of a text is UTF-8 that was read as Windows-1252."""
    if text.isascii():
        return False
    for word in text.split():
        try:
            if not word.isascii() and word.encode("cp1252").decode() != word:
                return True
        except UnicodeError:
            continue
    return False


def _some(names):
    return " or ".join(shortened(name, 40) for name in names[:5]) + " or …" * (len(names) > 5)


if __name__ == "__main__":
    errors.run(main)
