"""Several tasks learned at once, by one encoder with a head for each."""

from collections.abc import Mapping
from typing import Any

from common.errors import InputError
from model.convbert import TrainableModel
from model.heads import ConvBertForMultipleChoice, HeadModel, encoder_inputs


class JointModel(TrainableModel):
    """Heads that share an encoder, to be trained together.

    A batch may mix the tasks' rows. The encoder reads it once and every head reads all of it, as in
    the original; weights say which outputs of a row count. Each head is saved, loaded and used on
    its own.

    Args:
        heads: the head of each task, by its name, all made with the same `convbert`.

    Call arguments:
        inputs: the dict of `ConvBertModel`, with the further inputs of the heads, if any.

    Returns:
        Every head's outputs by flat name: a single output is called as the task, others
        `TASK.OUTPUT`. Targets, and weights float [B] (1.0 for the rows of the task, else 0.0),
        have the same names.
    """

    def __init__(self, heads: Mapping[str, HeadModel], **kwargs):
        super().__init__(**kwargs)
        for name, head in heads.items():
            if isinstance(head, ConvBertForMultipleChoice):
                raise InputError(f"{name}: multiple choice cannot be learned jointly, "
                                 "for several of its rows are one example")  # fmt: skip
            if head.convbert is not next(iter(heads.values())).convbert:
                raise InputError(f"{name}: its head has an encoder of its own. "
                                 "Make it with the first one's `convbert`")  # fmt: skip
        self.heads = dict(heads)
        self.convbert = next(iter(heads.values())).convbert
        self.further_inputs = sorted({n for head in heads.values() for n in head.further_inputs})
        self.built = True  # the heads are

    def call(self, inputs, training=False):
        """See the class."""
        hidden = self.convbert(encoder_inputs(inputs, self.further_inputs), training=training)
        return flatten(
            {
                task: head.apply_head(hidden, inputs, training=training)
                for task, head in self.heads.items()
            }
        )

    def get_config(self):
        """Raises an `InputError`: the heads are what is saved."""
        raise InputError("a JointModel is not saved as a whole: save each of its heads")

    def objective(self, reduction: str = "sum") -> dict[str, Any]:
        """The arguments `loss` and `loss_weights` of `compile`: see `HeadModel.objective`."""
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
