import json
import math
import shutil

import keras
import numpy as np
import pytest
import safetensors.numpy

import model as models
from common.errors import InputError
from model import (
    ConvBertForMultipleChoice,
    ConvBertForQuestionAnswering,
)
from model.backends import backend
from model.layers.base import MASK_BIAS
from tests.support import huggingface
from tests.support.small_models import (
    KINDS,
    LENGTHS,
    batch,
    inputs_of,
    make,
    network,
    training_batch,
)

GOLDENS = ("mlm", "seqcls", "regression", "tokcls", "qa", "multichoice")
HEADS = [kind for kind in KINDS if kind != "encoder"]


def as_dict(outputs):
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    return {name: keras.ops.convert_to_numpy(array) for name, array in outputs.items()}


def loss_of(model, outputs, targets, reduction):
    """What the model's objective makes of outputs and targets."""
    objective = model.objective(reduction)
    if not isinstance(outputs, dict):
        return float(objective["loss"](targets, outputs))
    return sum(
        objective["loss_weights"][name] * float(loss(targets[name], outputs[name]))
        for name, loss in objective["loss"].items()
    )


@pytest.mark.parametrize("name", GOLDENS)
def test_outputs_and_loss_are_transformers(name):
    outputs, golden, model = huggingface.check_outputs(
        huggingface.HUGGINGFACE / f"tiny_{name}", f"tiny_{name}"
    )
    assert getattr(models, model.architecture) is type(model)
    targets = golden.get("labels")
    if targets is None:
        targets = {f"{end}_logits": golden[f"{end}_positions"] for end in ("start", "end")}
    loss = loss_of(model, outputs, targets, "sum_over_batch_size")
    assert loss == pytest.approx(float(golden["loss"]), abs=5e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_fit_lowers_the_loss_and_what_was_learned_is_saved(kind, tmp_path):
    model, (inputs, targets) = make(kind), training_batch(kind)
    before = loss_of(model, model(inputs), targets, "sum")
    jit_compile = backend.default_jit_compile()
    model.compile(keras.optimizers.Adam(0.01), **model.objective(), jit_compile=jit_compile)
    model.fit(inputs, targets, batch_size=4, epochs=10, verbose=0)
    after = loss_of(model, model(inputs), targets, "sum")
    assert after < 0.8 * before
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config == model.config
    assert loss_of(again, again(inputs), targets, "sum") == after


def test_a_head_that_the_file_lacks_is_drawn_as_ever(tmp_path):
    encoder, model_class = make("encoder"), models.ConvBertForSequenceClassification
    encoder.save_pretrained(tmp_path)
    keras.utils.set_random_seed(7)
    new = model_class(encoder.config, classifier_head="mlp")
    keras.utils.set_random_seed(7)
    loaded = model_class.from_pretrained(tmp_path, classifier_head="mlp")
    weights = {row.hf_name: row.to_hf() for row in loaded.tensors()}
    expected = {row.hf_name: row.to_hf() for row in (*new.tensors(), *encoder.tensors())}
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value, name)


@pytest.mark.parametrize("kind", HEADS)
def test_padding_and_batch_change_nothing(kind):
    model = make(kind)
    together = as_dict(model(inputs_of(kind)))
    inputs = inputs_of(kind, width=19)
    if kind == "choice":
        np.testing.assert_allclose(as_dict(model(inputs))["logits"], together["logits"], atol=1e-5)
        return
    for row, length in enumerate(LENGTHS):
        for width in (length, 19):
            alone = {name: array[row : row + 1, :width] for name, array in inputs.items()}
            for name, array in as_dict(model(alone)).items():
                both = [array[0], together[name][row]]
                if name in model.token_outputs:
                    both = [vectors[:length] for vectors in both]
                np.testing.assert_allclose(*both, atol=2e-5)


def test_padding_has_no_probability():
    for array in as_dict(make("question")(batch())).values():
        assert array[batch()["input_mask"] == 0].max() < MASK_BIAS / 2


def test_objectives_sum_over_the_batch_or_take_its_mean():
    model, (inputs, targets) = make("one label"), training_batch("one label")
    logits = model(inputs)
    total = loss_of(model, logits, targets, "sum")
    mean = loss_of(model, logits, targets, "sum_over_batch_size")
    assert total == pytest.approx(4 * mean)
    assert total == pytest.approx(
        sum(loss_of(model, logits[i : i + 1], targets[i : i + 1], "sum") for i in range(4))
    )


def expected_joint(model, hidden, allowed):
    """The original's formulas, a number at a time: float64 NumPy, no beam.

    Returns:
        Start logits [B, T], end logits [B, T (start), T], answerable logits [B].
    """

    rows = {row.tf1_name: row.variable for row in model.tensors()}

    def dense(vectors, name):
        scope = f"task_specific/{{task}}/{name}"
        values = [np.array(rows[f"{scope}/{kind}"], "float64") for kind in ("kernel", "bias")]
        return vectors @ values[0] + values[1]

    def gelu(x):
        erf = np.vectorize(math.erf)
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    outside = 1000.0 * (allowed - 1.0)
    start_logits = dense(hidden, "dense")[..., 0] + outside
    num_rows, length, _ = hidden.shape
    end_logits = np.empty((num_rows, length, length))
    for row in range(num_rows):
        for start in range(length):
            pair = np.concatenate([np.tile(hidden[row, start], (length, 1)), hidden[row]], axis=-1)
            logits = dense(gelu(dense(pair, "qa_hidden")), "dense_1")[:, 0]
            end_logits[row, start] = logits + outside[row]
    share = np.exp(log_softmax(start_logits))
    vectors = np.concatenate([hidden[:, 0], np.einsum("bt,bth->bh", share, hidden)], axis=-1)
    return start_logits, end_logits, dense(gelu(dense(vectors, "dense_2")), "dense_3")[:, 0]


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def joint():
    """A joint head whose beam is wider than its rows; its batch, and what it should compute."""
    model = make("joint question", beam_size=14)
    assert model.head.end_hidden.units == model.head.answerable_hidden.units == 512
    for row in model.tensors():
        if "qa_joint" in row.hf_name:  # biases too, and clear preferences
            row.variable.assign(keras.random.normal(row.variable.shape, stddev=0.3))
    inputs = batch()
    hidden = np.array(model.convbert(inputs), "float64")
    allowed = inputs["segment_ids"] * inputs["input_mask"]
    allowed[:, 0] = 1
    return model, inputs, allowed, expected_joint(model, hidden, allowed)


def test_the_joint_head_is_the_originals_in_training(joint):
    model, inputs, _, (start_logits, end_logits, answerable) = joint
    starts = np.array([4, 3, 0, 3])
    outputs = as_dict(model(inputs | {"start_positions": starts}))
    np.testing.assert_allclose(outputs["start_logits"], start_logits, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        outputs["end_logits"], end_logits[np.arange(4), starts], rtol=1e-5, atol=1e-4
    )
    np.testing.assert_allclose(outputs["answerable_logits"], answerable, atol=1e-4)
    targets = training_batch("joint question")[1]
    ends, none = targets["end_logits"], targets["answerable_logits"]
    expected = -0.5 * log_softmax(start_logits)[np.arange(4), starts].sum()
    expected -= 0.5 * log_softmax(end_logits)[np.arange(4), starts, ends].sum()
    expected += 0.5 * (np.log1p(np.exp(answerable)) - none * answerable).sum()
    assert loss_of(model, outputs, targets, "sum") == pytest.approx(expected, rel=1e-4)


def test_a_beam_as_wide_as_the_row_is_an_exhaustive_search(joint):
    model, inputs, allowed, (start_logits, end_logits, answerable) = joint
    outputs = as_dict(model(inputs))
    np.testing.assert_allclose(outputs["answerable_logits"], answerable, atol=1e-4)
    log_probs = log_softmax(start_logits)[:, :, None] + log_softmax(end_logits)
    for row in range(4):
        found = {}
        for i, start in enumerate(outputs["start_indices"][row]):
            for j, end in enumerate(outputs["end_indices"][row, i]):
                value = outputs["start_log_probs"][row, i] + outputs["end_log_probs"][row, i, j]
                if value > MASK_BIAS / 2:
                    assert (start, end) not in found
                    found[start, end] = value
                else:  # no token for this place
                    assert end == 0
        places = np.flatnonzero(allowed[row])
        assert set(found) == {(start, end) for start in places for end in places}
        for (start, end), value in found.items():
            assert value == pytest.approx(log_probs[row, start, end], abs=1e-3)


def test_a_narrow_beam_has_the_likeliest(joint):
    model, inputs, _, (start_logits, end_logits, _) = joint
    narrow = ConvBertForQuestionAnswering(
        model.config, joint_prediction=True, beam_size=2, convbert=model.convbert
    )
    narrow.head.set_weights(model.head.get_weights())
    outputs = as_dict(narrow(inputs))
    starts = np.argsort(-start_logits, axis=-1)[:, :2]
    np.testing.assert_array_equal(outputs["start_indices"], starts)
    for row in range(4):
        ends = np.argsort(-end_logits[row, starts[row]], axis=-1)[:, :2]
        is_used = outputs["end_log_probs"][row] > MASK_BIAS
        np.testing.assert_array_equal(outputs["end_indices"][row][is_used], ends[is_used])
    assert outputs["end_log_probs"].shape == (4, 2, 2)


def test_from_pretrained_knows_the_kind_of_question_answering(tmp_path):
    config = network(num_labels=3, id2label=("a", "b", "c"))
    for joint in (False, True):
        path = tmp_path / str(joint)
        ConvBertForQuestionAnswering(config, joint, beam_size=7).save_pretrained(path)
        again = ConvBertForQuestionAnswering.from_pretrained(path)
        assert (again.joint_prediction, again.config.beam_size) == (joint, 7)
        assert (again.config.num_labels, again.config.id2label) == (2, None)
        with pytest.raises(InputError, match=f"`joint_prediction` .* is {str(joint).lower()}"):
            ConvBertForQuestionAnswering.from_pretrained(path, joint_prediction=not joint)
    make("encoder").save_pretrained(tmp_path / "encoder")
    for joint in (False, True):
        model = ConvBertForQuestionAnswering.from_pretrained(
            tmp_path / "encoder", joint_prediction=joint, beam_size=4
        )
        assert (model.joint_prediction, model.config.beam_size) == (joint, 4)


def test_the_joint_head_needs_to_know_what_is_text():
    with pytest.raises(ValueError, match="needs `segment_ids`"):
        make("joint question")({"input_ids": np.ones((1, 4), "int32")})


def test_multiple_choice_reads_the_first_or_the_last_token():
    inputs = inputs_of("choice")
    first = make("choice", summary_type="first")
    last = make("choice", convbert=first.convbert)
    hidden = np.array(first.convbert(batch())).reshape(2, 2, 12, 32)
    ends = LENGTHS.reshape(2, 2, 1, 1) - 1
    for model, vectors in (
        (first, hidden[:, :, 0]),
        (last, np.take_along_axis(hidden, ends, axis=2)[:, :, 0]),
    ):
        kernel, bias = map(np.array, model.classifier.get_weights())
        expected = (vectors @ kernel + bias)[..., 0]
        np.testing.assert_allclose(np.array(model(inputs)), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"Expected arrays \[B, choices, T\]"):
        first(batch())


def test_a_projection_before_the_choices_classifier(tmp_path):
    model = make("choice", classifier_head="mlp")
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["summary_use_proj"], fields["summary_activation"]) == (True, "gelu")
    inputs = inputs_of("choice")
    again = ConvBertForMultipleChoice.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(inputs), model(inputs))
    with pytest.raises(InputError, match=r'`classifier_head` .* "mlp".* "linear"'):
        ConvBertForMultipleChoice.from_pretrained(tmp_path, classifier_head="linear")
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    rows = {name: array.reshape(4, -1) for name, array in inputs.items()}
    last = rows["input_mask"].sum(axis=1) - 1
    vectors = np.asarray(model.convbert(rows))[np.arange(4), last]
    weight, bias = (tensors[f"sequence_summary.summary.{name}"] for name in ("weight", "bias"))
    projected = keras.activations.gelu(keras.ops.convert_to_tensor(vectors @ weight.T + bias))
    logits = projected @ tensors["classifier.weight"].T + tensors["classifier.bias"]
    np.testing.assert_allclose(model(inputs), np.reshape(logits, (2, 2)), atol=1e-5)
    huggingface.edit_config(tmp_path, summary_use_proj=False, summary_activation=None)
    with pytest.raises(InputError, match=r"config\.json: `summary_use_proj` must be true"):
        ConvBertForMultipleChoice.from_pretrained(tmp_path)


def test_the_summary_type_is_kept(tmp_path):
    make("choice", summary_type="first").save_pretrained(tmp_path)
    assert ConvBertForMultipleChoice.from_pretrained(tmp_path).config.summary_type == "first"
    shutil.copytree(huggingface.HUGGINGFACE / "tiny_multichoice", tmp_path, dirs_exist_ok=True)
    model = ConvBertForMultipleChoice.from_pretrained(tmp_path)
    assert model.config.summary_type == "last"  # as where transformers wrote nothing of it
    model.save_pretrained(tmp_path)
    assert ConvBertForMultipleChoice.from_pretrained(tmp_path).config.summary_type == "last"
    huggingface.edit_config(tmp_path, summary_activation="tanh")
    with pytest.raises(InputError, match=r'config\.json: `summary_activation` is "tanh"'):
        ConvBertForMultipleChoice.from_pretrained(tmp_path)


def test_heads_can_share_an_encoder():
    first = make("tokens")
    second = make("one label", convbert=first.convbert)
    assert second.convbert is first.convbert
    own, others, shared = (
        {id(variable) for variable in each.variables} for each in (first, second, first.convbert)
    )
    assert own & others == shared
    with pytest.raises(InputError, match=r"`convbert` .*: hidden_act"):
        make("one label", hidden_act="relu", convbert=first.convbert)
