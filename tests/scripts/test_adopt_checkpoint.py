import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import model as library
from common.errors import InputError
from scripts import adopt_checkpoint
from tests.support.random_models import VOCAB

HUGGINGFACE = Path(__file__).parents[1] / "goldens" / "huggingface"
CLASSES = {
    "relu": "ConvBertModel",
    "mlm": "ConvBertForMaskedLM",
    "seqcls": "ConvBertForSequenceClassification",
    "tokcls": "ConvBertForTokenClassification",
    "qa": "ConvBertForQuestionAnswering",
    "multichoice": "ConvBertForMultipleChoice",
}


def adopt(*arguments):
    adopt_checkpoint.main([str(argument) for argument in arguments])


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
def test_what_transformers_saved_comes_out_with_its_tensors_and_outputs(name, tmp_path, capsys):
    directory, target = HUGGINGFACE / f"tiny_{name}", tmp_path / "adopted"
    adopt(directory, target, "--expected", f"{directory}.npz", "--tolerance", 5e-5)
    printed = capsys.readouterr().out
    assert f"{CLASSES[name]}, " in printed
    assert printed.count("the largest difference is") == (2 if name == "qa" else 1)
    assert "the source has no vocabulary" in printed
    adopted, theirs = tensors(target), tensors(directory)
    assert set(adopted) == set(theirs) - {"embeddings.position_ids", "generator_lm_head.weight"}
    for key, array in adopted.items():
        np.testing.assert_array_equal(array, theirs[key].astype("float32"))
    fields = json.loads((target / "config.json").read_text())
    assert fields["architectures"] == [CLASSES[name]]
    getattr(library, CLASSES[name]).from_pretrained(target)


@pytest.mark.skipif(
    not importlib.util.find_spec("model.weights.files"), reason="needs the reader of tf_model.h5"
)
def test_what_tensorflow_classes_saved_comes_out_with_their_outputs(tmp_path, capsys):
    directory = HUGGINGFACE / "tf4_seqcls"
    adopt(directory, tmp_path / "out", "--expected", f"{directory}.npz", "--tolerance", 1e-5)
    assert "57 tensors: read again, each has the bits" in capsys.readouterr().out


def test_the_tokenizer_and_the_names_of_labels_come_along(source, tmp_path, capsys):
    config = json.loads((source / "config.json").read_text())
    labels = {key: f"name {key}" for key in config["id2label"]}
    config |= {"id2label": labels, "architectures": ["TFConvBertForSequenceClassification"]}
    (source / "config.json").write_text(json.dumps(config))
    adopt(source, tmp_path / "adopted", "--hparams", '{"mask_padding": false}')
    adopted = json.loads((tmp_path / "adopted" / "config.json").read_text())
    assert adopted["id2label"] == labels
    assert adopted["mask_padding"] is False
    assert (tmp_path / "adopted" / "vocab.txt").read_text().split("\n")[:-1] == VOCAB
    assert "note" not in capsys.readouterr().out


def test_hidden_states_and_attentions_are_compared(tmp_path, capsys):
    with np.load(HUGGINGFACE / "tiny_relu.npz") as golden:
        arrays = dict(golden)
    for name in ("hidden_states", "attentions"):
        parts = [key for key in arrays if key.startswith(f"{name}_")]
        arrays[name] = np.stack([arrays.pop(f"{name}_{i}") for i in range(len(parts))])
    np.savez(tmp_path / "expected.npz", **arrays)
    adopt(HUGGINGFACE / "tiny_relu", tmp_path / "out", "--expected", tmp_path / "expected.npz")
    printed = capsys.readouterr().out
    assert "hidden_states: the largest difference" in printed
    assert "attentions: the largest difference" in printed


@pytest.mark.parametrize("change", ["output", "not a number", "shape", "nothing", "no ids"])
def test_other_outputs_are_an_error_and_leave_nothing(change, tmp_path):
    with np.load(HUGGINGFACE / "tiny_mlm.npz") as golden:
        arrays = dict(golden)
    message = {
        "output": r"the largest difference .* is 1\.00e-03, above --tolerance 0\.0001",
        "not a number": "the largest difference .* is inf",
        "shape": "logits has the shape",
        "nothing": "has none of the outputs of ConvBertForMaskedLM",
        "no ids": "has no input_ids",
    }[change]
    if change == "output":
        arrays["logits"][0, 0, 0] += 1e-3
    elif change == "not a number":
        arrays["logits"][0, 0, 0] = np.nan
    elif change == "shape":
        arrays["logits"] = arrays["logits"][:1]
    else:
        del arrays["logits" if change == "nothing" else "input_ids"]
    np.savez(tmp_path / "expected.npz", **arrays)
    with pytest.raises(InputError, match=message):
        adopt(HUGGINGFACE / "tiny_mlm", tmp_path / "out", "--expected", tmp_path / "expected.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["expected.npz"]


def test_a_head_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"not hold a whole .*\n  missing: classifier\.weight"):
        adopt(
            HUGGINGFACE / "tiny_relu",
            tmp_path / "out",
            "--architecture",
            "ConvBertForTokenClassification",
        )
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_used_is_named(source, tmp_path):
    config = json.loads((source / "config.json").read_text())
    for names, message in (
        (["ElectraModel"], "there is no class ElectraModel, only: ConvBertForMaskedLM"),
        (None, "does not name the model's class: give --architecture"),
    ):
        (source / "config.json").write_text(json.dumps(config | {"architectures": names}))
        with pytest.raises(InputError, match=rf"config\.json.*{message}"):
            adopt(source, tmp_path / "out")
    with pytest.raises(InputError, match="No such file"):
        adopt(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        adopt(source, source)
    with pytest.raises(InputError, match=r"is not an \.npz file"):
        adopt(
            HUGGINGFACE / "tiny_mlm",
            tmp_path / "out",
            "--expected",
            HUGGINGFACE / "tiny_mlm" / "config.json",
        )
    (source / "config.json").write_text(json.dumps(config))
    (source / "vocab.txt").write_text("\n".join(VOCAB + [f"w{i}" for i in range(999)]) + "\n")
    with pytest.raises(InputError, match="model's word embeddings are of"):
        adopt(source, tmp_path / "out")
