"""Labels as files have them → their names and ids."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Hugging Face's names, as in the `config.json` of a saved model.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"

# pandas writes 1 as 1.0 where a column has, or had, an empty cell.
_WHOLE = re.compile(r"-?[0-9]+(\.0)?")


def label_name(value: Any) -> str | None:
    """A label as text: the numbers 1 and 1.0 and true of a JSON file become "1", "1" and "true".

    None if the value cannot be a label.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool | int):
        return json.dumps(value)
    return value if isinstance(value, str) else None


def label_ids(labels: Sequence[str]) -> dict[str, int]:
    """The id of each label. If all are whole numbers, "1" and "1.0" are the same label."""
    ids = {label: number for number, label in enumerate(labels)}
    if _are_whole(labels):
        for label, number in [*ids.items()]:
            digits = label.removesuffix(".0")
            ids.setdefault(digits, number)
            ids.setdefault(f"{digits}.0", number)
    return ids


def count_labels(names: Iterable[str]) -> Mapping[str, int]:
    """How often each label occurs. Labels with the same `label_ids` are counted as one."""
    counts = Counter(names)
    shortest = {name: name.removesuffix(".0") for name in counts}
    if not _are_whole(counts) or len({*shortest.values()}) == len(counts):
        return counts
    merged = Counter()
    for name, count in counts.items():
        merged[shortest[name]] += count
    return merged


def _are_whole(labels):
    return all(map(_WHOLE.fullmatch, labels))
