"""ELECTRA-style pre-training: mask, generate, corrupt, discriminate, all on the device."""

import dataclasses
import math
import os

import keras
from keras import ops

from common.errors import InputError
from common.fields import override
from model.backends import distribution
from model.config import ConvBertConfig, Objective, as_config, max_predictions_per_seq
from model.convbert import INPUT_NAMES, ConvBertModel, TrainableModel, read_inputs
from model.heads import ConvBertForMaskedLM
from model.layers import fused
from model.layers.layers import DiscriminatorHead, MaskedLMHead
from model.weights import pretrained

MASK_SHARE = 0.85  # of the masked positions become [MASK]; the rest keep their token
EPSILON = 1e-6  # in the denominators of the losses, as the original has it


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that masking must know; the defaults are BERT's uncased vocabulary."""

    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103


def gather_positions(sequences, positions):
    """[B, T, H] or [B, T] and positions [B, P] → [B, P, H] or [B, P]."""
    if len(sequences.shape) == 3:
        positions = positions[:, :, None]
    return ops.take_along_axis(sequences, positions, axis=1)


def replace_positions(sequences, positions, weights, replacements):
    """`sequences` [B, T] with `replacements` [B, P] at `positions` wherever `weights` is not 0.

    Positions are distinct where the weight is not 0. A sum over one-hot rows needs no scatter,
    whose order of writing is free on some devices; ids are exact in float32.
    """
    chosen = ops.one_hot(positions, ops.shape(sequences)[1], dtype="float32")  # [B, P, T]
    chosen *= ops.cast(weights > 0, "float32")[:, :, None]
    new = ops.sum(chosen * ops.cast(replacements, "float32")[:, :, None], axis=1)
    return ops.where(ops.sum(chosen, axis=1) > 0, ops.cast(new, sequences.dtype), sequences)


def mask_tokens(inputs: dict, mask_prob: float, special: SpecialTokens, seed) -> dict:
    """Chooses the positions to predict and hides most of them behind [MASK].

    Without replacement: the original draws with replacement and then averages the ids of
    duplicates (reference: `mask` in the release's pretrain_helpers.py).

    Args:
        inputs: `input_ids`, `input_mask`, `segment_ids`, int32 [B, T].
        mask_prob: share of the real tokens, [CLS] and [SEP] counted, that is masked.
        special: these tokens and padding are never chosen.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        `inputs` and `masked_input_ids` [B, T]; `masked_lm_positions`, `masked_lm_ids` int32 and
        `masked_lm_weights` float32 [B, P], where the weight is 1 for a chosen position and 0 for
        a place left over.
    """
    input_ids, input_mask = inputs["input_ids"], inputs["input_mask"]
    count = max_predictions_per_seq(input_ids.shape[1], mask_prob)
    candidates = input_mask > 0
    for token in dataclasses.astuple(special):
        candidates = ops.logical_and(candidates, input_ids != token)
    tokens = ops.cast(ops.sum(input_mask, axis=1), "float32")
    wanted = ops.clip(ops.round(tokens * mask_prob), 1, count)
    wanted = ops.minimum(wanted, ops.sum(ops.cast(candidates, "float32"), axis=1))
    noise = distribution.uniform_rows(ops.shape(input_ids), seed)
    _, positions = ops.top_k(ops.where(candidates, noise, -1.0), count)
    positions = ops.cast(positions, "int32")
    weights = ops.cast(ops.arange(count, dtype="float32")[None] < wanted[:, None], "float32")
    positions *= ops.cast(weights, "int32")
    hidden = distribution.uniform_rows(ops.shape(positions), seed) < MASK_SHARE
    hidden = weights * ops.cast(hidden, "float32")
    mask_ids = ops.full_like(positions, special.mask_id)
    return inputs | {
        "masked_input_ids": replace_positions(input_ids, positions, hidden, mask_ids),
        "masked_lm_positions": positions,
        "masked_lm_ids": gather_positions(input_ids, positions) * ops.cast(weights, "int32"),
        "masked_lm_weights": weights,
    }


def sample_tokens(logits, temperature: float, uniforms, disallowed=None):
    """One token a position, drawn from softmax(logits / temperature).

    One uniform number picks the place in the running sum of the probabilities. It is found in two
    stages, among about sqrt(V) blocks and then inside one: short sums lose little to rounding, and
    cost little.

    Args:
        logits: float32 [B, P, V].
        temperature: above 0.
        uniforms: float32 [B, P] in [0, 1].
        disallowed: int32 [B, P], a token that must not be drawn, or None.

    Returns:
        int32 [B, P], without gradient; never a token whose probability is 0 in float32.
    """
    logits = ops.stop_gradient(logits)
    vocab_size = logits.shape[2]
    if temperature != 1.0:
        logits = logits / temperature
    if disallowed is not None:
        logits -= 1000.0 * ops.one_hot(disallowed, vocab_size, dtype=logits.dtype)
    probabilities = ops.softmax(logits)
    width = math.isqrt(vocab_size - 1) + 1  # blocks, and rows of a block
    padding = ((0, 0), (0, 0), (0, width * width - vocab_size))
    shape = (*ops.shape(logits)[:2], width, width)
    # Block k holds the tokens k, k + width, k + 2 · width, …: then the sum over a block runs along
    # memory, and a block is gathered along the last axis.
    probabilities = ops.reshape(ops.pad(probabilities, padding), shape)
    sums = ops.sum(probabilities, axis=2)
    block, rest = _pass_running_sum(sums, uniforms * ops.sum(sums, axis=-1))
    inside = ops.take_along_axis(probabilities, block[:, :, None, None], axis=-1)[..., 0]
    row, _ = _pass_running_sum(inside, rest)
    return row * width + block


def _pass_running_sum(values, targets):
    """Where the running sum of `values` [B, P, n] first exceeds `targets` [B, P].

    Rounding may put the target beyond the whole sum, and sums in parallel are not quite monotone:
    so a place with value 0 is never taken, and the last other one stands in for none.

    Returns:
        int32 [B, P], the place; float32 [B, P], how far the target is beyond what precedes it.
    """
    count = values.shape[-1]
    places = ops.arange(count, dtype="int32")
    possible = values > 0
    sums = ops.cumsum(values, axis=-1)
    passed = ops.logical_and(possible, sums > targets[:, :, None])
    first = ops.min(ops.where(passed, places, count), axis=-1)
    place = ops.minimum(first, ops.max(ops.where(possible, places, 0), axis=-1))
    at_place = places == place[:, :, None]
    before = ops.sum(ops.where(at_place, sums - values, 0.0), axis=-1)
    return place, targets - before


def weighted_mean(values, weights, total=None):
    """Mean of `values` under `weights`, as the original computes it.

    Args:
        values: of any shape.
        weights: of the same shape.
        total: the sum of the weights where `values` is but a part of the batch; the results of
            the parts then add up to the batch's.
    """
    total = ops.sum(weights) if total is None else total
    return ops.sum(values * weights) / (total + EPSILON)


def _from_dict(kind, value):
    """An instance of the dataclass `kind`: as given, from a saved dict, or the default."""
    return value if isinstance(value, kind) else override(kind(), value or {})


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForPreTraining(TrainableModel):
    """Generator and discriminator with their losses; `fit` on batches of records trains both.

    Compile it with an optimizer and nothing else: the objective is part of the model.

    Args:
        config: the discriminator's `ConvBertConfig`.
        objective: an `Objective`; None is ELECTRA's.
        special: ids of the vocabulary's [CLS], [SEP] and [MASK]; None is BERT's uncased one.
        seed: of masking and sampling.
        gradient_accumulation_steps: `fit` computes the gradient of a batch in so many parts, one
            after the other: less memory, and the same update but for rounding.

    Call arguments:
        inputs: `input_ids`, `input_mask`, `segment_ids`, int32 [B, T].

    Returns:
        A dict: `loss`; of the generator `mlm_loss`, `mlm_predictions`, `masked_lm_ids`,
        `masked_lm_weights` ([B, P]); of the discriminator, unless the objective is masked language
        modeling, `rtd_loss`, `sampled_ids` [B, P], `rtd_logits`, `is_replaced` and `rtd_weights`
        [B, T].
    """

    def __init__(
        self,
        config: ConvBertConfig | dict,
        objective: Objective | dict | None = None,
        special: SpecialTokens | dict | None = None,
        seed: int = 0,
        gradient_accumulation_steps: int = 1,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = as_config(config)
        self.objective = _from_dict(Objective, objective)
        self.special = _from_dict(SpecialTokens, special)
        self.seed = seed
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.train_random = keras.random.SeedGenerator(seed, name="train_random")
        self.eval_random = keras.random.SeedGenerator(seed + 1, name="eval_random")
        self.generator = self.discriminator = self.masked_lm_head = self.discriminator_head = None
        self._make_networks()
        self._make_metrics()
        self.built = True

    def _make_networks(self):
        """Creates `generator`, `discriminator` and their heads, as the objective needs them."""
        config, objective, policy = self.config, self.objective, self.dtype_policy
        if not objective.electra_objective:
            self.generator = ConvBertForMaskedLM(config, name="electra", dtype=policy)
            return
        self.discriminator = ConvBertModel(config, name="electra", dtype=policy)
        self.discriminator_head = DiscriminatorHead(
            config, name="discriminator_predictions", dtype=policy
        )
        self.discriminator_head.build((None, None, config.hidden_size))
        if objective.has_separate_generator:
            smaller = config.generator(objective.generator_hidden_size, objective.generator_layers)
            embeddings = self.discriminator.embeddings
            if objective.untied_generator_embeddings:
                smaller = dataclasses.replace(smaller, embedding_size=smaller.hidden_size)
                embeddings = None
            self.generator = ConvBertForMaskedLM(
                smaller, embeddings, name="generator", dtype=policy
            )
        elif not objective.uniform_generator:
            self.masked_lm_head = MaskedLMHead(config, name="generator_predictions", dtype=policy)
            self.masked_lm_head.build((None, None, config.hidden_size))

    def _make_metrics(self):
        metrics = keras.metrics
        self.mlm_metrics = [metrics.Mean("mlm_loss"), metrics.Mean("mlm_accuracy")]
        self.rtd_metrics = []
        if self.objective.electra_objective:
            self.rtd_metrics = [
                metrics.Mean("sampled_mlm_accuracy"),
                metrics.Mean("rtd_loss"),
                metrics.AUC(name="rtd_auc"),
                metrics.BinaryAccuracy("rtd_accuracy"),
                metrics.Precision(name="rtd_precision"),
                metrics.Recall(name="rtd_recall"),
            ]

    def call(self, inputs, training=False):
        """See the class."""
        return self.outputs_of(*self.prepare(inputs, training), training)

    def prepare(self, inputs: dict, training: bool = False) -> tuple[dict, dict]:
        """All that is drawn or summed over the whole batch, before any network runs.

        Args:
            inputs: see the class.
            training: draws come from training's random state, or from evaluation's.

        Returns:
            What `mask_tokens` returns, and `sampling` float32 [B, P] in [0, 1); and the sums of
            the weights of each loss over the whole batch, on all devices.
        """
        random = self.train_random if training else self.eval_random
        ids, mask, segments = read_inputs(inputs)
        mask = ops.ones_like(ids) if mask is None else mask
        segments = ops.zeros_like(ids) if segments is None else segments
        inputs = dict(zip(INPUT_NAMES, (ids, mask, segments), strict=True))
        masked = mask_tokens(inputs, self.objective.mask_prob, self.special, random)
        weights = masked["masked_lm_weights"]
        masked["sampling"] = distribution.uniform_rows(ops.shape(weights), random)
        totals = ops.stack([ops.sum(weights), ops.sum(ops.cast(mask, "float32"))])
        totals = distribution.sum_over_replicas(totals)
        return masked, {"mlm": totals[0], "rtd": totals[1]}

    def outputs_of(self, masked: dict, totals: dict, training: bool = False) -> dict:
        """The outputs of `call` for some rows of what `prepare` returned.

        Each loss is these rows' share of the whole batch's.
        """
        outputs = self.generate(masked, training, totals["mlm"])
        if self.objective.electra_objective:
            sampled = sample_tokens(
                outputs["mlm_logits"],
                self.objective.temperature,
                masked["sampling"],
                masked["masked_lm_ids"] if self.objective.disallow_correct else None,
            )
            outputs |= self.discriminate(masked, sampled, training, totals["rtd"])
        del outputs["mlm_logits"]  # [B, P, V]: the largest array of the step, and no metric's
        return outputs | {"loss": self.total_loss(outputs)}

    def total_loss(self, outputs: dict):
        """The weighted sum of the losses in `outputs`, a scalar."""
        loss = self.objective.gen_weight * outputs["mlm_loss"]
        if "rtd_loss" in outputs:
            loss += self.objective.disc_weight * outputs["rtd_loss"]
        return loss

    def generate(self, masked: dict, training: bool = False, total=None) -> dict:
        """The generator's predictions for a batch of `mask_tokens`, and their loss.

        `total` is `weighted_mean`'s, here and in `discriminate`.
        """
        logits = self._generator_logits(masked, training)
        targets, weights = masked["masked_lm_ids"], masked["masked_lm_weights"]
        losses = fused.cross_entropy(logits, targets)
        return {
            "mlm_logits": logits,
            "mlm_loss": weighted_mean(losses, weights, total),
            "mlm_predictions": ops.cast(ops.argmax(logits, axis=-1), "int32"),
            "masked_lm_ids": targets,
            "masked_lm_weights": weights,
        }

    def _generator_logits(self, masked, training):
        """Float32 [B, P, V]."""
        positions = masked["masked_lm_positions"]
        if self.objective.uniform_generator:
            return ops.zeros((*ops.shape(positions), self.config.vocab_size), dtype="float32")
        inputs = {name: masked[name] for name in INPUT_NAMES} | {
            "input_ids": masked["masked_input_ids"]
        }
        if self.generator is None:  # one encoder is both
            hidden = gather_positions(self.discriminator(inputs, training=training), positions)
            return self.masked_lm_head(hidden, self.discriminator.embeddings.word_embeddings)
        hidden = self.generator.convbert(inputs, training=training)
        return self.generator.predict_tokens(gather_positions(hidden, positions))

    def discriminate(self, masked: dict, sampled_ids, training: bool = False, total=None) -> dict:
        """The discriminator's verdict on the batch with `sampled_ids` [B, P] put in."""
        corrupted = replace_positions(
            masked["input_ids"],
            masked["masked_lm_positions"],
            masked["masked_lm_weights"],
            sampled_ids,
        )
        is_replaced = ops.cast(corrupted != masked["input_ids"], "float32")
        inputs = {name: masked[name] for name in INPUT_NAMES} | {"input_ids": corrupted}
        logits = self.discriminator_head(self.discriminator(inputs, training=training))
        weights = ops.cast(masked["input_mask"], "float32")
        # log(1 + exp(logits)) - logits * labels, in the form that cannot overflow
        losses = ops.relu(logits) - logits * is_replaced + ops.log1p(ops.exp(-ops.abs(logits)))
        return {
            "sampled_ids": sampled_ids,
            "rtd_logits": logits,
            "rtd_loss": weighted_mean(losses, weights, total),
            "is_replaced": is_replaced,
            "rtd_weights": weights,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The scalar that `fit` minimizes; the records carry no labels, so `y` is None."""
        return y_pred["loss"]

    @property
    def metrics(self):
        """All metrics, so that `fit` and `evaluate` reset them."""
        return [*super().metrics, *self.mlm_metrics, *self.rtd_metrics]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of the generator and, over real tokens, of the discriminator."""
        mlm_loss, mlm_accuracy = self.mlm_metrics
        targets, weights = y_pred["masked_lm_ids"], y_pred["masked_lm_weights"]
        mlm_loss.update_state(distribution.sum_over_replicas(y_pred["mlm_loss"]))
        mlm_accuracy.update_state(
            ops.cast(y_pred["mlm_predictions"] == targets, "float32"), sample_weight=weights
        )
        if self.rtd_metrics:
            sampled_accuracy, rtd_loss, *verdicts = self.rtd_metrics
            sampled = ops.cast(y_pred["sampled_ids"] == targets, "float32")
            sampled_accuracy.update_state(sampled, sample_weight=weights)
            rtd_loss.update_state(distribution.sum_over_replicas(y_pred["rtd_loss"]))
            labels, weights = y_pred["is_replaced"], y_pred["rtd_weights"]
            probabilities = ops.sigmoid(y_pred["rtd_logits"])
            for metric in verdicts:
                metric.update_state(
                    ops.reshape(labels, (-1, 1)),
                    ops.reshape(probabilities, (-1, 1)),
                    sample_weight=ops.reshape(weights, (-1,)),
                )
        return self.get_metrics_result()

    def exact_logs(self, logs: dict) -> dict:
        """The metrics so far; `logs`, what Keras hands to callbacks, is a mean over replicas."""
        return self.get_metrics_result() if distribution.is_replicated(self) else logs

    def fit(self, *args, **kwargs):
        """Keras's `fit`."""
        distribution.separate_random_states(self, [self.train_random, self.eval_random])
        return super().fit(*args, **kwargs)

    def train_step(self, *state_and_data):
        """Keras's step of its backend, in parts where the gradient is accumulated."""
        if self.gradient_accumulation_steps == 1:
            return super().train_step(*state_and_data)
        *state, data = state_and_data
        batch, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return distribution.train_step_in_parts(self, *state, batch)

    @property
    def part_outputs(self) -> dict[str, str]:
        """Of the outputs of `outputs_of` those that a step in parts keeps, and their dtypes."""
        kept = {"loss": "float32", "mlm_loss": "float32", "mlm_predictions": "int32"}
        if self.objective.electra_objective:
            kept |= {"rtd_loss": "float32", "rtd_logits": "float32"}
            kept |= {"sampled_ids": "int32", "is_replaced": "float32"}
        return kept

    def split(self, masked: dict) -> dict:
        """Arrays [B, …] → [parts, B / parts, …]; part i has the rows i, i + parts, ….

        So every device has some of each part's rows.
        """
        count = self.gradient_accumulation_steps
        return {
            name: ops.swapaxes(ops.reshape(value, (-1, count, *value.shape[1:])), 0, 1)
            for name, value in masked.items()
        }

    def finish_step(self, masked: dict, stacked: dict) -> dict:
        """Updates the metrics after a step in parts.

        Args:
            masked: what `prepare` returned.
            stacked: `part_outputs`, [parts] or [parts, B / parts, …].

        Returns:
            The metrics' values by name.
        """
        outputs = {
            name: ops.sum(value)
            if len(value.shape) == 1
            else ops.reshape(ops.swapaxes(value, 0, 1), (-1, value.shape[2]))
            for name, value in stacked.items()
        }
        for name in ("masked_lm_ids", "masked_lm_weights"):
            outputs[name] = masked[name]
        outputs["rtd_weights"] = ops.cast(masked["input_mask"], "float32")
        (loss,) = (metric for metric in self.metrics if metric.name == "loss")
        loss.update_state(distribution.sum_over_replicas(outputs["loss"]))
        return self.compute_metrics(None, None, outputs)

    def evaluate(self, *args, **kwargs):
        """Keras's `evaluate`, with the same masks and samples every time."""
        fresh = keras.random.SeedGenerator(self.seed + 1)
        self.eval_random.state.assign(fresh.state)
        return super().evaluate(*args, **kwargs)

    def export(self, *args, **kwargs):
        """Raises an `InputError`: what is used are the networks that it trains."""
        raise InputError("a ConvBertForPreTraining is there to be trained. Export what "
                         "from_pretrained reads of its save_pretrained")  # fmt: skip

    def saved_models(self) -> dict[str, tuple]:
        """The `save_pretrained` directories of this objective.

        Returns:
            Directory name → (configuration, tensors, architecture).
        """
        if self.discriminator is None:
            model = self.generator
            return {"encoder": (model.config, model.tensors(), model.architecture)}
        tensors = self.discriminator.tensors()
        tensors += pretrained.discriminator_tensors(self.discriminator_head)
        if self.masked_lm_head is not None:
            tensors += pretrained.masked_lm_tensors(self.masked_lm_head)
        saved = {"discriminator": (self.config, tensors, self.discriminator.architecture)}
        if self.generator is not None:
            model = self.generator
            saved["generator"] = (model.config, model.tensors(), model.architecture)
        return saved

    def save_pretrained(self, directory: str | os.PathLike) -> list[str]:
        """Writes each network as a Hugging Face directory below `directory`.

        Returns:
            The directories' paths: `discriminator`, and `generator` where it is a network of its
            own; `encoder` for masked language modeling.
        """
        paths = []
        for name, (config, tensors, architecture) in self.saved_models().items():
            paths.append(os.path.join(directory, name))
            pretrained.save(paths[-1], config, tensors, architecture)
        return paths

    def tensors(self) -> list[pretrained.Tensor]:
        """Every weight once, with its name in the original's checkpoints as `tf1_name`."""
        if self.discriminator is None:
            return self.generator.tensors()
        rows = self.discriminator.tensors()
        rows += pretrained.discriminator_tensors(self.discriminator_head)
        head = self.masked_lm_head
        if self.generator is not None:
            untied = self.objective.untied_generator_embeddings
            generator = pretrained.encoder_tensors(self.generator.convbert, "generator")
            shared = [] if untied else pretrained.embedding_tensors(self.discriminator.embeddings)
            ids = {id(row.variable) for row in shared}
            rows += [row for row in generator if id(row.variable) not in ids]
            head = self.generator.head
        return rows + (pretrained.masked_lm_tensors(head) if head is not None else [])

    def get_config(self):
        """Arguments of the constructor."""
        fields = {name: getattr(self, name) for name in ("config", "objective", "special")}
        as_dicts = {name: dataclasses.asdict(value) for name, value in fields.items()}
        numbers = {name: getattr(self, name) for name in ("seed", "gradient_accumulation_steps")}
        return super().get_config() | as_dicts | numbers
