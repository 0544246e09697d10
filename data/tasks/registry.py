"""The tasks there are: the original's by name, and one's own, each described by a JSON file.

The file's field `kind` says what it is:

    "classification"      the default; see data/tasks/classification/fields.py
    "tagging"             a tag for each word; see data/tasks/tagging/task.py
    "question_answering"  an answer out of a text; see data/tasks/question_answering/task.py
    "multiple_choice"     one of several texts; see data/tasks/multiple_choice.py

and the other fields are explained there.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any

from common.errors import InputError
from common.fields import require_one_of
from common.files import read_json_object
from data.tasks import glue, multiple_choice
from data.tasks.base import Task, find_task
from data.tasks.classification import fields as classification_fields
from data.tasks.question_answering import task as question_answering
from data.tasks.tagging import task as tagging

ENDING = ".json"
TASKS: Mapping[str, Task] = {**glue.TASKS, **question_answering.TASKS, **tagging.TASKS}
KINDS: Mapping[str, Callable[[str, Mapping[str, Any]], Task]] = {
    "classification": classification_fields.task_from_fields,
    tagging.KIND: tagging.task_from_fields,
    question_answering.KIND: question_answering.task_from_fields,
    multiple_choice.KIND: multiple_choice.task_from_fields,
}


def get_task(name: str) -> Task:
    """The task called `name`, or the one that the file `name`, in `.json`, describes.

    Raises:
        InputError: there is none of that name; the message lists those there are.
    """
    return read_task(name) if name.endswith(ENDING) else find_task(name, TASKS)


def read_task(path: str) -> Task:
    """The task that the JSON file `path` describes; labels may still be to be found.

    Raises:
        InputError: no such file, not a JSON object, or a field that is unknown or impossible.
    """
    if not os.path.isfile(path):
        raise InputError(
            f"no such file: {path}. It should describe a task; see data/tasks/registry.py"
        )
    fields = read_json_object(path)
    kind = fields.pop("kind", "classification")
    require_one_of("kind", kind, KINDS, path)
    task = KINDS[kind](path, fields)
    if task.name in (*TASKS, "all"):
        raise InputError(
            f"{path}: the task's name, {task.name}, is another's: give it a `name` of its own"
        )
    return task
