"""What a saved model's directory says it holds, found out without loading anything heavy."""

import json
import os

from common import files
from common.errors import InputError

# Where directories are that pipelines of fine-tuned models read.
HINT = "finetune.sh writes fine-tuned models to DATA_DIR/models/NAME/finetuning_models/"


def architecture_of(directory: str | os.PathLike) -> str | None:
    """The one class that `config.json` names in `architectures`; None if it names no single one.

    Raises:
        InputError: no such file, or it is damaged.
    """
    path = os.path.join(directory, "config.json")
    if not os.path.isfile(path):
        raise InputError(f"no such file: {path}. {HINT}")
    found = files.read_json_object(path).get("architectures")
    is_one = isinstance(found, list) and len(found) == 1 and isinstance(found[0], str)
    return found[0] if is_one else None


def check_architecture(directory: str | os.PathLike, expected: str, what: str) -> None:
    """Refuses a directory that holds another model than one of the class `expected`.

    Args:
        directory: of a saved model.
        expected: the class's name.
        what: what it is called in the error, such as "a fine-tuned classifier".
    """
    found = architecture_of(directory)
    if found != expected:
        raise InputError(
            f"{directory} is not {what}: its config.json has the architecture {json.dumps(found)}, "
            f"not {expected}. {HINT}"
        )
