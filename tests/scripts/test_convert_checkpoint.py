import json
import shutil

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from common.errors import InputError
from model import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForMultipleChoice,
    ConvBertForPreTraining,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
    ConvBertModel,
)
from model.config import Objective
from model.pretraining import gather_positions
from model.weights import warm_start
from scripts import convert_checkpoint, tf1_checkpoint
from tests.support import original

OBJECTIVES = {
    "electra": Objective(generator_hidden_size=0.5),
    "untied embeddings": Objective(generator_hidden_size=0.5, untied_generator_embeddings=True),
    "one encoder": Objective(untied_generator=False),
    "uniform": Objective(uniform_generator=True),
    "masked lm": Objective(electra_objective=False),
}


def tiny(**fields):
    sizes = {"vocab_size": 60, "max_position_embeddings": 20, "num_hidden_layers": 2}
    sizes |= {"hidden_size": 32, "embedding_size": 16, "intermediate_size": 64}
    return ConvBertConfig.from_size("tiny", **(sizes | fields))


def write_tf1(prefix, arrays):
    """A checkpoint as the original leaves it: with the optimizer's slots and the step."""
    slots = {f"{name}/{slot}": 0 * a for name, a in arrays.items() for slot in ("adam_m", "adam_v")}
    arrays = {**arrays, **slots, "global_step": np.int64(7)}
    names = sorted(arrays)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(arrays[name]) for name in names],
    )
    return str(prefix)


def read_tf1(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def drawn(rows, task=None):
    """Values of TF 1 variables, in the originals' shapes."""
    names = {row.tf1_name.format(task=task): tuple(row.variable.shape) for row in rows}
    return {name: original.weight(name, shape) for name, shape in names.items()}


def convert(*arguments):
    convert_checkpoint.main([str(argument) for argument in arguments])


def assert_same_arrays(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)


@pytest.fixture
def checkpoint(tmp_path):
    """A pre-training checkpoint of a tiny model."""
    rows = ConvBertForPreTraining(tiny(), OBJECTIVES["electra"]).tensors()
    return write_tf1(tmp_path / "model.ckpt-7", drawn(rows))


@pytest.mark.parametrize("size", ["small", "medium-small"])
def test_converted_models_compute_what_the_original_does(size, tmp_path, capsys):
    golden = original.load(f"forward_{size}.npz")
    variables = json.loads(str(golden["variables"]))
    weights = {name: original.weight(name, tuple(shape)) for name, shape in variables}
    prefix = write_tf1(tmp_path / "model.ckpt-7", weights)
    convert(prefix, tmp_path / "out", "--hparams", '{"mask_padding": false}')
    discriminator = ConvBertModel.from_pretrained(tmp_path / "out/discriminator")
    generator = ConvBertForMaskedLM.from_pretrained(tmp_path / "out/generator")
    assert discriminator.config == original.config(size, golden)
    assert generator.config.num_attention_heads == {"small": 1, "medium-small": 2}[size]
    inputs = {name: golden[name] for name in ("input_mask", "segment_ids")}
    seen = discriminator.activations(inputs | {"input_ids": golden["fake_input_ids"]})
    hidden = generator.convbert(inputs | {"input_ids": golden["masked_input_ids"]})
    gathered = gather_positions(hidden, golden["masked_lm_positions"])
    for name, ours in {
        "disc_layers": np.stack(seen["layers"]),
        "mlm_logits": generator.predict_tokens(gathered),
    }.items():
        assert original.relative_difference(ours, golden[name]) < 1e-4
    parameters = sum(array.size for array in weights.values())
    assert (
        f"{len(weights)} weights; {2 * len(weights) + 1} other tensors" in capsys.readouterr().out
    )
    convert("--to", "tf1", tmp_path / "out", tmp_path / "back")
    assert_same_arrays(read_tf1(tmp_path / "back"), weights | {"global_step": 0})
    assert f"{len(weights)} variables, {parameters:,} parameters" in capsys.readouterr().out


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_pretrained_models_go_there_and_back(objective, tmp_path):
    keras.utils.set_random_seed(1)
    model = ConvBertForPreTraining(tiny(), OBJECTIVES[objective])
    model.save_pretrained(tmp_path / "ours")
    convert("--to", "tf1", tmp_path / "ours", tmp_path / "tf1/model.ckpt-0")
    found = read_tf1(tmp_path / "tf1")
    expected = {row.tf1_name: np.asarray(row.variable) for row in model.tensors()}
    assert_same_arrays(found, expected | {"global_step": 0})
    convert(tmp_path / "tf1", tmp_path / "again")
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        for file in ("config.json", "model.safetensors"):
            ours, again = (tmp_path / run / name / file for run in ("ours", "again"))
            assert again.read_bytes() == ours.read_bytes(), again


def test_plain_attention_needs_the_number_of_heads(tmp_path):
    config = tiny(conv_type="noconv", head_ratio=1)
    model = ConvBertForPreTraining(config, OBJECTIVES["electra"])
    prefix = write_tf1(tmp_path / "model.ckpt-1", drawn(model.tensors()))
    with pytest.raises(InputError, match="do not tell the number of heads"):
        convert(prefix, tmp_path / "out")
    convert(prefix, tmp_path / "out", "--hparams", '{"num_attention_heads": 4}')
    assert ConvBertModel.from_pretrained(tmp_path / "out/discriminator").config == config
    generator = ConvBertForMaskedLM.from_pretrained(tmp_path / "out/generator").config
    assert (generator.hidden_size, generator.num_attention_heads) == (16, 2)
    convert("--to", "tf1", tmp_path / "out", tmp_path / "back")
    assert_same_arrays(read_tf1(tmp_path / "back"), drawn(model.tensors()) | {"global_step": 0})


def test_fine_tuned_heads_become_models(tmp_path, capsys):
    encoder = ConvBertModel(tiny())
    kinds = {
        "mnli": (ConvBertForSequenceClassification, 3),
        "sts": (ConvBertForSequenceClassification, 1),
        "mine": (ConvBertForSequenceClassification, 4),
        "chunk": (ConvBertForTokenClassification, 23),
        "ner": (ConvBertForTokenClassification, 5),
    }
    weights = {}
    for task, (kind, outputs) in kinds.items():
        weights |= drawn(kind(tiny(num_labels=outputs), convbert=encoder).tensors(), task)
    answers = ConvBertForQuestionAnswering(tiny(), joint_prediction=True, convbert=encoder)
    weights |= drawn(answers.tensors(), "squad")
    prefix = write_tf1(tmp_path / "model.ckpt-3", weights)
    convert(prefix, tmp_path / "out", "--tagging", "ner")
    unnamed = [line for line in capsys.readouterr().out.splitlines() if "have no names" in line]
    assert [line.split()[4] for line in unnamed] == ["chunk", "mine", "ner"]
    inputs = {"input_ids": np.arange(5, 17).reshape(1, 12)}
    hidden = np.asarray(ConvBertModel.from_pretrained(tmp_path / "out/mnli")(inputs))
    for task, (kind, outputs) in kinds.items():
        model = kind.from_pretrained(tmp_path / "out" / task)
        vectors = hidden if kind is ConvBertForTokenClassification else hidden[:, 0]
        kernel, bias = (
            weights[f"task_specific/{task}/dense/{name}"] for name in ("kernel", "bias")
        )
        np.testing.assert_allclose(model(inputs), vectors @ kernel + bias, atol=1e-5)
        assert model.config.num_labels == outputs
    config = ConvBertModel.from_pretrained(tmp_path / "out/mnli").config
    assert config.id2label == ("contradiction", "entailment", "neutral")
    config = ConvBertModel.from_pretrained(tmp_path / "out/sts").config
    assert (config.problem_type, config.score_range) == ("regression", (0.0, 5.0))
    squad = ConvBertForQuestionAnswering.from_pretrained(tmp_path / "out/squad")
    assert squad.joint_prediction
    np.testing.assert_array_equal(
        squad.head.answerable.kernel, weights["task_specific/squad/dense_3/kernel"]
    )
    convert("--to", "tf1", tmp_path / "out", tmp_path / "back")
    assert_same_arrays(read_tf1(tmp_path / "back"), weights | {"global_step": 0})
    shutil.move(tmp_path / "out/mine", tmp_path / "mine_2")
    for arguments, task in ((), "mine"), (("--task", "other"), "other"):
        convert("--to", "tf1", tmp_path / "mine_2", tmp_path / task, *arguments)
        assert f"task_specific/{task}/dense/kernel" in read_tf1(tmp_path / task)


def test_labels_and_dropout_are_given_by_hparams(tmp_path):
    model = ConvBertForSequenceClassification(tiny())
    prefix = write_tf1(tmp_path / "model.ckpt-3", drawn(model.tensors(), "mine"))
    hparams = {"id2label": ["no", "yes"], "hidden_dropout_prob": 0.2}
    convert(prefix, tmp_path / "out", "--hparams", json.dumps(hparams))
    config = ConvBertForSequenceClassification.from_pretrained(tmp_path / "out/mine").config
    assert (config.id2label, config.hidden_dropout_prob) == (("no", "yes"), 0.2)


def test_a_vocabulary_is_put_beside_each_model(tmp_path, checkpoint):
    vocab = tmp_path / "words.txt"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(55))]
    vocab.write_text("\n".join(tokens[:-1]) + "\n")
    with pytest.raises(InputError, match=r"words\.txt has 59 tokens, but .* are of 60"):
        convert(checkpoint, tmp_path / "out", "--vocab-file", vocab)
    vocab.write_text("\n".join(tokens) + "\n")
    convert(checkpoint, tmp_path / "out", "--vocab-file", vocab, "--cased")
    for name in ("discriminator", "generator"):
        assert (tmp_path / "out" / name / "vocab.txt").read_text() == vocab.read_text()
        fields = json.loads((tmp_path / "out" / name / "tokenizer_config.json").read_text())
        assert (fields["do_lower_case"], fields["model_max_length"]) == (False, 20)


def test_variables_that_do_not_fit_are_listed(tmp_path):
    weights = drawn(ConvBertForPreTraining(tiny(), OBJECTIVES["electra"]).tensors())
    del weights["electra/encoder/layer_1/output/LayerNorm/beta"]
    weights["generator/encoder/layer_0/attention/self/key/bias"] = np.zeros(3, "float32")
    weights["electra/encoder/layer_9/output/LayerNorm/beta"] = np.zeros(32, "float32")
    prefix = write_tf1(tmp_path / "model.ckpt-3", weights)
    with pytest.raises(InputError) as error:
        convert(prefix, tmp_path / "out")
    for part in (
        "missing: electra/encoder/layer_1/output/LayerNorm/beta (32,)",
        "shape of generator/encoder/layer_0/attention/self/key/bias: (3,), expected (8,)",
        "left over: electra/encoder/layer_9/output/LayerNorm/beta (32,)",
    ):
        assert part in str(error.value)
    assert not (tmp_path / "out").exists()


def test_shapes_of_a_huge_network_are_refused_before_it_is_made(tmp_path):
    weights = drawn(ConvBertForPreTraining(tiny(), OBJECTIVES["electra"]).tensors())
    wide = np.zeros((1, 4_000_000), "float32")
    weights["electra/encoder/layer_0/intermediate/dense/kernel"] = wide
    weights["electra/encoder/layer_0/attention/output/dense/kernel"] = wide
    del weights["electra/encoder/layer_0/intermediate/g_dense/kernel"]
    prefix = write_tf1(tmp_path / "model.ckpt-3", weights)
    with pytest.raises(InputError, match="more than 64,000,384,001,888 parameters"):
        convert(prefix, tmp_path / "out")


def test_options_that_do_not_fit_are_named(tmp_path, checkpoint):
    for arguments, message in (
        (["--hparams", '{"hidden_size": 64}'], "hidden_size 64, and the shapes of .* 32"),
        (["--hparams", '{"hidden_sizes": 64}'], "unknown hyper-parameter `hidden_sizes`"),
        (["--hparams", '{"num_labels": 3}'], "num_labels is of fine-tuned heads"),
        (["--tagging", "ner"], "has no head of 'ner'"),
    ):
        with pytest.raises(InputError, match=message):
            convert(checkpoint, tmp_path / "out", *arguments)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(InputError, match="out exists already"):
        convert(checkpoint, tmp_path / "out")
    for target, message in (
        (checkpoint, "exists already"),
        (tmp_path, "is a folder: name the checkpoint to write"),
        (f"{tmp_path}/new/", "new/ is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            convert("--to", "tf1", tmp_path / "out", target)
    with pytest.raises(SystemExit):
        convert("--to", "tf1", "--cased", tmp_path / "out", tmp_path / "new")


def test_a_task_cannot_lead_out_of_the_folder(tmp_path):
    weights = drawn(ConvBertForSequenceClassification(tiny()).tensors(), "..")
    prefix = write_tf1(tmp_path / "model.ckpt-3", weights)
    with pytest.raises(InputError, match=r"a directory cannot be called as the task '\.\.'"):
        convert(prefix, tmp_path / "in/out")
    assert not (tmp_path / "in").exists()


def test_a_checkpoint_is_found_in_its_folder(tmp_path, checkpoint):
    assert tf1_checkpoint.find_prefix(str(tmp_path)) == checkpoint
    for file in (".index", ".data-00000-of-00001"):
        assert tf1_checkpoint.find_prefix(checkpoint + file) == checkpoint
    for ending in (".index", ".data-00000-of-00001"):
        shutil.copy(checkpoint + ending, f"{tmp_path}/model.ckpt-8{ending}")
    with pytest.raises(InputError, match=r"several checkpoints.*: model\.ckpt-7, model\.ckpt-8"):
        tf1_checkpoint.find_prefix(str(tmp_path))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/moved/since/model.ckpt-8"\n')
    assert tf1_checkpoint.find_prefix(str(tmp_path)) == str(tmp_path / "model.ckpt-8")


def test_what_is_no_checkpoint_of_the_original_is_refused(tmp_path, checkpoint):
    (tmp_path / "empty").mkdir()
    other = write_tf1(tmp_path / "bert.ckpt", {"bert/embeddings/word_embeddings": np.ones((3, 2))})
    numbers = write_tf1(tmp_path / "ids.ckpt", {"electra/ids": np.arange(3)})
    for path, message in (
        (tmp_path / "nowhere", "nowhere is no TF 1 checkpoint"),
        (tmp_path / "empty", "empty holds no TF 1 checkpoint"),
        (other, "needs a variable electra/embeddings/word_embeddings"),
        (numbers, r"no ConvBERT weight: electra/ids \(int64\)"),
    ):
        with pytest.raises(InputError, match=message):
            convert(path, tmp_path / "out")


def test_a_damaged_checkpoint_is_named(tmp_path, checkpoint):
    index, data = (tmp_path / f"model.ckpt-7{end}" for end in (".index", ".data-00000-of-00001"))
    whole = {path: path.read_bytes() for path in (index, data)}
    flipped = bytearray(whole[data])
    flipped[1000] ^= 1
    for path, content in (
        (data, whole[data][:1000]),
        (data, bytes(flipped)),
        (data, None),
        (index, whole[index][:100]),
        (index, b""),
    ):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.ckpt-7: damaged"):
            convert(checkpoint, tmp_path / "out")
        path.write_bytes(whole[path])
    convert(checkpoint, tmp_path / "out")


def test_from_pretrained_names_the_command(tmp_path, checkpoint):
    for path in (checkpoint, checkpoint + ".index", tmp_path):
        for load in (ConvBertModel.from_pretrained, warm_start.find_models):
            with pytest.raises(InputError, match=r"convert_checkpoint\.py .* OUT_DIR"):
                load(str(path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ConvBertForSequenceClassification(tiny(), classifier_head="mlp"),
            r"the original has no variable for classifier\.dense\.weight \(32, 32\)",
        ),
        (
            lambda: ConvBertForQuestionAnswering(tiny()),
            r"the original has no variable for qa_outputs\.weight \(2, 32\)",
        ),
        (lambda: ConvBertForMultipleChoice(tiny()), "the original has no multiple choice"),
        (lambda: ConvBertModel(tiny(attention_head_size=7)), "its 2 heads are 7 wide"),
    ],
)
def test_what_the_original_cannot_hold_is_refused(make, message, tmp_path):
    make().save_pretrained(tmp_path / "ours")
    with pytest.raises(InputError, match=message):
        convert("--to", "tf1", tmp_path / "ours", tmp_path / "model.ckpt-0")
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]


def test_models_that_are_not_of_one_run_are_refused(tmp_path):
    for name in ("cola", "sst"):
        ConvBertForSequenceClassification(tiny()).save_pretrained(tmp_path / "tasks" / name)
    with pytest.raises(InputError, match="differs between cola and sst"):
        convert("--to", "tf1", tmp_path / "tasks", tmp_path / "model.ckpt-0")
    ConvBertModel(tiny()).save_pretrained(tmp_path / "run/discriminator")
    ConvBertForMaskedLM(tiny().generator(0.5)).save_pretrained(tmp_path / "run/generator")
    convert("--to", "tf1", tmp_path / "run", tmp_path / "model.ckpt-0")  # as wide as itself
    config = tiny(embedding_size=24).generator(0.5)
    ConvBertForMaskedLM(config).save_pretrained(tmp_path / "run/generator")
    message = "embeddings of its own: embedding_size 24, not 16"
    with pytest.raises(InputError, match=message):
        convert("--to", "tf1", tmp_path / "run", tmp_path / "model.ckpt-1")


def test_settings_that_are_lost_are_said(tmp_path, capsys):
    config = tiny(hidden_act="gelu_new", id2label=("a", "b"), layer_norm_eps=1e-6)
    ConvBertForSequenceClassification(config).save_pretrained(tmp_path / "cola")
    convert("--to", "tf1", tmp_path / "cola", tmp_path / "model.ckpt-0")
    printed = capsys.readouterr().out
    for part in ("mask padding", 'no hidden_act "gelu_new"', "layer_norm_eps is 1e-06", "labels"):
        assert part in printed
    tensors = safetensors.numpy.load_file(tmp_path / "cola/model.safetensors")
    np.testing.assert_array_equal(
        read_tf1(tmp_path / "model.ckpt-0")["task_specific/cola/dense/kernel"],
        tensors["classifier.weight"].T,
    )
