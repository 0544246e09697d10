"""Where a job's numbers go: JSON lines, TensorBoard, and the services that `loggers` names.

A service is used through its own package, which finds the server, the project and the account in
its own settings, such as MLFLOW_TRACKING_URI or WANDB_MODE.
"""

import contextlib
import functools
import json
import os
from collections.abc import Mapping
from typing import Any

from absl import logging

from common import files
from common.errors import InputError

LOG_FILE = "train_log.jsonl"  # in a run's directory
IDS = "loggers.json"  # in a run's directory: the id of its run in each service


class JsonLines:
    """A file with a JSON object in each line, appended to; a failed write is a `WriteError`.

    Attributes:
        last_dropped: the last step whose lines `drop_after` dropped; 0 if there were none.
    """

    def __init__(self, path: str):
        self.path = path
        self.last_dropped = 0

    def drop_after(self, step: int) -> None:
        """Removes incomplete lines, and those of later steps, which will be logged again."""
        if not os.path.exists(self.path):
            return
        with open(self.path, encoding="utf-8") as file:
            lines = file.readlines()
        kept = []
        for text in lines:
            try:
                line = json.loads(text)
            except ValueError:
                logging.warning("%s: dropped an incomplete line: %.60r", self.path, text)
                continue
            found = line.get("step", step) if isinstance(line, dict) else step
            if found <= step:
                kept.append(text)
            else:
                self.last_dropped = max(self.last_dropped, found)
        if kept != lines:
            with files.write_errors_named(self.path):
                files.write_text(self.path, "".join(kept))

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Appends a line."""
        with files.write_errors_named(self.path), open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | dict(numbers)) + "\n")


class TensorBoard:
    """TensorBoard's event files in a directory; a failed write is a `WriteError`."""

    def __init__(self, directory: str):
        import tensorflow as tf

        self._errors = functools.partial(files.write_errors_named, directory, tf.errors.OpError)
        with self._errors():
            self._writer = tf.summary.create_file_writer(directory)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a point to the curve of each number."""
        import tensorflow as tf

        with self._errors(), self._writer.as_default(step=step):
            for name, value in numbers.items():
                tf.summary.scalar(name, value)
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class Wandb:
    """A run in Weights & Biases: a new one, or the one with `run_id`."""

    def __init__(self, title: str, settings: dict[str, Any], run_id: str | None, directory: str):
        import wandb

        self._run = wandb.init(
            name=title, config=settings, id=run_id, resume="allow", dir=directory
        )
        self.id = self._run.id

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds numbers to the history."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Waits until everything is sent."""
        self._run.finish()


class Mlflow:
    """A run of MLflow's tracking: a new one, or the one with `run_id`."""

    def __init__(self, title: str, settings: dict[str, Any], run_id: str | None, directory: str):
        import mlflow

        self._mlflow = mlflow
        self.id = mlflow.start_run(run_id=run_id, run_name=title).info.run_id
        if run_id is None:  # the parameters of a run may not change
            mlflow.log_params(settings)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a value to each metric."""
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        """Marks the run as finished."""
        self._mlflow.end_run()


SERVICES = {"wandb": Wandb, "mlflow": Mlflow}


class Loggers:
    """All loggers of a run as one.

    Once they are open, an error of a service is only a warning: it must not end the run.

    Args:
        directory: the run's, for train_log.jsonl and the ids by which services resume the run.
        tensorboard: the directory of TensorBoard's files.
        services: names of `SERVICES`.
        title, settings: the run's name and parameters in services.
        first_step: the step that a run resumes from. Later lines of train_log.jsonl are dropped.
            Those in services stay, and are not sent again. None keeps all lines.

    Raises:
        InputError: a service cannot be used, or the file of the ids is damaged.
        WriteError: nothing can be written.
    """

    def __init__(
        self,
        directory: str,
        tensorboard: str,
        services: tuple[str, ...],
        title: str,
        settings: dict[str, Any],
        first_step: int | None,
    ):
        with files.write_errors_named(directory):
            os.makedirs(directory, exist_ok=True)
        self._lines = JsonLines(os.path.join(directory, LOG_FILE))
        if first_step is not None:
            self._lines.drop_after(first_step)
        self._tensorboard = TensorBoard(tensorboard)
        self._services: dict[str, Wandb | Mlflow] = {}
        path = os.path.join(directory, IDS)
        ids = files.read_json_object(path) if os.path.exists(path) else {}
        for name in dict.fromkeys(services):
            try:
                service = SERVICES[name](title, settings, ids.get(name), directory)
            except Exception as error:  # each package has its own
                self.close()
                advice = f" To start a new run there, delete {path}" if name in ids else ""
                raise InputError(f'`loggers`: "{name}": {error}.{advice}') from error
            self._services[name] = service
            if ids.get(name) != service.id:
                ids[name] = service.id
                files.write_json(path, ids)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes a line to every logger."""
        self._lines.write(step, numbers)
        self._tensorboard.write(step, numbers)
        if step > self._lines.last_dropped:
            for name, service in self._services.items():
                with _warning(name):
                    service.write(step, numbers)

    def close(self) -> None:
        """Ends all loggers."""
        self._tensorboard.close()
        for name, service in self._services.items():
            with _warning(name):
                service.close()


@contextlib.contextmanager
def _warning(name):
    try:
        yield
    except Exception as error:  # each package has its own
        logging.warning("%s: %s", name, error)
