import keras
import numpy as np
import pytest

from common.errors import InputError
from model import JointModel
from model.backends import backend
from model.training.optimizer import create_optimizer
from tests.support.small_models import batch, make

NUM_LAYERS = 2
TASK_OF_ROW = ["cola", "squad", "chunk", "sts", "chunk", "squad", "cola", "sts"]


def make_model():
    options = {"num_hidden_layers": NUM_LAYERS}
    options["convbert"] = make("encoder", **options)
    return JointModel(
        {
            "cola": make("one label", **options),
            "sts": make("regression", **options),
            "chunk": make("tokens", **options),
            "squad": make("joint question", answerable_weight=0.7, **options),
        }
    )


def rows_of(task):
    return np.array([name == task for name in TASK_OF_ROW])


def make_batch():
    """Rows of all tasks: inputs, and targets and weights by flat name.

    Rows have targets of other tasks too, which must not count.
    """
    random = np.random.default_rng(0)
    num_rows = len(TASK_OF_ROW)
    inputs = batch(random.integers(6, 13, num_rows), width=12)
    inputs["start_positions"] = random.integers(3, 6, num_rows)
    mask = inputs["input_mask"]
    targets = {
        "cola": random.integers(0, 2, num_rows),
        "sts": random.random(num_rows).astype("float32"),
        "chunk": np.where(mask == 1, random.integers(0, 5, mask.shape), -100),
        "squad.start_logits": inputs["start_positions"],
        "squad.end_logits": random.integers(3, 6, num_rows),
        "squad.answerable_logits": np.array([0, 1] * 4, "float32"),
    }
    weights = {name: rows_of(name.split(".")[0]).astype("float32") for name in targets}
    return inputs, targets, weights


def inputs_of(task, inputs):
    """What the task's head reads."""
    names = set(inputs) - ({"start_positions"} if task != "squad" else set())
    return {name: inputs[name] for name in names}


def compiled(model, optimizer):
    model.compile(optimizer, **model.objective(), jit_compile=backend.default_jit_compile())
    return model


def test_outputs_have_flat_names():
    model = make_model()
    inputs, targets, _ = make_batch()
    outputs = model(inputs)
    assert set(outputs) == set(targets)
    for task in ("cola", "sts", "chunk"):
        alone = model.heads[task](inputs_of(task, inputs))
        np.testing.assert_allclose(outputs[task], alone, atol=1e-6)
    assert "squad.start_indices" in model(inputs_of("cola", inputs))


def test_each_row_has_the_loss_of_its_own_head():
    model = compiled(make_model(), keras.optimizers.SGD())
    inputs, targets, weights = make_batch()
    together = model.evaluate(inputs, targets, 8, sample_weight=weights, verbose=0)
    expected = 0.0
    for task, head in model.heads.items():
        rows = rows_of(task)
        own = {name: array[rows] for name, array in inputs_of(task, inputs).items()}
        outputs, objective = head(own), head.objective("sum")
        if task == "squad":
            for name, loss in objective["loss"].items():
                value = loss(targets[f"squad.{name}"][rows], outputs[name])
                expected += objective["loss_weights"][name] * float(value)
        else:
            expected += float(objective["loss"](targets[task][rows], outputs))
    together = together[0] if isinstance(together, list) else together
    assert together == pytest.approx(expected, rel=1e-5)
    assert model.heads["squad"].objective()["loss_weights"]["answerable_logits"] == 0.7


def test_fit_lowers_the_loss_and_moves_no_head_whose_rows_weigh_nothing():
    model = compiled(make_model(), keras.optimizers.SGD(0.01))
    inputs, targets, weights = make_batch()
    weights["sts"][:] = 0
    weights |= {name: 0 * array for name, array in weights.items() if name.startswith("squad")}
    before = {id(variable): np.array(variable) for variable in model.trainable_variables}
    run = model.fit(inputs, targets, 8, epochs=10, sample_weight=weights, verbose=0)
    assert run.history["loss"][-1] < 0.8 * run.history["loss"][0]

    def moved(variables):
        return {not np.array_equal(variable, before[id(variable)]) for variable in variables}

    encoder = model.convbert.trainable_variables
    assert True in moved(encoder)
    for task, head in model.heads.items():
        own = head.trainable_variables[len(encoder) :]
        assert moved(own) == {task in ("cola", "chunk")}


def test_layers_and_heads_have_their_own_learning_rates():
    model = make_model()
    optimizer = create_optimizer(1.0, 10, layerwise_lr_decay=0.5, num_hidden_layers=NUM_LAYERS)
    scales = {id(v): optimizer.learning_rate_scale(v) for v in model.trainable_variables}

    def scales_of(layer):
        return {scales[id(variable)] for variable in layer.trainable_variables}

    encoder = model.convbert
    assert scales_of(encoder.embeddings) == scales_of(encoder.embeddings_project) == {0.5**4}
    assert [scales_of(layer) for layer in encoder.encoder_layers] == [{0.5**3}, {0.5**2}]
    for head in model.heads.values():
        for layer in head.layers:
            if layer is not encoder:
                assert scales_of(layer) == {1.0}


def test_heads_that_cannot_be_joined_are_named():
    first = make("one label")
    with pytest.raises(InputError, match=r"rte: .*`convbert`"):
        JointModel({"cola": first, "rte": make("one label")})
    with pytest.raises(InputError, match="swag: multiple choice"):
        JointModel({"swag": make("choice", convbert=first.convbert)})
