"""Several tasks learned together by one encoder with a head per task."""

from collections.abc import Mapping
from typing import Any

from typing_extensions import override

from common.errors import InputError
from model.convbert import TrainableModel
from model.heads import ConvBertForMultipleChoice, HeadModel, encoder_inputs


class JointModel(TrainableModel):
    """Heads that share an encoder and are trained together.

    A batch may mix the tasks' rows. The encoder and all heads read the whole batch, as in the
    original; weights select the outputs that count for a row. Each head is saved, loaded and used
    separately.

    Args:
        heads: one head per task, by task name, all created with the same `convbert`.

    Call arguments:
        inputs: the dict of `ConvBertModel`, with the heads' further inputs, if any.

    Returns:
        All heads' outputs by flat name: a single output has the task's name, others are called
        `TASK.OUTPUT`. Targets and weights have the same names; weights are float [B], 1.0 for the
        task's rows and 0.0 for the others.
    """

    def __init__(self, heads: Mapping[str, HeadModel], **kwargs):
        super().__init__(**kwargs)
        for name, head in heads.items():
            if isinstance(head, ConvBertForMultipleChoice):
                raise InputError(
                    f"{name}: multiple choice cannot be trained jointly, because an example has "
                    "several rows"
                )
            if head.convbert is not next(iter(heads.values())).convbert:
                raise InputError(f"{name}: create this head with the first head's `convbert`")
        self.heads = dict(heads)
        self.convbert = next(iter(heads.values())).convbert
        self.further_inputs = sorted({n for head in heads.values() for n in head.further_inputs})
        self.built = True  # all heads are built

    @override
    def call(self, inputs, training=False):
        hidden = self.convbert(encoder_inputs(inputs, self.further_inputs), training=training)
        outputs = {}
        for task, head in self.heads.items():
            outputs[task] = head.apply_head(hidden, inputs, training=training)
        return flatten(outputs)

    @override
    def encoders(self):
        return [self.convbert]

    def get_config(self):
        """Raises an `InputError`."""
        raise InputError("a JointModel cannot be saved as a whole: save each of its heads")

    def objective(self, reduction: str = "sum") -> dict[str, Any]:
        """Returns the arguments `loss` and `loss_weights` of `compile`; see `HeadModel`."""
        losses, weights = {}, {}
        for task, head in self.heads.items():
            own = head.objective(reduction)
            losses[task] = own["loss"]
            weights[task] = own["loss_weights"] or 1.0
        return {"loss": flatten(losses), "loss_weights": flatten(weights)}


def flatten(by_task: Mapping[str, Any]) -> dict[str, Any]:
    """{"a": x, "b": {"y": z}} → {"a": x, "b.y": z}."""
    flat = {}
    for task, value in by_task.items():
        if isinstance(value, dict):
            flat |= {f"{task}.{name}": inner for name, inner in value.items()}
        else:
            flat[task] = value
    return flat
