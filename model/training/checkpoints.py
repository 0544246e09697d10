"""Training checkpoints: everything that a run needs to resume exactly where it stopped."""

import dataclasses
import json
import math
import os
import re
import shutil
from collections.abc import Mapping

import keras
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from common import files
from common.errors import InputError

FORMAT = 2  # in `state.json`; states of older versions have no format number


class DamagedStateError(ValueError):
    """A training state differs from what was saved."""


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """A training state read from the directory `path`, after `step` updates.

    `hparams` are those of the run that saved it. `arrays` are the values of `state_variables`.
    `data` identifies what the run is trained on; it is None if an older version saved the state.
    """

    path: str
    step: int
    hparams: dict
    arrays: dict[str, np.ndarray]
    data: dict | None = None

    def restore(self, model: keras.Model) -> None:
        """Sets every variable of a compiled model to this state, or none.

        Raises:
            InputError: the state belongs to another model.
        """
        variables = state_variables(model)
        arrays = self.arrays
        if arrays.keys() != variables.keys():  # an older version may have saved it
            arrays = _current_layout(_with_one_dropout(arrays, variables), model, variables)
        expected = {name: tuple(variable.shape) for name, variable in variables.items()}
        found = {name: array.shape for name, array in arrays.items()}
        names = sorted(expected | found)
        different = [name for name in names if expected.get(name) != found.get(name)]
        if different:
            name, advice = different[0], ""
            if self.data is None:
                advice = (
                    ". An older version of this project saved it: finish the run with that version,"
                    " or start a new run from its weights, with `init_checkpoint`"
                )
            raise InputError(
                f"{self.path} belongs to another model: the shape of `{name}` is "
                f"{found.get(name, 'missing')} there and {expected.get(name, 'missing')} in this "
                f"model ({len(different)} such differences){advice}"
            )
        for name, variable in variables.items():
            variable.assign(arrays[name])


class TrainingCheckpoints:
    """A run's training states by step: parameters, optimizer, step and random states.

    A state is a directory `step_N` with `state.safetensors`, and `state.json` with its hash. It is
    written under a temporary name, and renamed once all of it is on disk.

    Args:
        directory: the directory for the run's checkpoints.
        keep: how many to keep; older ones are deleted.
    """

    def __init__(self, directory: str, keep: int = 3):
        self.directory = directory
        self.keep = keep
        self.last_good: str | None = None  # the newest that this object has read or saved

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, ascending."""
        names = os.listdir(self.directory) if os.path.isdir(self.directory) else []
        found = filter(re.compile(r"step_\d+").fullmatch, names)
        return sorted(int(name.removeprefix("step_")) for name in found)

    def path(self, step: int) -> str:
        """Returns the checkpoint's directory."""
        return os.path.join(self.directory, f"step_{step}")

    def save(
        self,
        model: keras.Model,
        hparams: dict,
        data: dict | None = None,
        more_arrays: Mapping[str, np.ndarray] | None = None,
    ) -> str:
        """Writes the state of a compiled model, deletes old checkpoints, and returns its path.

        `data` identifies what the run is trained on; see `TrainingState`. `more_arrays` are saved
        with the state, and must be removed from it before it is restored.

        Raises:
            WriteError: the disk is full, or similar. Earlier checkpoints are unchanged.
        """
        step = int(model.optimizer.iterations.numpy())
        path = self.path(step)
        with files.write_errors_named(path, safetensors.SafetensorError):
            with files.atomic_directory(path) as temporary:
                description = {"format": FORMAT, "step": step, "hparams": hparams, "data": data}
                _write(temporary, model, description, more_arrays or {})
            self.last_good = path
            # Checkpoints of later steps are damaged: the run has resumed from an earlier one.
            steps = self.steps()
            later = [other for other in steps if other > step]
            older = [other for other in steps if other <= step][: -self.keep]
            for other in later + older:
                shutil.rmtree(self.path(other))
        return path

    def newest(self) -> TrainingState | None:
        """Reads the newest undamaged checkpoint; None if there are no checkpoints.

        Raises:
            InputError: all checkpoints are damaged, or the newest one cannot be read at the moment
                or was written by a newer version.
        """
        damage = []
        for step in reversed(self.steps()):
            try:
                state = _read(self.path(step), step)
            except DamagedStateError as error:
                logging.warning("damaged checkpoint, using the one before it: %s", error)
                damage.append(str(error))
            else:
                self.last_good = state.path
                return state
        if damage:
            raise InputError(
                f"every checkpoint in {self.directory} is damaged: {'; '.join(damage)}. Restore "
                "one from a copy, or delete the directory to start over"
            )
        return None

    def last_good_sentence(self) -> str:
        """Returns where the run can resume, as the end of a message."""
        if self.last_good is None:
            return "There is no checkpoint yet"
        return f"The last good checkpoint is {self.last_good}"


def _write(directory, model, description, more_arrays):
    """Writes the two files of a training state."""
    arrays = copied(state_variables(model))
    path = os.path.join(directory, "state.safetensors")
    safetensors.numpy.save_file(arrays | dict(more_arrays), path)
    with open(os.path.join(directory, "state.json"), "w", encoding="utf-8") as file:
        json.dump(description | {"sha256": files.sha256_of(path)}, file, indent=2)


def _read(directory, step):
    """Reads the training state in `directory`; any damage raises a `DamagedStateError`."""
    description_path = os.path.join(directory, "state.json")
    path = os.path.join(directory, "state.safetensors")
    try:
        with open(description_path, encoding="utf-8") as file:
            content = json.load(file)
        hparams, sha256 = dict(content["hparams"]), content["sha256"]
        if content["step"] != step:
            raise DamagedStateError(f"{description_path}: `step` is {content['step']!r}")
        if content.get("format", 1) > FORMAT:
            raise InputError(f"{directory} was saved by a newer version of this project")
        if files.sha256_of(path) != sha256:
            raise DamagedStateError(f"the hash of {path} is not the one in {description_path}")
        arrays = safetensors.numpy.load_file(path)
        return TrainingState(directory, step, hparams, arrays, content.get("data"))
    except (DamagedStateError, InputError):
        raise
    except FileNotFoundError as error:
        raise DamagedStateError(f"{error.filename}: {error.strerror}") from None
    except OSError as error:  # may be temporary, and damaged checkpoints are deleted in the end
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStateError(f"{description_path} cannot be read: {error!r}") from None
    except safetensors.SafetensorError as error:
        raise DamagedStateError(f"{path} cannot be read: {error}") from None


def state_variables(model: keras.Model) -> dict:
    """Returns every variable that the next step depends on, by a stable and unique name."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    state = {}
    for part, variables in parts.items():
        for i, variable in enumerate(variables):
            # Keras numbers random states per process, so the next process may number them
            # differently.
            path = re.sub(r"seed_generator_\d+", "seed_generator", variable.path)
            state[f"{part}/{i:04d}/{path}"] = variable
    return state


def copied(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Returns copies of the variables' values."""
    return {
        name: np.array(keras.ops.convert_to_numpy(variable.value), order="C")
        for name, variable in variables.items()
    }


def _with_one_dropout(arrays, variables):
    """Renames the arrays of a state in which each dropout had its own random state.

    Now a network has a single random state for all dropouts, which takes the value of one of the
    old ones. The new names are those of `variables`. Arrays that cannot be mapped exactly keep
    their names.
    """
    old = sorted(name for name in arrays if name.startswith("model/"))
    dropouts = [name for name in old if "/seed_generator/" in name]
    if not dropouts:
        return arrays
    others = iter([name for name in old if name not in dropouts])
    current = {name: array for name, array in arrays.items() if name not in old}
    for name in (name for name in variables if name.startswith("model/")):
        if "dropout_random/" in name:
            current[name] = arrays[dropouts.pop()]
        elif source := next(others, None):
            is_same = source.split("/", 2)[2] == name.split("/", 2)[2]
            current[name if is_same else source] = arrays[source]
    return current | {name: arrays[name] for name in others}


def _current_layout(arrays, model, variables):
    """A state's arrays by the names of `variables`, from any earlier layout of the optimizer.

    In the oldest states, each moment is one vector over all trainable variables, in their order.
    In later ones, the optimizer's variables also include the weights. Arrays that cannot be mapped
    exactly keep their names.
    """
    old = {name.split("/", 2)[2]: name for name in arrays if name.startswith("optimizer/")}
    current = {name: a for name, a in arrays.items() if not name.startswith("optimizer/")}
    optimizer, sizes = model.optimizer, [math.prod(v.shape) for v in model.trainable_variables]
    flat = {}
    for moment in (f"{optimizer.name}/first_moment", f"{optimizer.name}/second_moment"):
        if moment in old and arrays[old[moment]].shape == (sum(sizes),):
            parts = np.split(arrays[old.pop(moment)], np.cumsum(sizes)[:-1])
            for i, group in enumerate(optimizer.groups):
                flat[f"{moment}_{i}"] = np.concatenate([parts[j] for j in group])
    for name, variable in variables.items():
        path = name.split("/", 2)[2]
        if not name.startswith("optimizer/"):
            old.pop(path, None)
        elif path in old:
            current[name] = arrays[old.pop(path)]
        elif path in flat:
            current[name] = flat[path]
        elif path.endswith("/skipped_steps"):  # older versions did not count them
            current[name] = np.zeros(variable.shape, variable.dtype)
    return current | {name: arrays[name] for name in old.values()}


def not_finite(model: keras.Model) -> str | None:
    """Returns the path of a weight with an infinity or a NaN; None if all are finite."""
    for variable in model.trainable_variables:
        if not np.isfinite(keras.ops.convert_to_numpy(variable.value)).all():
            return variable.path
    return None
