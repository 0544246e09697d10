"""The base of all pipelines: loading a saved model, checking texts, and running the network."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from absl import logging

from common import hub
from common.errors import InputError
from common.fields import require, require_one_of, unknown
from data import ConvBertTokenizer
from data.tasks.batching import Arrays, Features, gather_outputs
from data.tasks.examples import parse_text
from data.tokenizer.saved_files import check_vocab_size
from data.tokenizer.tokenizer_config import CONFIG_FILE, stated_max_length
from model import ConvBertConfig, adaptation
from model.backends import devices
from model.predictor import Predictor
from model.weights import pretrained
from pipelines.saved import find_architecture

# Without XLA, one batch does not keep all cores of a CPU busy.
BATCHES_AT_ONCE = 2
# How many texts are tokenized and sorted by length together.
TEXTS_AT_ONCE = 1024


class Pipeline:
    """A saved model with its tokenizer, which reads at most `max_seq_length` tokens in a row.

    The model is of the class `model_class`; the tokenizer has the model's vocabulary.

    All methods that predict take the arguments `batch_size` and `errors`. A text that is empty or
    not a string raises an `InputError`, or is left out with `errors="skip"`.
    """

    model_class: ClassVar[Any]
    what: ClassVar[str] = ""  # the model in words, for errors; "" accepts any class of model
    # Whether padding never changes an output, however the model was trained.
    always_masks_padding: ClassVar[bool] = False
    # Arguments of the class that fine-tuning saves in `task_specific_params`, under `task_kind`.
    saved_arguments: ClassVar[tuple[str, ...]] = ()
    task_kind: ClassVar[str] = ""

    def __init__(self, model: Any, tokenizer: ConvBertTokenizer, max_seq_length: int):
        # Room for [CLS], one token from each of two texts, and two [SEP].
        check_count("max_seq_length", max_seq_length, least=5)
        self.model, self.tokenizer, self.max_seq_length = model, tokenizer, max_seq_length
        self._compile()

    def _compile(self):
        """Makes the compiled functions, which cannot be pickled."""
        self._predictor = Predictor(self.network)

    @property
    def network(self) -> Any:
        """The network that computes the outputs for a batch: the model, or a part of it."""
        return self.model

    def __getstate__(self):
        """All but the compiled functions, for `pickle` and `copy`."""
        compiled = ("_predictor", "_token_predictor")
        return {name: value for name, value in vars(self).items() if name not in compiled}

    def __setstate__(self, state):
        vars(self).update(state)
        self._compile()

    @classmethod
    def from_pretrained(
        cls,
        name_or_directory: str | os.PathLike,
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        dtype: Any = None,
        **options: Any,
    ) -> Self:
        """Loads a model that this project or transformers saved.

        Args:
            name_or_directory: a directory, or a name on the Hugging Face hub.
            revision, cache_dir, local_files_only: see `hub.resolve`.
            dtype: a Keras dtype policy, as for the model's `from_pretrained`.
            **options: further arguments of the class. They override those saved by fine-tuning.

        Raises:
            InputError: the model does not exist, is of another kind or is damaged, or an option is
                impossible.
        """
        directory = hub.resolve(name_or_directory, revision, cache_dir, local_files_only)
        if cls.what:
            find_architecture(directory, [cls.model_class.architecture], cls.what)
        source = pretrained.read(directory)
        cls.check_tensors(source, directory)
        changes = {"mask_padding": True} if cls.always_masks_padding else {}
        model = cls.model_class.from_source(source, dtype=dtype, **changes)
        config, tokenizer = model.config, ConvBertTokenizer.from_pretrained(directory)
        check_vocab_size(directory, tokenizer.vocab_size, config.vocab_size)
        longest = config.max_position_embeddings
        stated = stated_max_length(pathlib.Path(directory) / CONFIG_FILE) or longest
        options = cls._saved_options(config) | options
        return cls(model, tokenizer, min(stated, longest), **options)

    @classmethod
    def check_tensors(cls, source: pretrained.ModelFiles, directory: str) -> None:
        """Raises an `InputError` if the model's files lack what the class needs."""

    @classmethod
    def _saved_options(cls, config):
        """The arguments that fine-tuning saved in config.json, where others may add fields."""
        saved = (config.task_specific_params or {}).get(cls.task_kind, {})
        source = "config.json, `task_specific_params`"
        require(isinstance(saved, dict), cls.task_kind, "an object", saved, source)
        for name in saved.keys() - set(cls.saved_arguments):
            error = unknown("field", name, cls.saved_arguments, f"{source}, `{cls.task_kind}`")
            logging.warning("%s. The field is ignored", error)
        return {name: value for name, value in saved.items() if name in cls.saved_arguments}

    def compute_outputs(self, features: Features, batch_size: int) -> Arrays:
        """The network's outputs for all examples; see the function `compute_outputs`.

        Raises:
            InputError: this process was forked after the model was loaded, a batch does not fit
                into the memory, or an output is not finite.
        """
        if self._predictor.process != os.getpid():  # TensorFlow would wait forever for threads
            raise InputError(
                "the model was loaded before this process was forked, so it cannot run here: load "
                "it in this process, or start processes with the method `spawn`"
            )
        if self._predictor.state != adaptation.state(self.network.encoder()):
            self._compile()  # it was quantized, or got low-rank updates
        # XLA compiles for each number of rows, so a few texts are not padded to a whole batch.
        batch_size = min(batch_size, 1 << (len(features) - 1).bit_length())
        return compute_outputs(self._predictor, features, batch_size)

    def report_device(self) -> None:
        """Prints a line about the device, the precision and XLA; see `devices.report`."""
        policy = self.network.encoder().dtype_policy
        devices.report(policy.name, self._predictor.jit_compile)

    def warn_of_cut(self, num_cut: int, num_texts: int, effect: str = " and have been cut") -> None:
        """Warns about texts that were too long, if there are any."""
        if num_cut:
            message = "%d of %d texts were longer than %d tokens%s"
            logging.warning(message, num_cut, num_texts, self.max_seq_length, effect)


def label_names(config: ConvBertConfig) -> tuple[str, ...]:
    """A model's labels, or LABEL_0, LABEL_1 and so on if they have no names."""
    return config.id2label or tuple(f"LABEL_{i}" for i in range(config.num_labels))


class Answers(list):
    """An answer for each input; None for one that was skipped, with the reason in `errors`."""

    def __init__(self, answers: Iterable[Any], errors: dict[int, str]):
        super().__init__(answers)
        self.errors = errors


class Checked(NamedTuple):
    """The inputs of a pipeline. A wrong row is None; `errors` has its error under its index."""

    rows: list[Any]
    errors: dict[int, str]

    @property
    def good(self) -> list[Any]:
        """The rows without an error."""
        return [row for row in self.rows if row is not None]

    def columns(self) -> list[list[Any]]:
        """The columns of the good rows; there must be at least one good row."""
        return list(map(list, zip(*self.good, strict=True)))

    def spread(self, found: Iterable[Any]) -> Iterator[Any]:
        """Yields what was found for each good row, and None for the others."""
        found = iter(found)
        for row in self.rows:
            yield None if row is None else next(found)
        next(found, None)  # runs the generator to its end, where it may log a warning

    def answers(self, found: Iterable[Any]) -> Answers:
        """See `spread`."""
        return Answers(self.spread(found), self.errors)

    def spread_rows(self, array: np.ndarray) -> np.ndarray:
        """The rows of `array` [good, …], and rows of NaN in place of the others."""
        spread = np.full((len(self.rows), *array.shape[1:]), np.nan, array.dtype)
        spread[[row is not None for row in self.rows]] = array
        return spread


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raises an `InputError` unless an argument is an integer of at least `least`."""
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    require(is_integer and value >= least, name, f"an integer of at least {least}", value)


def as_list(items: Any, name: str) -> list[Any]:
    """The argument `name` as a list.

    Tables, strings and sets raise an `InputError`: as lists, they would be the names of their
    columns, their characters, and their items in a random order.
    """
    is_other = isinstance(items, str | bytes | Mapping | Set) or hasattr(items, "columns")
    try:
        if not is_other:
            return list(iter(items))
    except TypeError:
        pass
    raise InputError(
        f'`{name}` must be a list of texts, such as [text] or a column of a table, df["text"]. '
        f"Received: {type(items).__name__}"
    )


def check_texts(texts: Sequence[str], name: str) -> list[str]:
    """The texts of the argument `name` as a list; an empty text is an `InputError`."""
    return [parse_text(text, f"{name}[{i}]") for i, text in enumerate(as_list(texts, name))]


def check_inputs(
    batch_size: int,
    errors: str,
    parse: Callable[..., Any] | None = None,
    **inputs: Any,
) -> Checked:
    """Checks the arguments of a pipeline.

    Args:
        batch_size: a positive integer.
        errors: "raise", or "skip" to leave out wrong rows.
        parse: makes a row from its index and an item of each list. By default, a row is the list
            of these items, which must be texts.
        **inputs: lists of the same length, by the argument's name; `text_pairs` may be None.
    """
    check_count("batch_size", batch_size)
    require_one_of("errors", errors, ("raise", "skip"))
    if inputs.get("text_pairs", ()) is None:
        del inputs["text_pairs"]
    lists = {name: as_list(given, name) for name, given in inputs.items()}
    (first, count), *others = ((name, len(items)) for name, items in lists.items())
    for name, other in others:
        if other != count:
            raise InputError(f"{count} `{first}`, but {other} `{name}`")

    def texts_of(index, *items):
        names = (f"{name}[{index}]" for name in lists)
        return list(map(parse_text, items, names))

    rows, problems = [], {}
    for index, items in enumerate(zip(*lists.values(), strict=True)):
        try:
            rows.append((parse or texts_of)(index, *items))
        except InputError as error:
            if errors == "raise":
                raise
            rows.append(None)
            problems[index] = str(error)
    if problems:
        example = next(iter(problems.values()))
        logging.warning("%d of %d inputs are skipped: %s, …", len(problems), count, example)
    return Checked(rows, problems)


def chunks(texts: Sequence[str]) -> Iterator[slice]:
    """Slices of at most `TEXTS_AT_ONCE` texts."""
    for begin in range(0, len(texts), TEXTS_AT_ONCE):
        yield slice(begin, begin + TEXTS_AT_ONCE)


def compute_outputs(model: Any, features: Features, batch_size: int) -> Arrays:
    """A compiled model's outputs for all examples, in order; see `gather_outputs`."""
    smaller = "use a smaller batch (--batch-size, or `predict_batch_size` of fine-tuning)"
    with devices.lack_of_memory_explained(f"a batch of {batch_size} rows", smaller):
        outputs = gather_outputs(
            features,
            model.predict_on_batch,
            model.token_outputs,
            batch_size,
            pad_to_max=not model.config.mask_padding,
            few_shapes=model.few_shapes,
            num_threads=1 if model.jit_compile else BATCHES_AT_ONCE,
        )
    for array in outputs.values() if isinstance(outputs, dict) else [outputs]:
        if not np.isfinite(array).all():
            raise InputError(
                "the model's outputs are not finite numbers: its training diverged. Train with a "
                "lower `learning_rate`"
            )
    return outputs
