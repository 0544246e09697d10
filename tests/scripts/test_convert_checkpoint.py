"""Models of transformers, and TF 1 checkpoints of the original release, become saved models."""

import argparse
import contextlib
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import model as library
from common.errors import InputError
from model import ConvBertConfig, ConvBertForPreTraining, ConvBertModel
from model.config import Objective
from model.masking import gather_positions
from model.weights import tf1, warm_start
from scripts import convert_checkpoint
from tests.support import original
from tests.support.corpora import contents
from tests.support.huggingface import CLASSES, HUGGINGFACE, edit_config
from tests.support.random_models import VOCAB


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def convert(*arguments):
    convert_checkpoint.main([str(argument) for argument in arguments])


def fails(match, *arguments):
    """An `InputError`; returns its message."""
    with pytest.raises(InputError, match=match) as error:
        convert(*arguments)
    return str(error.value)


# --- Models of transformers -------------------------------------------------------------------


def tensors(directory):
    return safetensors.numpy.load_file(Path(directory) / "model.safetensors")


@pytest.fixture
def source(tmp_path):
    """A copy of what transformers saved, with a vocabulary."""
    directory = tmp_path / "source"
    shutil.copytree(HUGGINGFACE / "tiny_seqcls", directory)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return directory


@pytest.mark.parametrize("name", CLASSES)
def test_models_of_transformers_keep_their_tensors_and_outputs(name, out, capsys):
    directory = HUGGINGFACE / name
    convert(directory, out, "--expected", f"{directory}.npz", "--tolerance", 5e-5)
    printed = capsys.readouterr().out
    assert f": {CLASSES[name]}, " in printed
    assert printed.count("largest difference") == (2 if name == "tiny_qa" else 1)
    assert "there is no vocabulary" in printed
    ours, theirs = tensors(out), tensors(directory)
    assert set(ours) == set(theirs) - {"embeddings.position_ids", "generator_lm_head.weight"}
    for key, array in ours.items():
        np.testing.assert_array_equal(array, theirs[key].astype("float32"))
    assert json.loads((out / "config.json").read_text())["architectures"] == [CLASSES[name]]
    getattr(library, CLASSES[name]).from_pretrained(out)


def test_models_of_the_tensorflow_classes_keep_their_outputs(out, capsys):
    directory = HUGGINGFACE / "tf4_seqcls"
    convert(directory, out, "--expected", f"{directory}.npz", "--tolerance", 1e-5)
    printed = capsys.readouterr().out
    assert "57 tensors, " in printed and "bit for bit" in printed


def test_the_tokenizer_and_the_names_of_labels_are_kept(source, out, capsys):
    labels = {str(i): f"name {i}" for i in range(3)}
    edit_config(source, id2label=labels, architectures=["TFConvBertForSequenceClassification"])
    convert(source, out, "--hparams", '{"mask_padding": false}')
    fields = json.loads((out / "config.json").read_text())
    assert (fields["id2label"], fields["mask_padding"]) == (labels, False)
    assert (out / "vocab.txt").read_text().split("\n")[:-1] == VOCAB
    assert "note" not in capsys.readouterr().out


def expect(name, directory, change):
    """Options that compare a golden model with changed arrays."""
    with np.load(HUGGINGFACE / f"{name}.npz") as golden:
        arrays = dict(golden)
    change(arrays)
    np.savez(directory / "expected.npz", **arrays)
    return HUGGINGFACE / name, directory / "out", "--expected", directory / "expected.npz"


def test_hidden_states_and_attentions_are_compared(tmp_path, capsys):
    def stack(arrays):
        for name in ("hidden_states", "attentions"):
            parts = [key for key in arrays if key.startswith(f"{name}_")]
            arrays[name] = np.stack([arrays.pop(f"{name}_{i}") for i in range(len(parts))])

    convert(*expect("tiny_relu", tmp_path, stack))
    printed = capsys.readouterr().out
    assert "hidden_states: largest difference" in printed
    assert "attentions: largest difference" in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays["logits"].__iadd__(1e-3), r"logits .* 1\.00e-03, .* 0\.0001"),
        (lambda arrays: arrays["logits"].fill(np.nan), "logits .* nan"),
        (lambda arrays: arrays.update(logits=arrays["logits"][:1]), "logits has the shape"),
        (lambda arrays: arrays.pop("logits"), "no outputs of ConvBertForMaskedLM"),
        (lambda arrays: arrays.pop("input_ids"), "has no input_ids"),
        (lambda arrays: arrays["input_ids"].fill(99), "from 0 to 39 for `input_ids`"),
        (lambda arrays: arrays["attention_mask"].fill(-1), "from 0 to 1 for `input_mask`"),
        (lambda arrays: arrays.update(input_ids=np.zeros(3, int)), "expected arrays"),
        (lambda arrays: arrays.update(logits=np.array(["a"])), "logits must hold numbers"),
    ],
)
def test_other_outputs_are_an_error_and_leave_nothing(change, message, tmp_path):
    options = expect("tiny_mlm", tmp_path, change)
    fails(rf"expected\.npz.*{message}", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["expected.npz"]


def test_damaged_expectations(tmp_path):
    *options, path = expect("tiny_mlm", tmp_path, lambda arrays: None)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:100], b"PK", b""):
        path.write_bytes(damaged)
        fails(r"expected\.npz is not an \.npz", *options, path)
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    fails(r"expected\.npz is not an \.npz.* one array", *options, path)
    fails(r"config\.json is not an \.npz", *options, HUGGINGFACE / "tiny_mlm" / "config.json")


def test_a_missing_head_is_an_error(tmp_path, out):
    options = ("--architecture", "ConvBertForTokenClassification")
    fails(r"\n  missing: classifier\.weight", HUGGINGFACE / "tiny_relu", out, *options)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_be_converted(source, tmp_path, out):
    fails(r"no such directory: .*nowhere", tmp_path / "nowhere", out)
    fails("source already exists", source, source)
    fails("--tagging does not apply", source, out, "--tagging", "ner")
    for names, message in ((["ElectraModel"], "`ElectraModel`"), (None, "`architectures`")):
        edit_config(source, architectures=names)
        fails(rf"config\.json: .*{message}", source, out)
    edit_config(source, architectures=["ConvBertForSequenceClassification"])
    (source / "vocab.txt").write_text("\n".join(VOCAB + [f"w{i}" for i in range(999)]) + "\n")
    fails(r"source has 1,\d+ tokens", source, out)


# --- TF 1 checkpoints -------------------------------------------------------------------------

OBJECTIVES = {
    "electra": Objective(generator_hidden_size=0.5),
    "fewer layers": Objective(generator_hidden_size=0.5, generator_layers=0.5),
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
    """A checkpoint as the original writes it: with the optimizer's slots and the step."""
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


def random_weights(rows, task=None):
    """Values of TF 1 variables, in the original's shapes."""
    shapes = {row.tf1_name.format(task=task): tuple(row.variable.shape) for row in rows}
    return {name: original.weight(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def weights():
    """Those of a tiny pre-training model."""
    return random_weights(ConvBertForPreTraining(tiny(), OBJECTIVES["electra"]).tensors())


@pytest.fixture
def checkpoint(tmp_path, weights):
    return write_tf1(tmp_path / "model.ckpt-7", weights)


@pytest.mark.parametrize("size", ["small", "medium-small"])
def test_converted_models_compute_what_the_original_does(size, tmp_path, out, capsys):
    golden = original.load(f"forward_{size}.npz")
    variables = json.loads(str(golden["variables"]))
    weights = {name: original.weight(name, tuple(shape)) for name, shape in variables}
    prefix = write_tf1(tmp_path / "model.ckpt-7", weights)
    convert(prefix, out, "--hparams", '{"mask_padding": false}')
    discriminator = ConvBertModel.from_pretrained(out / "discriminator")
    generator = library.ConvBertForMaskedLM.from_pretrained(out / "generator")
    assert discriminator.config == original.config(size, golden)
    assert generator.config.num_attention_heads == {"small": 1, "medium-small": 2}[size]
    inputs = {name: golden[name] for name in ("input_mask", "segment_ids")}
    seen = discriminator.activations(inputs | {"input_ids": golden["fake_input_ids"]})
    hidden = generator.convbert(inputs | {"input_ids": golden["masked_input_ids"]})
    gathered = gather_positions(hidden, golden["masked_lm_positions"])
    layers, logits = np.stack(seen["layers"]), generator.predict_tokens(gathered)
    assert original.relative_difference(layers, golden["disc_layers"]) < 1e-4
    assert original.relative_difference(logits, golden["mlm_logits"]) < 1e-4
    counts = f"{len(weights)} weights; {2 * len(weights) + 1} other tensors"
    assert counts in capsys.readouterr().out


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_checkpoints_of_every_objective_become_what_pretraining_saves(objective, tmp_path, out):
    keras.utils.set_random_seed(1)
    model = ConvBertForPreTraining(tiny(), OBJECTIVES[objective])
    model.save_pretrained(tmp_path / "ours")
    prefix = tmp_path / "model.ckpt-7"
    write_tf1(prefix, {row.tf1_name: np.asarray(row.variable) for row in model.tensors()})
    convert(prefix, out)
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert sorted(path.name for path in out.iterdir()) == names
    for name in names:
        assert contents(out / name) == contents(tmp_path / "ours" / name), name


def test_an_encoder_alone(tmp_path, out):
    weights = random_weights(ConvBertModel(tiny()).tensors())
    convert(write_tf1(tmp_path / "model.ckpt-1", weights), out)
    table = ConvBertModel.from_pretrained(out / "encoder").embeddings.word_embeddings
    np.testing.assert_array_equal(table, weights["electra/embeddings/word_embeddings"])


def test_plain_attention_needs_the_number_of_heads(tmp_path, out):
    config = tiny(conv_type="noconv", head_ratio=1)
    model = ConvBertForPreTraining(config, OBJECTIVES["electra"])
    prefix = write_tf1(tmp_path / "model.ckpt-1", random_weights(model.tensors()))
    fails("--hparams .*num_attention_heads", prefix, out)
    convert(prefix, out, "--hparams", '{"num_attention_heads": 4}')
    assert ConvBertModel.from_pretrained(out / "discriminator").config == config
    generator = library.ConvBertForMaskedLM.from_pretrained(out / "generator").config
    assert (generator.hidden_size, generator.num_attention_heads) == (16, 2)


def test_fine_tuned_heads_become_models(tmp_path, out, capsys):
    encoder = ConvBertModel(tiny())
    heads = {
        "mnli": (library.ConvBertForSequenceClassification, 3),
        "sts": (library.ConvBertForSequenceClassification, 1),
        "mine": (library.ConvBertForSequenceClassification, 4),
        "chunk": (library.ConvBertForTokenClassification, 23),
        "ner": (library.ConvBertForTokenClassification, 5),
    }
    answers = library.ConvBertForQuestionAnswering(tiny(), joint_prediction=True, convbert=encoder)
    weights = random_weights(answers.tensors(), "squad")
    for task, (model_class, outputs) in heads.items():
        model = model_class(tiny(num_labels=outputs), convbert=encoder)
        weights |= random_weights(model.tensors(), task)
    convert(write_tf1(tmp_path / "model.ckpt-3", weights), out, "--tagging", "ner")
    unnamed = [line for line in capsys.readouterr().out.splitlines() if "no names" in line]
    assert [line.split()[1] for line in unnamed] == ["chunk", "mine", "ner"]
    inputs = {"input_ids": np.arange(5, 17).reshape(1, 12)}
    hidden = np.asarray(ConvBertModel.from_pretrained(out / "mnli")(inputs))
    for task, (model_class, outputs) in heads.items():
        model = model_class.from_pretrained(out / task)
        vectors = hidden if model_class is library.ConvBertForTokenClassification else hidden[:, 0]
        kernel, bias = (weights[f"task_specific/{task}/dense/{n}"] for n in ("kernel", "bias"))
        np.testing.assert_allclose(model(inputs), vectors @ kernel + bias, atol=1e-5)
        assert model.config.num_labels == outputs
    config = ConvBertModel.from_pretrained(out / "mnli").config
    assert config.id2label == ("contradiction", "entailment", "neutral")
    config = ConvBertModel.from_pretrained(out / "sts").config
    assert (config.problem_type, config.score_range) == ("regression", (0.0, 5.0))
    squad = library.ConvBertForQuestionAnswering.from_pretrained(out / "squad")
    assert squad.joint_prediction
    kernel = weights["task_specific/squad/dense_3/kernel"]
    np.testing.assert_array_equal(squad.head.answerable.kernel, kernel)


def test_names_of_labels_and_dropout_come_from_hparams(tmp_path, out):
    model = library.ConvBertForSequenceClassification(tiny())
    prefix = write_tf1(tmp_path / "model.ckpt-3", random_weights(model.tensors(), "mine"))
    hparams = {"id2label": ["no", "yes"], "hidden_dropout_prob": 0.2}
    convert(prefix, out, "--hparams", json.dumps(hparams))
    config = library.ConvBertForSequenceClassification.from_pretrained(out / "mine").config
    assert (config.id2label, config.hidden_dropout_prob) == (("no", "yes"), 0.2)


def test_a_vocabulary_is_saved_with_each_model(tmp_path, out, checkpoint):
    vocab = tmp_path / "words.txt"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(55))]
    vocab.write_text("\n".join(tokens[:-1]) + "\n")
    fails(r"words\.txt has 59 tokens, .* 60", checkpoint, out, "--vocab-file", vocab)
    for size in (64, 200):  # padded to a multiple of 8, or simply another size
        args = argparse.Namespace(vocab_file=str(vocab), cased=False)
        with pytest.raises(InputError) if size == 200 else contextlib.nullcontext():
            convert_checkpoint.load_tokenizer(args, tiny(vocab_size=size))
    vocab.write_text("\n".join(tokens) + "\n")
    convert(checkpoint, out, "--vocab-file", vocab, "--cased")
    for name in ("discriminator", "generator"):
        assert (out / name / "vocab.txt").read_text() == vocab.read_text()
        fields = json.loads((out / name / "tokenizer_config.json").read_text())
        assert (fields["do_lower_case"], fields["model_max_length"]) == (False, 20)


def test_variables_that_do_not_fit_are_listed(tmp_path, out, weights):
    changes = {
        "generator/encoder/layer_0/attention/self/key/bias": np.zeros(3, "float32"),
        "electra/encoder/layer_9/output/LayerNorm/beta": np.zeros(32, "float32"),
    }
    changed = weights | changes
    del changed["electra/encoder/layer_1/output/LayerNorm/beta"]
    message = fails(r"model\.ckpt-3", write_tf1(tmp_path / "model.ckpt-3", changed), out)
    for part in (
        "missing: electra/encoder/layer_1/output/LayerNorm/beta (32,)",
        "shape of generator/encoder/layer_0/attention/self/key/bias: (3,), expected (8,)",
        "left over: electra/encoder/layer_9/output/LayerNorm/beta (32,)",
    ):
        assert part in message
    assert not out.exists()


def test_shapes_of_a_huge_network_are_refused_before_it_is_built(tmp_path, out, weights):
    wide = np.zeros((1, 4_000_000), "float32")
    layer = "electra/encoder/layer_0"
    changed = weights | {f"{layer}/intermediate/dense/kernel": wide}
    changed |= {f"{layer}/attention/output/dense/kernel": wide}
    del changed[f"{layer}/intermediate/g_dense/kernel"]
    prefix = write_tf1(tmp_path / "model.ckpt-3", changed)
    fails(r"model\.ckpt-3: .* more than [\d,]{14,} parameters", prefix, out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hparams", '{"hidden_size": 64}'], "`hidden_size` is 64, .* show 32"),
        (["--hparams", '{"hidden_sizes": 64}'], "`hidden_sizes`"),
        (["--hparams", '{"num_labels": 3}'], "num_labels: .* no fine-tuned head"),
        (["--tagging", "ner"], "--tagging: .*`ner`"),
        (["--expected", "outputs.npz"], "--expected does not apply"),
    ],
)
def test_options_that_do_not_fit_are_named(out, checkpoint, arguments, message):
    fails(message, checkpoint, out, *arguments)
    out.mkdir()
    (out / "mine").touch()
    fails("out already exists", checkpoint, out)


def test_a_task_cannot_name_another_directory(tmp_path, out):
    weights = random_weights(library.ConvBertForSequenceClassification(tiny()).tensors(), "..")
    fails(r"model\.ckpt-3: .*'\.\.'", write_tf1(tmp_path / "model.ckpt-3", weights), out)
    assert not out.exists()


def test_a_checkpoint_is_found_in_its_directory(tmp_path, checkpoint):
    endings = (".index", ".data-00000-of-00001")
    for path in (tmp_path, checkpoint, *(checkpoint + ending for ending in endings)):
        assert tf1.is_checkpoint(str(path))
        assert tf1.find_prefix(str(path)) == checkpoint
        for load in (ConvBertModel.from_pretrained, warm_start.find_models):
            with pytest.raises(InputError, match=r"convert_checkpoint\.py .* OUT_DIR"):
                load(str(path))
    for ending in endings:
        shutil.copy(checkpoint + ending, f"{tmp_path}/model.ckpt-8{ending}")
    with pytest.raises(InputError, match=r"several .*: model\.ckpt-7, model\.ckpt-8"):
        tf1.find_prefix(str(tmp_path))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/moved/since/model.ckpt-8"\n')
    assert tf1.find_prefix(str(tmp_path)) == str(tmp_path / "model.ckpt-8")


def test_other_checkpoints_are_refused(tmp_path, out):
    other = write_tf1(tmp_path / "bert.ckpt", {"bert/embeddings/word_embeddings": np.ones((3, 2))})
    fails(r"bert\.ckpt .* needs a variable electra/embeddings/word_embeddings", other, out)
    numbers = write_tf1(tmp_path / "ids.ckpt", {"electra/ids": np.arange(3)})
    fails(r"ids\.ckpt: electra/ids is int64", numbers, out)


def test_a_damaged_checkpoint_is_named(tmp_path, out, checkpoint):
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
        fails(r"model\.ckpt-7: damaged", checkpoint, out)
        path.write_bytes(whole[path])
    convert(checkpoint, out)
