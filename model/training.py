"""The compiled model of a pre-training run, and what the run leaves behind: log, checkpoints."""

import dataclasses
import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Callable

import keras
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging
from tqdm import tqdm

from errors import InputError
from model.config import ConvBertConfig
from model.optimizer import create_optimizer
from model.pretraining import ConvBertForPreTraining, SpecialTokens


def make_model(config, network: ConvBertConfig, special: SpecialTokens) -> ConvBertForPreTraining:
    """The compiled pre-training model, drawn from the run's seed.

    Args:
        config: the run's `PretrainingConfig`.
        network: of the discriminator.
        special: ids of the vocabulary.
    """
    keras.utils.set_random_seed(config.seed)
    model = ConvBertForPreTraining(network, config.objective(), special, seed=config.seed)
    optimizer = create_optimizer(
        config.learning_rate,
        config.num_train_steps,
        config.num_warmup_steps,
        weight_decay_rate=config.weight_decay_rate,
        lr_decay_power=config.lr_decay_power,
    )
    jit_compile = default_jit_compile() if config.jit_compile is None else config.jit_compile
    model.compile(optimizer=optimizer, jit_compile=jit_compile)
    return model


def default_jit_compile() -> bool:
    """Whether XLA pays here: always on JAX, which has nothing else; on TensorFlow with a GPU.

    On a CPU, TensorFlow's XLA was measured five to ten times slower than its kernels.
    """
    if keras.backend.backend() == "tensorflow":
        return bool(keras.distribution.list_devices("gpu"))
    return True


@dataclasses.dataclass(frozen=True)
class TrainingCheckpoints:
    """A run's training states: parameters, optimiser, step and random states, by step.

    Each is a directory `step_N` with `state.safetensors` and `state.json`; it is written under
    another name and renamed when it is complete.

    Args:
        directory: of the run's checkpoints.
        keep: how many to keep; older ones are deleted.
    """

    directory: str
    keep: int = 3

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        if not os.path.isdir(self.directory):
            return []
        matches = (re.fullmatch(r"step_(\d+)", name) for name in os.listdir(self.directory))
        return sorted(int(match[1]) for match in matches if match)

    def path(self, step: int) -> str:
        """The directory of the checkpoint of `step`."""
        return os.path.join(self.directory, f"step_{step}")

    def save(self, model: keras.Model, hparams: dict) -> str:
        """Writes the state of a compiled model, and deletes what is older than the last `keep`.

        Returns:
            The checkpoint's path.
        """
        step = int(model.optimizer.iterations)
        path, temporary = self.path(step), f"{self.path(step)}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        os.makedirs(temporary)
        arrays = {
            name: np.array(keras.ops.convert_to_numpy(variable.value), order="C")
            for name, variable in _state(model).items()
        }
        safetensors.numpy.save_file(arrays, os.path.join(temporary, "state.safetensors"))
        with open(os.path.join(temporary, "state.json"), "w", encoding="utf-8") as file:
            json.dump({"step": step, "hparams": hparams}, file, indent=2)
        for name in os.listdir(temporary):
            with open(os.path.join(temporary, name), "rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(path, ignore_errors=True)
        os.rename(temporary, path)
        for old in self.steps()[: -self.keep]:
            shutil.rmtree(self.path(old))
        return path

    def hparams(self) -> dict | None:
        """The hyper-parameters of the newest checkpoint; None where there is none."""
        if not self.steps():
            return None
        path = os.path.join(self.path(self.steps()[-1]), "state.json")
        try:
            with open(path, encoding="utf-8") as file:
                return json.load(file)["hparams"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{path}: not a checkpoint's description: {error}") from None

    def restore(self, model: keras.Model) -> int:
        """Sets a compiled model to the newest checkpoint.

        Returns:
            Its step; 0 where there is no checkpoint.

        Raises:
            InputError: the checkpoint is damaged, or of another model.
        """
        if not self.steps():
            return 0
        step = self.steps()[-1]
        path = os.path.join(self.path(step), "state.safetensors")
        try:
            arrays = safetensors.numpy.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(
                f"{path}: damaged ({error}). Delete {self.path(step)} to go on from the "
                "checkpoint before it"
            ) from None
        state = _state(model)
        expected = {name: tuple(variable.shape) for name, variable in state.items()}
        found = {name: array.shape for name, array in arrays.items()}
        if expected != found:
            differing = sorted(
                name for name in expected | found if expected.get(name) != found.get(name)
            )
            name = differing[0]
            raise InputError(
                f"{path} is of another model: {name} is {found.get(name, 'missing')} there and "
                f"{expected.get(name, 'missing')} here ({len(differing)} such differences)"
            )
        for name, variable in state.items():
            variable.assign(arrays[name])
        return step


def _state(model: keras.Model) -> dict:
    """Every variable that the next step depends on, by a name that is stable and unique."""
    parts = {"model": model.variables, "optimizer": model.optimizer.variables}
    state = {}
    for part, variables in parts.items():
        for i, variable in enumerate(variables):
            # Keras numbers a process's random states, which says nothing about this model.
            path = re.sub(r"seed_generator_\d+", "seed_generator", variable.path)
            state[f"{part}/{i:04d}/{path}"] = variable
    return state


class SaveCheckpoints(keras.callbacks.Callback):
    """Calls `save()` every `every` steps, and at the last step.

    Args:
        save: writes whatever a checkpoint consists of, and returns where.
        every: steps between two calls.
        first_step: updates done before this `fit`.
        last_step: updates done when the run is finished.
    """

    def __init__(self, save: Callable[[], str], every: int, first_step: int, last_step: int):
        super().__init__()
        self.save = save
        self.every = every
        self.step = first_step
        self.last_step = last_step

    def on_train_batch_end(self, batch, logs=None):
        """One more step is done."""
        self.step += 1
        if self.step % self.every == 0 or self.step == self.last_step:
            _ = self.model  # on JAX, this brings the variables up to date
            tqdm.write(f"step {self.step}: saved {self.save()}", file=sys.stderr)


class TrainingLog(keras.callbacks.Callback):
    """A progress bar, a JSON line every `every` steps, and the same numbers to `write_scalars`.

    A line has the means since the line before it; the first one is step 1's alone. Tokens per
    second count every place of a batch, padding included.

    Args:
        path: of the JSONL file, appended to. Lines from `first_step` on are dropped first: a
            resumed run writes them again.
        write_scalars: called with (step, {name: value}); TensorBoard's part.
        tokens_per_step: B · T.
        every: steps between two lines.
        first_step: updates done before this `fit`.
        last_step: updates done when the run is finished.
    """

    def __init__(
        self,
        path: str,
        write_scalars: Callable[[int, dict], None],
        *,
        tokens_per_step: int,
        every: int,
        first_step: int,
        last_step: int,
    ):
        super().__init__()
        self.path = path
        self.write_scalars = write_scalars
        self.tokens_per_step = tokens_per_step
        self.every = every
        self.step = self.logged_step = first_step
        self.last_step = last_step
        self.started = time.monotonic()
        drop_lines_after(path, first_step)

    def on_train_begin(self, logs=None):
        """The bar starts where the run does."""
        self.bar = tqdm(
            total=self.last_step,
            initial=self.step,
            desc="pre-training",
            unit="step",
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )
        self.logged_time = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """One more step is done."""
        self.step += 1
        self.bar.update(1)
        first = batch == 0
        if first or self.step % self.every == 0 or self.step == self.last_step:
            self._write_line(logs)
        if first:
            seconds = time.monotonic() - self.started
            tqdm.write(f"first step after {seconds:.1f} s", file=sys.stderr)

    def _write_line(self, logs):
        now = time.monotonic()
        tokens = (self.step - self.logged_step) * self.tokens_per_step
        line = {"step": self.step} | {name: round(float(v), 6) for name, v in logs.items()}
        line["learning_rate"] = self.model.optimizer.learning_rate_at(self.step - 1)
        line["tokens_per_second"] = round(tokens / (now - self.logged_time), 1)
        line["seconds"] = round(now - self.started, 1)
        line["peak_memory_mb"] = peak_memory_mb()
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        names = ("loss", "mlm_accuracy", "rtd_auc", "rtd_recall", "tokens_per_second")
        self.bar.set_postfix({name: f"{line[name]:.4g}" for name in names if name in line})
        self.write_scalars(self.step, {k: v for k, v in line.items() if k != "step"})
        self.model.reset_metrics()
        self.logged_step, self.logged_time = self.step, now

    def on_train_end(self, logs=None):
        """The bar stays where it got to."""
        self.bar.close()


def drop_lines_after(path: str, step: int) -> None:
    """Removes from a JSONL log the lines of later steps, and a last line cut in half."""
    if not os.path.exists(path):
        return
    kept = []
    with open(path, encoding="utf-8") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                logging.warning("%s: dropped a line that is not JSON: %.60r", path, text)
                continue
            if line["step"] <= step:
                kept.append(text)
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(kept)


def peak_memory_mb() -> int:
    """The most memory this process has held, in MB (ru_maxrss is in kB, on macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1_000_000 if sys.platform == "darwin" else 1000)
