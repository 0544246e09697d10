"""The file that says how a vocabulary's tokenizer treats text, as Hugging Face's tokenizers do."""

import json
from pathlib import Path

from errors import InputError

CONFIG_FILE = "tokenizer_config.json"


def stated_options(path: Path) -> dict[str, bool]:
    """Returns do_lower_case and strip_accents, those that the file states; none without a file.

    Raises:
        InputError: the file is broken, or asks for what `ConvBertTokenizer` cannot do.
    """
    config = _read(path)
    for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
        if not isinstance(config.get(name), bool | None):
            raise InputError(f"{path}: {name} must be true or false, not {config[name]!r}")
    if config.get("strip_accents") and not config.get("do_lower_case", True):
        raise InputError(f"{path}: strip_accents without do_lower_case is not supported")
    if not config.get("tokenize_chinese_chars", True):
        raise InputError(f"{path}: tokenize_chinese_chars=false is not supported")
    options = {name: config.get(name) for name in ("do_lower_case", "strip_accents")}
    return {name: value for name, value in options.items() if value is not None}


def stated_max_length(path: Path) -> int | None:
    """Returns model_max_length, the most tokens a text should have; None if the file has none.

    Raises:
        InputError: the file is broken.
    """
    length = _read(path).get("model_max_length")
    # Hugging Face writes 10^30 where there is no limit.
    return length if type(length) is int and 0 < length < 10**9 else None


def _read(path):
    """The file's fields; none without a file."""
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(config).__name__}")
    return config
