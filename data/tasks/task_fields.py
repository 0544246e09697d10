"""Checks of the JSON fields that describe a task of the user's own."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a task or a split, and so of folders and files."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def is_column(value: Any) -> bool:
    """Whether a value is a column's name, or its number from 1."""
    return (isinstance(value, str) and value != "") or (type(value) is int and value >= 1)


def is_list(
    value: Any, is_item: Callable[[Any], bool], least: int, most: int | None = None
) -> bool:
    """Whether a value is a list of `least` to `most` different items."""
    return (
        isinstance(value, list)
        and least <= len(value) <= (most or len(value))
        and all(map(is_item, value))
        and len(set(value)) == len(value)
    )


def is_files(value: Any) -> bool:
    """Whether a value is an object of file names by split."""
    return isinstance(value, dict) and all(
        isinstance(file, str) and file != "" and is_name(split) for split, file in value.items()
    )


def tests_among(files: Mapping[str, str]) -> tuple[str, ...]:
    """The splits that are no training or dev sets; "test", which may be elsewhere, if none is."""
    return tuple(split for split in files if split not in ("train", "dev")) or ("test",)


def files_beside(path: str, fields: Mapping[str, Any]) -> dict[str, str]:
    """The paths in the field `files`, which are relative to the JSON file's folder."""
    folder = os.path.dirname(os.path.abspath(path))
    return {split: os.path.join(folder, name) for split, name in fields.get("files", {}).items()}
