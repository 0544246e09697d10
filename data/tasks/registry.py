"""The built-in tasks by name, and users' own tasks, each described by a JSON file.

The file's field `kind` is a key of `KINDS`, "classification" by default. docs/finetuning.md
explains the other fields.
"""

from collections.abc import Callable, Mapping
from typing import Any

from common.fields import require, require_one_of, unknown
from common.files import read_json_object
from data.tasks import glue
from data.tasks.base import Task
from data.tasks.classification import task as classification
from data.tasks.multiple_choice import task as multiple_choice
from data.tasks.question_answering import task as question_answering
from data.tasks.tagging import task as tagging

ENDING = ".json"
TASKS: Mapping[str, Task] = {**glue.TASKS, **question_answering.TASKS, **tagging.TASKS}
KINDS: Mapping[str, Callable[[str, Mapping[str, Any]], Task]] = {
    "classification": classification.task_from_fields,
    tagging.KIND: tagging.task_from_fields,
    question_answering.KIND: question_answering.task_from_fields,
    multiple_choice.KIND: multiple_choice.task_from_fields,
}


def get_task(name: str) -> Task:
    """A built-in task by its name, or a user's own by the path of its JSON file."""
    if name.endswith(ENDING):
        return read_task(name)
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]


def read_task(path: str) -> Task:
    """The task that the JSON file `path` describes; an `InputError` names a wrong field."""
    fields = read_json_object(path)
    kind = fields.pop("kind", "classification")
    require_one_of("kind", kind, KINDS, path)
    task = KINDS[kind](path, fields)
    is_new = task.name not in (*TASKS, "all")
    require(is_new, "name", "different from the names of built-in tasks", task.name, path)
    return task
