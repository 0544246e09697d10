"""ELECTRA-style pre-training on the device: mask, generate, corrupt, discriminate."""

import dataclasses
import os

import keras
from keras import ops
from typing_extensions import override

from common.errors import InputError
from model.backends import backend, distribution
from model.config import ConvBertConfig, Objective, as_config
from model.convbert import INPUT_NAMES, ConvBertModel, TrainableModel, read_inputs
from model.heads import ConvBertForMaskedLM
from model.layers import fused
from model.layers.heads import DiscriminatorHead, MaskedLMHead
from model.masking import (
    SpecialTokens,
    gather_positions,
    mask_tokens,
    replace_positions,
    sample_tokens,
)
from model.weights import pretrained

EPSILON = 1e-6  # in the denominators of the losses, as in the original


def weighted_mean(values, weights, total=None):
    """Computes the mean of `values` as the original does; `weights` have the same shape.

    `total` is the whole batch's sum of weights if `values` belong to a part of the batch. The
    results of the parts then add up to the result of the batch.
    """
    total = ops.sum(weights) if total is None else total
    return ops.sum(values * weights) / (total + EPSILON)


class HistogramAUC(keras.metrics.AUC):
    """Keras's AUC of labels and probabilities [N, 1], without its scatters.

    Scatters are slow on GPUs when all numbers of a batch fall into a few of the 200 buckets.
    """

    @override
    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch's counts; `sample_weight` [N] is required."""
        buckets = ops.relu(ops.ceil(y_pred * (self.num_thresholds - 1)) - 1.0)
        thresholds = ops.arange(self.num_thresholds, dtype="float32")
        members = ops.cast(ops.equal(buckets, thresholds), "float32")  # [N, buckets]
        labels = y_true[:, 0]
        weights = ops.stack([labels * sample_weight, (1.0 - labels) * sample_weight])
        counts = ops.matmul(weights, members)  # [2, buckets]: positives and negatives
        above = ops.flip(ops.cumsum(ops.flip(counts, axis=1), axis=1), axis=1)
        below = ops.sum(counts, axis=1, keepdims=True) - above
        for variable, added in (
            (self.true_positives, above[0]),
            (self.false_positives, above[1]),
            (self.false_negatives, below[0]),
            (self.true_negatives, below[1]),
        ):
            variable.assign(variable + added)


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForPreTraining(TrainableModel):
    """Generator and discriminator with their losses; `fit` on batches of records trains both.

    Compile it with an optimizer only: the objective is part of the model.

    Args:
        config: the discriminator's `ConvBertConfig`.
        objective: an `Objective`; None means ELECTRA's.
        special: the vocabulary's `SpecialTokens`; None means those of BERT's uncased vocabulary.
        seed: seed of masking and sampling.
        gradient_accumulation_steps: number of parts that `fit` splits a batch into, to compute
            their gradients one after the other. The update is the same, up to rounding.

    Call arguments:
        inputs: `input_ids`, `input_mask`, `segment_ids`, int32 [B, T].

    Returns:
        A dict with `loss`; the generator's `mlm_loss`, and `mlm_predictions`, `masked_lm_ids` and
        `masked_lm_weights` [B, P]; and, unless the objective is masked language modeling, the
        discriminator's `rtd_loss`, `sampled_ids` [B, P], and `rtd_logits`, `is_replaced` and
        `rtd_weights` [B, T].
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
        self.objective = as_config(objective or {}, Objective)
        self.special = as_config(special or {}, SpecialTokens)
        self.seed = seed
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.train_random = keras.random.SeedGenerator(seed, name="train_random")
        self.eval_random = keras.random.SeedGenerator(seed + 1, name="eval_random")
        self.generator = self.discriminator = self.masked_lm_head = self.discriminator_head = None
        self._make_networks()
        self._make_metrics()
        self.built = True

    def _make_networks(self):
        """Creates the networks and heads that the objective needs."""
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

    @override
    def encoders(self):
        generator = [] if self.generator is None else [self.generator.convbert]
        return generator if self.discriminator is None else [self.discriminator, *generator]

    def _make_metrics(self):
        metrics = keras.metrics
        self.mlm_metrics = [metrics.Mean("mlm_loss"), metrics.Mean("mlm_accuracy")]
        self.rtd_metrics = []
        if self.objective.electra_objective:
            self.rtd_metrics = [
                metrics.Mean("sampled_mlm_accuracy"),
                metrics.Mean("rtd_loss"),
                HistogramAUC(name="rtd_auc"),
                metrics.BinaryAccuracy("rtd_accuracy"),
                metrics.Precision(name="rtd_precision"),
                metrics.Recall(name="rtd_recall"),
            ]

    @override
    def call(self, inputs, training=False):
        return self.outputs_of(*self.prepare(inputs, training), training)

    def prepare(self, inputs: dict, training: bool = False) -> tuple[dict, dict]:
        """Masks a batch, draws numbers for sampling, and sums the weights over the whole batch.

        All of this is done before any network runs.

        Returns:
            The result of `mask_tokens` with `sampling`, float32 [B, P] in [0, 1); and each loss's
            sum of weights over the whole batch, on all devices.
        """
        random = self.train_random if training else self.eval_random
        inputs, _, _ = keras.utils.unpack_x_y_sample_weight(inputs)
        ids, mask, segments = read_inputs(inputs)
        mask = ops.ones_like(ids) if mask is None else mask
        segments = ops.zeros_like(ids) if segments is None else segments
        inputs = dict(zip(INPUT_NAMES, (ids, mask, segments), strict=True))
        masked = mask_tokens(inputs, self.objective.mask_prob, self.special, random)
        weights = masked["masked_lm_weights"]
        masked["sampling"] = distribution.uniform_rows(ops.shape(weights), random)
        totals = ops.stack([ops.sum(weights), ops.sum(ops.cast(mask, "float32"))])
        totals = backend.sum_over_replicas(totals)
        return masked, {"mlm": totals[0], "rtd": totals[1]}

    def outputs_of(self, masked: dict, totals: dict, training: bool = False) -> dict:
        """The outputs of `call` for some rows of the batch that `prepare` returned.

        Each loss is these rows' share of the whole batch's loss.
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
        del outputs["mlm_logits"]  # [B, P, V]: the step's largest array, which no metric needs
        return outputs | {"loss": self.total_loss(outputs)}

    def total_loss(self, outputs: dict):
        """The weighted sum of the losses in `outputs`, a scalar."""
        loss = self.objective.gen_weight * outputs["mlm_loss"]
        if "rtd_loss" in outputs:
            loss += self.objective.disc_weight * outputs["rtd_loss"]
        return loss

    def generate(self, masked: dict, training: bool = False, total=None) -> dict:
        """Returns the generator's predictions for a batch from `mask_tokens`, and their loss.

        For `total`, see `weighted_mean`.
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
        """Float32 [B, P, V]; V is rounded up to a multiple of 8 if XLA compiles the step."""
        positions, multiple = masked["masked_lm_positions"], 8 if fused.is_whole() else 1
        if self.objective.uniform_generator:
            return ops.zeros((*ops.shape(positions), self.config.vocab_size), dtype="float32")
        inputs = {name: masked[name] for name in INPUT_NAMES} | {
            "input_ids": masked["masked_input_ids"]
        }
        if self.generator is None:  # one encoder serves as both
            hidden = gather_positions(self.discriminator(inputs, training=training), positions)
            table = self.discriminator.embeddings.word_embeddings
            return self.masked_lm_head(hidden, table, multiple=multiple)
        hidden = self.generator.convbert(inputs, training=training)
        return self.generator.predict_tokens(gather_positions(hidden, positions), multiple)

    def discriminate(self, masked: dict, sampled_ids, training: bool = False, total=None) -> dict:
        """Returns the discriminator's logits and loss for the batch with `sampled_ids` [B, P]."""
        corrupted = replace_positions(
            masked["input_ids"],
            masked["masked_lm_positions"],
            masked["masked_lm_weights"],
            sampled_ids,
        )
        before, after = (ops.cast(ids, "float32") for ids in (masked["input_ids"], corrupted))
        is_replaced = ops.cast(after != before, "float32")
        inputs = {name: masked[name] for name in INPUT_NAMES} | {"input_ids": corrupted}
        logits = self.discriminator_head(self.discriminator(inputs, training=training))
        weights = ops.cast(masked["input_mask"], "float32")
        # log(1 + exp(logits)) - logits * labels, in a form that cannot overflow
        losses = ops.relu(logits) - logits * is_replaced + ops.log1p(ops.exp(-ops.abs(logits)))
        return {
            "sampled_ids": sampled_ids,
            "rtd_logits": logits,
            "rtd_loss": weighted_mean(losses, weights, total),
            "is_replaced": is_replaced,
            "rtd_weights": weights,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Returns the scalar that `fit` minimizes; records have no labels, so `y` is None."""
        return y_pred["loss"]

    @property
    @override
    def metrics(self):
        return [*super().metrics, *self.mlm_metrics, *self.rtd_metrics]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the generator's metrics, and the discriminator's over all tokens but padding."""
        mlm_loss, mlm_accuracy = self.mlm_metrics
        targets, weights = y_pred["masked_lm_ids"], y_pred["masked_lm_weights"]
        mlm_loss.update_state(backend.sum_over_replicas(y_pred["mlm_loss"]))
        mlm_accuracy.update_state(
            ops.cast(y_pred["mlm_predictions"] == targets, "float32"), sample_weight=weights
        )
        if self.rtd_metrics:
            sampled_accuracy, rtd_loss, *token_metrics = self.rtd_metrics
            sampled = ops.cast(y_pred["sampled_ids"] == targets, "float32")
            sampled_accuracy.update_state(sampled, sample_weight=weights)
            rtd_loss.update_state(backend.sum_over_replicas(y_pred["rtd_loss"]))
            labels, weights = y_pred["is_replaced"], y_pred["rtd_weights"]
            probabilities = ops.sigmoid(y_pred["rtd_logits"])
            for metric in token_metrics:
                metric.update_state(
                    ops.reshape(labels, (-1, 1)),
                    ops.reshape(probabilities, (-1, 1)),
                    sample_weight=ops.reshape(weights, (-1,)),
                )
        return self.get_metrics_result()

    def exact_logs(self, logs: dict) -> dict:
        """Returns the metrics' values; `logs` would only be averages over the replicas' values."""
        return self.get_metrics_result() if backend.is_replicated(self) else logs

    @override
    def shared_random(self):
        return [self.train_random, self.eval_random]

    @property
    @override
    def part_outputs(self) -> dict[str, str]:
        """The outputs that a step in parts keeps, and their dtypes."""
        kept = {"loss": "float32", "mlm_loss": "float32", "mlm_predictions": "int32"}
        if self.objective.electra_objective:
            kept |= {"rtd_loss": "float32", "rtd_logits": "float32"}
            kept |= {"sampled_ids": "int32", "is_replaced": "float32"}
        return kept

    def finish_step(self, masked: dict, stacked: dict) -> dict:
        """Updates the metrics after a step in parts, and returns their values by name.

        `masked` is from `prepare`; `stacked` has the `part_outputs`, [parts] or
        [parts, B / parts, …].
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
        super().finish_step(masked, stacked)
        return self.compute_metrics(None, None, outputs)

    def evaluate(self, *args, **kwargs):
        """Runs Keras's `evaluate`, always with the same masks and samples."""
        fresh = keras.random.SeedGenerator(self.seed + 1)
        self.eval_random.state.assign(fresh.state)
        return super().evaluate(*args, **kwargs)

    def export(self, *args, **kwargs):
        """Raises an `InputError`."""
        raise InputError(
            "a ConvBertForPreTraining cannot be exported: call save_pretrained, then export the "
            "models that from_pretrained returns"
        )

    def saved_models(self) -> dict[str, tuple]:
        """Returns (configuration, tensors, architecture) by name of `save_pretrained` directory."""
        saved = {}
        if self.discriminator is not None:
            tensors = self.discriminator.tensors()
            tensors += pretrained.discriminator_tensors(self.discriminator_head)
            if self.masked_lm_head is not None:
                tensors += pretrained.masked_lm_tensors(self.masked_lm_head)
            saved["discriminator"] = (self.config, tensors, self.discriminator.architecture)
        if (model := self.generator) is not None:
            name = "generator" if saved else "encoder"
            saved[name] = (model.config, model.tensors(), model.architecture)
        return saved

    def save_pretrained(self, directory: str | os.PathLike) -> list[str]:
        """Writes each network as a Hugging Face directory below `directory`.

        Returns:
            The directories' paths: `discriminator`, and `generator` if it is a separate network; or
            `encoder` for masked language modeling.
        """
        paths = []
        for name, (config, tensors, architecture) in self.saved_models().items():
            paths.append(os.path.join(directory, name))
            pretrained.save(paths[-1], config, tensors, architecture)
        return paths

    def tensors(self) -> list[pretrained.Tensor]:
        """Returns every weight once, with its name in the original's checkpoints."""
        if self.discriminator is None:
            return self.generator.tensors()
        _, rows, _ = self.saved_models()["discriminator"]
        if self.generator is not None:
            known = {id(row.variable) for row in rows}  # includes shared embeddings
            generator = pretrained.encoder_tensors(self.generator.convbert, "generator")
            rows += [row for row in generator if id(row.variable) not in known]
            rows += pretrained.masked_lm_tensors(self.generator.head)
        return rows

    @override
    def get_config(self):
        names = ("config", "objective", "special")
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in names}
        numbers = {name: getattr(self, name) for name in ("seed", "gradient_accumulation_steps")}
        return super().get_config() | parts | numbers
