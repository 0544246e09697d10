"""Training states on the disk: what a run needs to go on exactly where it was."""

import dataclasses
import json
import os
import re
import shutil

import keras
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from common import files
from common.errors import InputError


class DamagedStateError(ValueError):
    """A training state that is not what was saved."""


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """A training state as read from the disk.

    Args:
        path: its directory.
        step: updates done.
        hparams: of the run that saved it.
        arrays: every variable's value, by a stable name.
    """

    path: str
    step: int
    hparams: dict
    arrays: dict[str, np.ndarray]

    def restore(self, model: keras.Model) -> None:
        """Sets every variable of a compiled model to this state, or none.

        Raises:
            InputError: it is of another model.
        """
        variables = state_variables(model)
        expected = {name: tuple(variable.shape) for name, variable in variables.items()}
        found = {name: array.shape for name, array in self.arrays.items()}
        if expected != found:
            differing = sorted(
                name for name in expected | found if expected.get(name) != found.get(name)
            )
            name = differing[0]
            raise InputError(
                f"{self.path} is of another model: {name} is {found.get(name, 'missing')} there "
                f"and {expected.get(name, 'missing')} here ({len(differing)} such differences)"
            )
        for name, variable in variables.items():
            variable.assign(self.arrays[name])


class TrainingCheckpoints:
    """A run's training states: parameters, optimizer, step and random states, by step.

    Each is a directory `step_N` with `state.safetensors` and `state.json`, which has a hash of the
    former. It is written under another name and renamed when all of it is on the disk.

    Args:
        directory: of the run's checkpoints.
        keep: how many to keep; older ones are deleted.
    """

    def __init__(self, directory: str, keep: int = 3):
        self.directory = directory
        self.keep = keep
        self.last_good: str | None = None
        """The newest that was read, or saved, by this object."""

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        return sorted(int(name.removeprefix("step_")) for name in self._names(r"step_\d+"))

    def path(self, step: int) -> str:
        """The directory of the checkpoint of `step`."""
        return os.path.join(self.directory, f"step_{step}")

    def save(self, model: keras.Model, hparams: dict) -> str:
        """Writes the state of a compiled model, and deletes what is older than the last `keep`.

        Returns:
            The checkpoint's path.

        Raises:
            WriteError: the disk is full, or similar. What was there before is as it was.
        """
        step = int(model.optimizer.iterations.numpy())
        path = self.path(step)
        with files.write_errors_named(path, safetensors.SafetensorError):
            for name in self._names(r"step_\d+\.(tmp|old)"):  # of a killed process
                shutil.rmtree(os.path.join(self.directory, name))
            with files.atomic_directory(path) as temporary:
                _write(temporary, model, {"step": step, "hparams": hparams})
            self.last_good = path
            # Later ones than this were damaged: the run went on from before them.
            steps = self.steps()
            later = [other for other in steps if other > step]
            older = [other for other in steps if other <= step][: -self.keep]
            for other in later + older:
                shutil.rmtree(self.path(other))
        return path

    def newest(self) -> TrainingState | None:
        """Reads the newest checkpoint that is not damaged; None where there is none at all.

        Raises:
            InputError: all are damaged.
        """
        damage = []
        for step in reversed(self.steps()):
            try:
                state = _read(self.path(step), step)
            except DamagedStateError as error:
                logging.warning("damaged checkpoint, going on from the one before it: %s", error)
                damage.append(str(error))
                continue
            self.last_good = state.path
            return state
        if damage:
            raise InputError(
                f"every checkpoint in {self.directory} is damaged: {'; '.join(damage)}. Put one "
                "back from a copy, or delete the directory to begin anew"
            )
        return None

    def last_good_sentence(self) -> str:
        """Where the run can go on from, for the end of a message."""
        if self.last_good is None:
            return "There is no checkpoint yet"
        return f"The last good checkpoint is {self.last_good}"

    def _names(self, pattern):
        if not os.path.isdir(self.directory):
            return []
        return [name for name in os.listdir(self.directory) if re.fullmatch(pattern, name)]


def _write(directory, model, description):
    """Writes the two files of a training state."""
    arrays = {
        name: np.array(keras.ops.convert_to_numpy(variable.value), order="C")
        for name, variable in state_variables(model).items()
    }
    path = os.path.join(directory, "state.safetensors")
    safetensors.numpy.save_file(arrays, path)
    with open(os.path.join(directory, "state.json"), "w", encoding="utf-8") as file:
        json.dump(description | {"sha256": files.sha256_of(path)}, file, indent=2)


def _read(directory, step):
    """Reads the training state in `directory`; whatever is wrong is a DamagedStateError."""
    description_path = os.path.join(directory, "state.json")
    path = os.path.join(directory, "state.safetensors")
    try:
        with open(description_path, encoding="utf-8") as file:
            content = json.load(file)
        hparams, sha256 = dict(content["hparams"]), content["sha256"]
        if content["step"] != step:
            raise DamagedStateError(f"{description_path} is of step {content['step']!r}")
        if files.sha256_of(path) != sha256:
            raise DamagedStateError(f"{path} does not have the hash it was saved with")
        return TrainingState(directory, step, hparams, safetensors.numpy.load_file(path))
    except DamagedStateError:
        raise
    except OSError as error:
        raise DamagedStateError(f"{error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStateError(f"{description_path} cannot be read: {error!r}") from None
    except safetensors.SafetensorError as error:
        raise DamagedStateError(f"{path} cannot be read: {error}") from None


def state_variables(model: keras.Model) -> dict:
    """Every variable that the next step depends on, by a name that is stable and unique."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    state = {}
    for part, variables in parts.items():
        for i, variable in enumerate(variables):
            # Keras numbers a process's random states, which says nothing about this model.
            path = re.sub(r"seed_generator_\d+", "seed_generator", variable.path)
            state[f"{part}/{i:04d}/{path}"] = variable
    return state


def not_finite(model: keras.Model) -> str | None:
    """The path of a weight that holds an infinity or a NaN; None where all are finite."""
    for variable in model.trainable_variables:
        if not np.isfinite(keras.ops.convert_to_numpy(variable.value)).all():
            return variable.path
    return None
