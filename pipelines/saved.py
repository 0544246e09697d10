"""The kind of a saved model, read from its config.json without importing TensorFlow."""

import json
import os
from collections.abc import Collection

from common import files
from common.errors import InputError


def find_architecture(directory: str, known: Collection[str], what: str) -> str:
    """The class in `architectures` of a model's config.json; an `InputError` if it is not `known`.

    `what` is the expected model in words.
    """
    path = os.path.join(directory, "config.json")
    hint = "finetune.sh writes fine-tuned models to DATA_DIR/models/NAME/finetuning_models/"
    if not os.path.isfile(path):
        raise InputError(f"no such file: {path}. {hint}")
    found = files.read_json_object(path).get("architectures")
    if found not in [[name] for name in known]:
        raise InputError(
            f"{directory} is not {what}: its config.json has `architectures` {json.dumps(found)}, "
            f"not {' or '.join(known)}. {hint}"
        )
    return found[0]
