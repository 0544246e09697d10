"""ELECTRA-style pre-training: mask, generate, corrupt, discriminate, all on the device."""

import dataclasses
import os

import keras
from keras import ops

from model import checkpoint
from model.config import ConvBertConfig, Objective, as_config, override
from model.convbert import INPUT_NAMES, ConvBertModel, TrainableModel, read_inputs
from model.heads import ConvBertForMaskedLM
from model.layers import DiscriminatorHead, MaskedLMHead

MASK_SHARE = 0.85  # of the masked positions become [MASK]; the rest keep their token
EPSILON = 1e-6  # in the denominators of the losses, as the original has it


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that masking must know; the defaults are BERT's uncased vocabulary."""

    cls_id: int = 101
    sep_id: int = 102
    mask_id: int = 103


def max_predictions_per_seq(length: int, mask_prob: float) -> int:
    """P: the most positions that are masked in a row of `length` tokens."""
    return max(1, int((mask_prob + 0.005) * length))


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
    noise = keras.random.uniform(ops.shape(input_ids), seed=seed)
    _, positions = ops.top_k(ops.where(candidates, noise, -1.0), count)
    positions = ops.cast(positions, "int32")
    weights = ops.cast(ops.arange(count, dtype="float32")[None] < wanted[:, None], "float32")
    positions *= ops.cast(weights, "int32")
    hidden = keras.random.uniform(ops.shape(positions), seed=seed) < MASK_SHARE
    hidden = weights * ops.cast(hidden, "float32")
    mask_ids = ops.full_like(positions, special.mask_id)
    return inputs | {
        "masked_input_ids": replace_positions(input_ids, positions, hidden, mask_ids),
        "masked_lm_positions": positions,
        "masked_lm_ids": gather_positions(input_ids, positions) * ops.cast(weights, "int32"),
        "masked_lm_weights": weights,
    }


def sample_tokens(logits, temperature: float, seed, disallowed=None):
    """One token a position, drawn from softmax(logits / temperature).

    Args:
        logits: float32 [B, P, V].
        temperature: above 0.
        seed: a `keras.random.SeedGenerator`.
        disallowed: int32 [B, P], a token that must not be drawn, or None.

    Returns:
        int32 [B, P], without gradient.
    """
    logits = ops.stop_gradient(logits) / temperature
    shape = ops.shape(logits)
    if disallowed is not None:
        logits -= 1000.0 * ops.one_hot(disallowed, shape[2], dtype=logits.dtype)
    drawn = keras.random.categorical(ops.reshape(logits, (-1, shape[2])), 1, seed=seed)
    return ops.cast(ops.reshape(drawn, shape[:2]), "int32")


def weighted_mean(values, weights):
    """Mean of `values` under `weights`, as the original computes it."""
    return ops.sum(values * weights) / (ops.sum(weights) + EPSILON)


def _from_dict(kind, value):
    """An instance of the dataclass `kind`: as given, from a saved dict, or the default."""
    return value if isinstance(value, kind) else override(kind(), value or {})


@keras.saving.register_keras_serializable(package="convbert")
class ConvBertForPreTraining(TrainableModel):
    """Generator and discriminator with their losses; `fit` on batches of records trains both.

    Compile it with an optimiser and nothing else: the objective is part of the model.

    Args:
        config: the discriminator's `ConvBertConfig`.
        objective: an `Objective`; None is ELECTRA's.
        special: ids of the vocabulary's [CLS], [SEP] and [MASK]; None is BERT's uncased one.
        seed: of masking and sampling.

    Call arguments:
        inputs: `input_ids`, `input_mask`, `segment_ids`, int32 [B, T].

    Returns:
        A dict: `loss`; of the generator `mlm_loss`, `mlm_predictions`, `masked_lm_ids`,
        `masked_lm_weights` ([B, P]); of the discriminator, unless the objective is masked language
        modelling, `rtd_loss`, `sampled_ids` [B, P], `rtd_logits`, `is_replaced` and `rtd_weights`
        [B, T].
    """

    def __init__(
        self,
        config: ConvBertConfig | dict,
        objective: Objective | dict | None = None,
        special: SpecialTokens | dict | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = as_config(config)
        self.objective = _from_dict(Objective, objective)
        self.special = _from_dict(SpecialTokens, special)
        self.seed = seed
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
        self.discriminator_head.build()
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
            self.masked_lm_head.build()

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
        random = self.train_random if training else self.eval_random
        ids, mask, segments = read_inputs(inputs)
        mask = ops.ones_like(ids) if mask is None else mask
        segments = ops.zeros_like(ids) if segments is None else segments
        inputs = dict(zip(INPUT_NAMES, (ids, mask, segments), strict=True))
        masked = mask_tokens(inputs, self.objective.mask_prob, self.special, random)
        outputs = self.generate(masked, training)
        if self.objective.electra_objective:
            sampled = sample_tokens(
                outputs["mlm_logits"],
                self.objective.temperature,
                random,
                masked["masked_lm_ids"] if self.objective.disallow_correct else None,
            )
            outputs |= self.discriminate(masked, sampled, training)
        del outputs["mlm_logits"]  # [B, P, V]: the largest array of the step, and no metric's
        return outputs | {"loss": self.total_loss(outputs)}

    def total_loss(self, outputs: dict):
        """The weighted sum of the losses in `outputs`, a scalar."""
        loss = self.objective.gen_weight * outputs["mlm_loss"]
        if "rtd_loss" in outputs:
            loss += self.objective.disc_weight * outputs["rtd_loss"]
        return loss

    def generate(self, masked: dict, training: bool = False) -> dict:
        """The generator's predictions for a batch of `mask_tokens`, and their loss."""
        logits = self._generator_logits(masked, training)
        targets, weights = masked["masked_lm_ids"], masked["masked_lm_weights"]
        losses = keras.losses.sparse_categorical_crossentropy(targets, logits, from_logits=True)
        return {
            "mlm_logits": logits,
            "mlm_loss": weighted_mean(losses, weights),
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

    def discriminate(self, masked: dict, sampled_ids, training: bool = False) -> dict:
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
            "rtd_loss": weighted_mean(losses, weights),
            "is_replaced": is_replaced,
            "rtd_weights": weights,
        }

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The scalar that `fit` minimises; the records carry no labels, so `y` is None."""
        return y_pred["loss"]

    @property
    def metrics(self):
        """All metrics, so that `fit` and `evaluate` reset them."""
        return [*super().metrics, *self.mlm_metrics, *self.rtd_metrics]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        """Updates the metrics of the generator and, over real tokens, of the discriminator."""
        mlm_loss, mlm_accuracy = self.mlm_metrics
        targets, weights = y_pred["masked_lm_ids"], y_pred["masked_lm_weights"]
        mlm_loss.update_state(y_pred["mlm_loss"])
        mlm_accuracy.update_state(
            ops.cast(y_pred["mlm_predictions"] == targets, "float32"), sample_weight=weights
        )
        if self.rtd_metrics:
            sampled_accuracy, rtd_loss, *verdicts = self.rtd_metrics
            sampled = ops.cast(y_pred["sampled_ids"] == targets, "float32")
            sampled_accuracy.update_state(sampled, sample_weight=weights)
            rtd_loss.update_state(y_pred["rtd_loss"])
            labels, weights = y_pred["is_replaced"], y_pred["rtd_weights"]
            probabilities = ops.sigmoid(y_pred["rtd_logits"])
            for metric in verdicts:
                metric.update_state(
                    ops.reshape(labels, (-1, 1)),
                    ops.reshape(probabilities, (-1, 1)),
                    sample_weight=ops.reshape(weights, (-1,)),
                )
        return self.get_metrics_result()

    def evaluate(self, *args, **kwargs):
        """Keras's `evaluate`, with the same masks and samples every time."""
        fresh = keras.random.SeedGenerator(self.seed + 1)
        self.eval_random.state.assign(fresh.state)
        return super().evaluate(*args, **kwargs)

    def saved_models(self) -> dict[str, tuple]:
        """The `save_pretrained` directories of this objective.

        Returns:
            Directory name → (configuration, tensors, architecture).
        """
        if self.discriminator is None:
            model = self.generator
            return {"encoder": (model.config, model.tensors(), model.architecture)}
        tensors = self.discriminator.tensors()
        tensors += checkpoint.discriminator_tensors(self.discriminator_head)
        if self.masked_lm_head is not None:
            tensors += checkpoint.masked_lm_tensors(self.masked_lm_head)
        saved = {"discriminator": (self.config, tensors, self.discriminator.architecture)}
        if self.generator is not None:
            model = self.generator
            saved["generator"] = (model.config, model.tensors(), model.architecture)
        return saved

    def save_pretrained(self, directory: str | os.PathLike) -> list[str]:
        """Writes each network as a Hugging Face directory below `directory`.

        Returns:
            The directories' paths: `discriminator`, and `generator` where it is a network of its
            own; `encoder` for masked language modelling.
        """
        paths = []
        for name, (config, tensors, architecture) in self.saved_models().items():
            paths.append(os.path.join(directory, name))
            checkpoint.save(paths[-1], config, tensors, architecture)
        return paths

    def tensors(self) -> list[checkpoint.Tensor]:
        """Every weight once, with its name in the original's checkpoints as `tf1_name`."""
        if self.discriminator is None:
            return self.generator.tensors()
        rows = self.discriminator.tensors()
        rows += checkpoint.discriminator_tensors(self.discriminator_head)
        head = self.masked_lm_head
        if self.generator is not None:
            untied = self.objective.untied_generator_embeddings
            generator = checkpoint.encoder_tensors(self.generator.convbert, "generator")
            shared = [] if untied else checkpoint.embedding_tensors(self.discriminator.embeddings)
            ids = {id(row.variable) for row in shared}
            rows += [row for row in generator if id(row.variable) not in ids]
            head = self.generator.head
        return rows + (checkpoint.masked_lm_tensors(head) if head is not None else [])

    def get_config(self):
        """Arguments of the constructor."""
        fields = {name: getattr(self, name) for name in ("config", "objective", "special")}
        as_dicts = {name: dataclasses.asdict(value) for name, value in fields.items()}
        return super().get_config() | as_dicts | {"seed": self.seed}
