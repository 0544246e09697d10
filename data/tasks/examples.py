"""The examples of a task's file, and the checks of their texts."""

import abc
import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from common.errors import InputError
from common.fields import as_json

if TYPE_CHECKING:
    import numpy as np

# The target of a token that has no label, or a label that the model does not know.
IGNORED = -100

_MAX_LISTED = 20


@dataclasses.dataclass(frozen=True)
class Examples(abc.ABC):
    """The examples of one file, in file order. Each kind of task adds its own fields.

    `sha256` is the hash of the file's bytes.
    """

    path: str
    sha256: str

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @property
    @abc.abstractmethod
    def num_characters(self) -> int:
        """Length of all texts: an estimate of the work."""


@dataclasses.dataclass(frozen=True)
class TextExamples(Examples):
    """Texts or pairs of texts, with labels or scores.

    Args:
        texts: the first or only text of each example.
        text_pairs: the second texts; None for tasks on single texts.
        labels: int32 `[N]` label ids; int32 `[N, labels]` of ones and zeros for multi-label
            tasks; float64 `[N]` scores; None for a test file.
        score_range: the lowest and the highest score; None for labels.
    """

    texts: list[str]
    text_pairs: list[str] | None
    labels: "np.ndarray | None"
    score_range: tuple[float, float] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    @property
    @override
    def num_characters(self) -> int:
        return sum(map(len, self.texts)) + sum(map(len, self.text_pairs or ()))

    @property
    def targets(self) -> "np.ndarray":
        """Training targets of the model's logits.

        Int32 `[N]` label ids (zeros for a test file), float32 `[N, labels]` of ones and zeros, or
        float32 `[N, 1]` scores scaled from `score_range` to 0–1.
        """
        import numpy as np  # not needed for `--help` or for reading texts

        if self.labels is None:
            return np.zeros(len(self), np.int32)
        if self.score_range is not None:
            low, high = self.score_range
            return ((self.labels - low) / (high - low)).astype(np.float32)[:, None]
        return self.labels.astype(np.float32) if self.labels.ndim == 2 else self.labels


def parse_text(value: Any, where: str, spaces: str | None = None) -> str:
    """A value, checked to be text that is not blank. `where` names it in errors.

    `spaces` are the characters that count as blank; None means all of Unicode's spaces.
    """
    if not isinstance(value, str):
        raise unexpected("text", where, value)
    if not value.strip(spaces):
        raise InputError(f"expected text in {where}, got none")
    try:
        value.encode()
    except UnicodeEncodeError:  # a JSON escape can be half of a surrogate pair
        raise InputError(f"expected Unicode text in {where}, got a lone surrogate") from None
    return value


def parse_number(value: Any) -> float | None:
    """A finite number, or one that is written in text; None for anything else."""
    try:
        # Python takes 1_0 for 10, and True for 1.
        is_other = isinstance(value, bool) or (isinstance(value, str) and "_" in value)
        number = math.nan if is_other else float(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def unexpected(expected: str, where: str, value: Any) -> InputError:
    """The error for a value that is not what was expected; without file and line."""
    return InputError(f"expected {expected} in {where}, got {shown(value)}")


def listed(names: Iterable[Any]) -> str:
    """The first names, cut if they are long, for messages: there may be thousands of them."""
    first = [f"{name!s:.50}" for name in itertools.islice(names, _MAX_LISTED + 1)]
    return ", ".join([*first[:_MAX_LISTED], "…"][: len(first)]) or "none"


def shown(value: Any) -> str:
    """The start of a value in JSON form, for messages."""
    return as_json(value)[:100]
