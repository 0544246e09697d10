import dataclasses
import json
import math
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

import model as models
from common.errors import InputError
from model import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForMultipleChoice,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
    ConvBertModel,
)
from model.backends import backend
from model.layers.base import MASK_BIAS

HUGGINGFACE = Path(__file__).parent.parent / "goldens" / "huggingface"
GOLDENS = {
    "mlm": ConvBertForMaskedLM,
    "seqcls": ConvBertForSequenceClassification,
    "regression": ConvBertForSequenceClassification,
    "tokcls": ConvBertForTokenClassification,
    "qa": ConvBertForQuestionAnswering,
    "multichoice": ConvBertForMultipleChoice,
}
CONFIG = ConvBertConfig(
    vocab_size=60,
    embedding_size=16,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=32,
    initializer_range=0.3,
    hidden_dropout_prob=0.01,
)
LENGTHS = np.array([12, 7, 9, 4])


def tiny(**overrides):
    return dataclasses.replace(CONFIG, **overrides)


def batch(lengths=LENGTHS, width=None, seed=0):
    """Random rows [CLS] a … b … of the given lengths, padded to `width`."""
    random = np.random.default_rng(seed)
    width = width or max(lengths)
    ids = random.integers(5, 60, (len(lengths), 40))[:, :width]
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype("int32")
    segments = (np.arange(width) >= 3).astype("int32") * mask
    return {"input_ids": ids * mask, "input_mask": mask, "segment_ids": segments}


def choices(inputs):
    """Four rows as two examples of two choices each."""
    return {name: array.reshape(2, 2, -1) for name, array in inputs.items()}


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
    with np.load(HUGGINGFACE / f"tiny_{name}.npz") as file:
        golden = dict(file)
    model = GOLDENS[name].from_pretrained(HUGGINGFACE / f"tiny_{name}", mask_padding=False)
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = dict(
        zip(("input_ids", "input_mask", "segment_ids"), map(golden.get, names), strict=True)
    )
    outputs = model(inputs)
    for key, array in as_dict(outputs).items():
        np.testing.assert_allclose(array, golden[key], atol=5e-5)
    targets = golden.get("labels")
    if targets is None:
        targets = {f"{end}_logits": golden[f"{end}_positions"] for end in ("start", "end")}
    loss = loss_of(model, outputs, targets, "sum_over_batch_size")
    assert loss == pytest.approx(float(golden["loss"]), abs=5e-5)


def answers():
    """Targets of question answering, with and without the joint head's."""
    simple = {"start_logits": np.array([4, 3, 0, 3]), "end_logits": np.array([7, 3, 0, 3])}
    return simple, simple | {"answerable_logits": np.array([0.0, 0.0, 1.0, 0.0], "float32")}


def cases():
    """For every kind of head: the model, and a batch to train it on."""
    random = np.random.default_rng(1)
    inputs = batch()
    labels = random.integers(0, 5, inputs["input_ids"].shape)
    labels[(inputs["input_mask"] == 0) | (random.random(labels.shape) < 0.3)] = -100
    simple, joint = answers()
    classifier = ConvBertForSequenceClassification
    several = {"num_labels": 3, "problem_type": "multi_label_classification"}
    answered = inputs | {"start_positions": joint["start_logits"]}
    return {
        "masked tokens": (lambda: ConvBertForMaskedLM(tiny()), inputs, labels),
        "one label": (lambda: classifier(tiny(num_labels=3)), inputs, np.array([2, 0, 1, 1])),
        "mlp": (lambda: classifier(tiny(), classifier_head="mlp"), inputs, np.array([1, 0, 1, 1])),
        "several labels": (lambda: classifier(tiny(**several)), inputs, np.eye(4, 3, k=1)),
        "regression": (lambda: classifier(tiny(num_labels=1)), inputs, np.array([0.1, 1, 0, 0.5])),
        "tokens": (lambda: ConvBertForTokenClassification(tiny(num_labels=5)), inputs, labels),
        "question": (lambda: ConvBertForQuestionAnswering(tiny()), inputs, simple),
        "joint question": (
            lambda: ConvBertForQuestionAnswering(tiny(), joint_prediction=True, beam_size=3),
            answered,
            joint,
        ),
        "choice": (
            lambda: ConvBertForMultipleChoice(tiny(summary_type="last")),
            choices(inputs),
            np.array([1, 0]),
        ),
    }


@pytest.mark.parametrize("kind", cases())
def test_fit_lowers_the_loss_and_what_was_learned_is_saved(kind, tmp_path):
    keras.utils.set_random_seed(0)
    make, inputs, targets = cases()[kind]
    model = make()
    before = loss_of(model, model(inputs), targets, "sum")
    jit_compile = backend.default_jit_compile()
    model.compile(keras.optimizers.Adam(0.01), **model.objective(), jit_compile=jit_compile)
    model.fit(inputs, targets, batch_size=4, epochs=10, verbose=0)
    after = loss_of(model, model(inputs), targets, "sum")
    assert after < 0.8 * before
    model.save_pretrained(tmp_path / "saved")
    model.save(tmp_path / "model.keras")
    del inputs["input_mask"]  # both forms know how to predict anything
    for again in (
        type(model).from_pretrained(tmp_path / "saved"),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        assert again.config == model.config
        assert loss_of(again, again(inputs), targets, "sum") == loss_of(
            model, model(inputs), targets, "sum"
        )


@pytest.mark.parametrize("kind", cases())
def test_padding_and_batch_change_nothing(kind):
    keras.utils.set_random_seed(2)
    model = cases()[kind][0]()
    together = as_dict(model(choices(batch()) if kind == "choice" else batch()))
    inputs = batch(width=19)
    if kind == "choice":
        outputs = as_dict(model(choices(inputs)))
        np.testing.assert_allclose(outputs["logits"], together["logits"], atol=1e-5)
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
    model = ConvBertForQuestionAnswering(tiny())
    logits = as_dict(model(batch()))
    for array in logits.values():
        assert array[batch()["input_mask"] == 0].max() < MASK_BIAS / 2


def test_objectives_sum_over_the_batch_or_take_its_mean():
    model = ConvBertForSequenceClassification(tiny(num_labels=3))
    logits, targets = model(batch()), np.array([2, 0, 1, 1])
    total = loss_of(model, logits, targets, "sum")
    mean = loss_of(model, logits, targets, "sum_over_batch_size")
    assert total == pytest.approx(4 * mean)
    sums = [
        loss_of(model, logits[i : i + 1], targets[i : i + 1], "sum") for i in range(len(targets))
    ]
    assert total == pytest.approx(sum(sums))


def expected_joint(model, hidden, allowed):
    """The original's formulas, a number at a time: float64 NumPy, no beam.

    Returns:
        Start logits [B, T], end logits [B, T (start), T], answerable logits [B].
    """

    def dense(vectors, name):
        rows = {row.tf1_name: row.variable for row in model.tensors()}
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
    keras.utils.set_random_seed(3)
    model = ConvBertForQuestionAnswering(tiny(), joint_prediction=True, beam_size=14)
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
    targets = answers()[1]
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


def test_the_joint_head_has_the_originals_variables():
    model = ConvBertForQuestionAnswering(tiny(), joint_prediction=True)
    shapes = {row.tf1_name: tuple(row.variable.shape) for row in model.tensors() if row.head}
    scope = "task_specific/{task}/"
    assert {name: shape for name, shape in shapes.items() if name.endswith("kernel")} == {
        f"{scope}dense/kernel": (32, 1),
        f"{scope}qa_hidden/kernel": (64, 512),
        f"{scope}dense_1/kernel": (512, 1),
        f"{scope}dense_2/kernel": (64, 512),
        f"{scope}dense_3/kernel": (512, 1),
    }


def test_from_pretrained_knows_the_kind_of_question_answering(tmp_path):
    config = tiny(num_labels=3, id2label=("a", "b", "c"))
    for joint in (False, True):
        path = tmp_path / str(joint)
        ConvBertForQuestionAnswering(config, joint, beam_size=7).save_pretrained(path)
        again = ConvBertForQuestionAnswering.from_pretrained(path)
        assert (again.joint_prediction, again.config.beam_size) == (joint, 7)
        assert (again.config.num_labels, again.config.id2label) == (2, None)
        with pytest.raises(InputError, match=f"`joint_prediction` .* is {str(joint).lower()}"):
            ConvBertForQuestionAnswering.from_pretrained(path, joint_prediction=not joint)
    ConvBertModel(tiny()).save_pretrained(tmp_path / "encoder")
    for joint in (False, True):
        model = ConvBertForQuestionAnswering.from_pretrained(
            tmp_path / "encoder", joint_prediction=joint, beam_size=4
        )
        assert (model.joint_prediction, model.config.beam_size) == (joint, 4)


def test_the_joint_head_needs_to_know_what_is_text():
    model = ConvBertForQuestionAnswering(tiny(), joint_prediction=True)
    with pytest.raises(ValueError, match="needs `segment_ids`"):
        model({"input_ids": np.ones((1, 4), "int32")})


def test_multiple_choice_reads_the_first_or_the_last_token():
    keras.utils.set_random_seed(4)
    inputs = choices(batch())
    first = ConvBertForMultipleChoice(tiny())
    last = ConvBertForMultipleChoice(tiny(summary_type="last"), convbert=first.convbert)
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


def test_the_summary_type_is_kept(tmp_path):
    ConvBertForMultipleChoice(tiny()).save_pretrained(tmp_path)
    assert ConvBertForMultipleChoice.from_pretrained(tmp_path).config.summary_type == "first"
    shutil.copytree(HUGGINGFACE / "tiny_multichoice", tmp_path, dirs_exist_ok=True)
    model = ConvBertForMultipleChoice.from_pretrained(tmp_path)
    assert model.config.summary_type == "last"  # as where transformers wrote nothing of it
    model.save_pretrained(tmp_path)
    assert ConvBertForMultipleChoice.from_pretrained(tmp_path).config.summary_type == "last"
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(fields | {"summary_activation": "tanh"}))
    with pytest.raises(InputError, match=r'config\.json: `summary_activation` is "tanh"'):
        ConvBertForMultipleChoice.from_pretrained(tmp_path)


def test_heads_can_share_an_encoder():
    first = ConvBertForTokenClassification(tiny(num_labels=5))
    second = ConvBertForSequenceClassification(tiny(num_labels=3), convbert=first.convbert)
    assert second.convbert is first.convbert
    shared = {id(variable) for variable in first.variables} & {
        id(variable) for variable in second.variables
    }
    assert shared == {id(variable) for variable in first.convbert.variables}
    with pytest.raises(InputError, match=r"`convbert` .*: hidden_act"):
        ConvBertForSequenceClassification(tiny(hidden_act="relu"), convbert=first.convbert)


def test_all_heads_are_public():
    for architecture in GOLDENS.values():
        assert getattr(models, architecture.architecture) is architecture
    assert "JointModel" in models.__all__
