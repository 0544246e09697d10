import json
import os
import re
import shutil
import struct
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from common.errors import InputError
from model import ConvBertConfig, ConvBertForMaskedLM, ConvBertModel
from model.weights import files, tf_h5
from tests.support import tf_writer, torch_writer
from tests.support.huggingface import CLASSES, HUGGINGFACE, check_outputs, edit_config


def tensors_of(name):
    return safetensors.numpy.load_file(HUGGINGFACE / name / "model.safetensors")


def copy_config(name, directory):
    shutil.copy(HUGGINGFACE / name / "config.json", directory)


@pytest.fixture
def copied(tmp_path):
    """A copy of a model that transformers saved."""
    shutil.copytree(HUGGINGFACE / "tiny_relu", tmp_path, dirs_exist_ok=True)
    return tmp_path


def fails(message, directory):
    """An `InputError` when the model in a directory is loaded; returns its message."""
    with pytest.raises(InputError, match=message) as error:
        ConvBertModel.from_pretrained(directory)
    return str(error.value)


def test_pytorchs_older_format():
    check_outputs(HUGGINGFACE / "tiny_legacy_bin", "tiny_legacy_bin")


@pytest.mark.parametrize("name", CLASSES)
def test_what_the_tf_classes_wrote(tmp_path, name):
    copy_config(name, tmp_path)
    tf_writer.write_h5(tmp_path / "tf_model.h5", tensors_of(name), CLASSES[name])
    check_outputs(tmp_path, name)


def test_safetensors_with_the_names_of_the_tf_classes(tmp_path):
    copy_config("tiny_seqcls", tmp_path)
    arrays = tf_writer.variables(tensors_of("tiny_seqcls"), CLASSES["tiny_seqcls"])
    assert "convbert/encoder/layer_._0/attention/self/query/kernel:0" in arrays
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"format": "tf"})
    check_outputs(tmp_path, "tiny_seqcls")


def shard(name, directory, stem="model", ending="safetensors", save=None):
    """Writes a model in two parts; returns the path of the index."""
    save = save or (lambda path, arrays: safetensors.numpy.save_file(arrays, path))
    copy_config(name, directory)
    arrays = tensors_of(name)
    parts, where = (f"{stem}-00001-of-00002.{ending}", f"{stem}-00002-of-00002.{ending}"), {}
    for i, part in enumerate(parts):
        chosen = {key: arrays[key] for key in sorted(arrays)[i::2]}
        where |= dict.fromkeys(chosen, part)
        save(directory / part, chosen)
    index = directory / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def test_models_in_parts(tmp_path):
    shard("tiny_qa", tmp_path)
    check_outputs(tmp_path, "tiny_qa")
    (tmp_path / "bin").mkdir()
    shard("tiny_qa", tmp_path / "bin", "pytorch_model", "bin", torch_writer.save)
    check_outputs(tmp_path / "bin", "tiny_qa")


def test_which_file_is_read(copied):
    names = ("tf_model.h5", "pytorch_model.bin", "model.safetensors.index.json")
    paths = [copied / name for name in (*names, "model.safetensors")]
    shard("tiny_relu", copied)
    arrays = tensors_of("tiny_relu")
    tf_writer.write_h5(paths[0], arrays, "ConvBertModel")
    torch_writer.save(paths[1], arrays)
    for path in reversed(paths):
        found, (read_path, *_) = files.read(copied)
        assert Path(read_path) == path
        unprefixed = {name.removeprefix("convbert."): array for name, array in found.items()}
        for name, array in arrays.items():
            np.testing.assert_array_equal(unprefixed[name], array)
        path.unlink()
    fails(r"no such file: .*model\.safetensors", copied)
    fails("no such directory: .*nowhere", copied / "nowhere")


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, "float64"])
def test_other_precisions_become_float32(copied, dtype):
    arrays = {name: array.astype(dtype) for name, array in tensors_of("tiny_relu").items()}
    safetensors.numpy.save_file(arrays, copied / "model.safetensors")
    table = ConvBertModel.from_pretrained(copied).embeddings.word_embeddings
    assert table.dtype == "float32"
    np.testing.assert_array_equal(table, arrays["embeddings.word_embeddings.weight"].astype("f4"))


def test_weights_are_halved_on_request(tmp_path):
    whole = ConvBertModel.from_pretrained(HUGGINGFACE / "tiny_relu")
    half = ConvBertModel.from_pretrained(HUGGINGFACE / "tiny_relu", dtype="bfloat16")
    half.save_pretrained(tmp_path)
    again = ConvBertModel.from_pretrained(tmp_path)
    for full, short, saved in zip(whole.weights, half.weights, again.weights, strict=True):
        assert short.dtype == "bfloat16" and saved.dtype == "float32"
        rounded = np.asarray(full).astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(np.asarray(short), rounded)
        np.testing.assert_array_equal(saved, rounded.astype("f4"))


def test_tensors_that_do_not_fit_are_listed(copied):
    arrays = tensors_of("tiny_relu")
    del arrays["encoder.layer.0.output.dense.bias"]
    arrays["encoder.layer.7.output.dense.bias"] = np.zeros(3, "float32")
    arrays["embeddings.word_embeddings.weight"] = np.zeros((50, 32), "float32")
    query = "encoder.layer.0.attention.self.query.weight"
    arrays[query] = arrays[query].astype("int8")
    safetensors.numpy.save_file(arrays, copied / "model.safetensors")
    message = fails(r"model\.safetensors does not fit", copied)
    for part in (
        r"shape of embeddings\.word_embeddings\.weight: \(50, 32\) in the file, \(\d+, \d+\) in",
        r"missing: encoder\.layer\.0\.output\.dense\.bias \(\d+,\)",
        r"unexpected: encoder\.layer\.7\.output\.dense\.bias \(3,\)",
        rf"type of {query}: int8",
    ):
        assert re.search(part, message)


@pytest.mark.parametrize("target", ["../outside", "{}/outside", "..", ".", "", "a/b", "\0x"])
def test_an_index_leads_nowhere_else(tmp_path, target):
    directory = tmp_path / "inside"
    directory.mkdir()
    index = shard("tiny_relu", directory)
    shutil.copy(directory / "model-00001-of-00002.safetensors", tmp_path / "outside")
    fields = json.loads(index.read_text())
    first = next(iter(fields["weight_map"]))
    fields["weight_map"][first] = target.format(tmp_path)
    index.write_text(json.dumps(fields))
    fails(r"index\.json: '.*' is not the name of a file", directory)


def test_an_index_and_its_parts_must_agree(tmp_path):
    index = shard("tiny_relu", tmp_path)
    part = tmp_path / "model-00002-of-00002.safetensors"
    elsewhere = tmp_path / "blob"
    part.rename(elsewhere)
    part.symlink_to(elsewhere)  # as in the hub's cache
    fields = json.loads(index.read_text())
    names = [name for name, file in fields["weight_map"].items() if file == part.name]
    assert len(files.read(tmp_path)[0]) == len(fields["weight_map"])
    for change, message in (
        ({"encoder.extra": part.name}, f"lists encoder.extra for {part.name}"),
        ({names[0]: "model-00001-of-00002.safetensors"}, "lists .* does not contain it"),
        ({"encoder.extra": "third"}, "no such file: .*third, which .*index.json lists"),
        ({"encoder.extra": 3}, "`weight_map` must be an object of file names"),
    ):
        index.write_text(json.dumps({"weight_map": fields["weight_map"] | change}))
        fails(message, tmp_path)
    del fields["weight_map"][names[0]]
    index.write_text(json.dumps(fields))
    fails(f"{part.name} contains {names[0]}", tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}},
        {"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}},
        {"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}},
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": 1},
    ],
)
def test_a_safetensors_header_that_lies_is_refused(copied, header):
    path = copied / "model.safetensors"
    encoded = json.dumps(header).encode()
    for size in (len(encoded), 2**60):
        path.write_bytes(struct.pack("<Q", size) + encoded + bytes(16))
        fails(r"model\.safetensors: damaged", copied)


def test_a_file_cut_in_half_is_named(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fails(r"model\.safetensors: damaged", copied)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_an_output_table_of_its_own(tmp_path, tied, equal):
    shutil.copytree(HUGGINGFACE / "tiny_mlm", tmp_path, dirs_exist_ok=True)
    edit_config(tmp_path, tie_word_embeddings=tied)
    arrays = tensors_of("tiny_mlm")
    table = arrays["convbert.embeddings.word_embeddings.weight"].copy()
    if not equal:
        table[3, 2] += 1
    arrays["generator_lm_head.weight"] = table
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    if equal:
        check_outputs(tmp_path, "tiny_mlm")
    else:
        with pytest.raises(InputError, match=r"generator_lm_head\.weight .*`tie_word_embeddings`"):
            ConvBertForMaskedLM.from_pretrained(tmp_path)
        ConvBertModel.from_pretrained(tmp_path)  # does not need the table


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_names_of_wrappers_and_of_tf1(tmp_path, prefix):
    copy_config("tiny_seqcls", tmp_path)
    renamed = {}
    for name, array in tensors_of("tiny_seqcls").items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        renamed[prefix + old.replace("LayerNorm.bias", "LayerNorm.beta")] = array
    torch_writer.save(tmp_path / "pytorch_model.bin", renamed)
    check_outputs(tmp_path, "tiny_seqcls")
    assert ("module." in prefix) == any("module." in name for name in files.read(tmp_path)[0])
    bias = "convbert.embeddings.LayerNorm.bias"
    torch_writer.save(tmp_path / "pytorch_model.bin", renamed | {bias: array})
    fails(r"two tensors for embeddings\.LayerNorm\.bias", tmp_path)


def test_configurations_of_earlier_versions():
    def read(**fields):
        return ConvBertConfig.from_hf_dict(fields, "config.json")

    assert read(model_type="conv_bert", _num_labels=3).num_labels == 3
    assert read(pad_token_id=None).pad_token_id == 0
    assert read(score_range=[0, 5]).score_range == (0.0, 5.0)
    for labels in ({"0": 0, "1": 1}, [0, "1"], {"1": "1", "0": 0}):
        assert read(id2label=labels).id2label == ("0", "1")


def h5_with(path, make):
    with h5py.File(path, "w") as file:
        make(file.create_group("convbert"))


def test_hdf5_files_that_are_more_than_they_hold_are_refused(tmp_path):
    path, secret = tmp_path / "tf_model.h5", tmp_path / "secret"
    secret.write_bytes(bytes(400))
    name = "convbert/embeddings/word_embeddings/weight:0"
    zeros = np.zeros((100, 100), "float32")

    def h5_fails(message):
        with pytest.raises(InputError, match=rf"tf_model\.h5: {message}"):
            tf_h5.read_h5(path)

    for make in (
        lambda group: group.create_dataset(name, data=zeros, compression="gzip"),
        lambda group: group.create_dataset(name, (10**6, 10**6), "float32"),
        lambda group: group.create_dataset(name, (100,), "float32", external=[(secret, 0, 400)]),
        lambda group: group.create_dataset(name, data=["text"]),
    ):
        h5_with(path, make)
        h5_fails("convbert/.* is compressed, incomplete or")
    h5_with(secret, lambda group: group.create_dataset("embeddings/weight:0", data=zeros))

    def link(group):
        group["embeddings"] = h5py.ExternalLink(os.fspath(secret), "/convbert/embeddings")

    h5_with(path, link)
    assert tf_h5.read_h5(path) == {}
    h5_with(path, lambda group: group.create_dataset("pooler/kernel:0", data=zeros[0]))
    h5_fails(r"convbert/pooler/kernel:0 \(100,\) must have 2 axes")
    h5_with(path, lambda group: group.create_dataset("embeddings/moments:0", data=zeros))
    h5_fails(r"convbert/embeddings/moments:0 \(100, 100\) is not a variable")
    path.write_bytes(path.read_bytes()[:1000])
    h5_fails("damaged")


@pytest.mark.parametrize(
    "fields",
    [
        {"num_hidden_layers": 2},
        {"num_hidden_layers": 10**12},
        {"vocab_size": 10**12},
        {"hidden_size": 2**40, "attention_head_size": 4},
        {"conv_kernel_size": 10**9 + 1},
        {"num_labels": 10**12},
        {"max_position_embeddings": 10**400},
    ],
)
def test_a_configuration_of_a_larger_network_is_refused(copied, fields):
    edit_config(copied, **fields)
    fails(r"describes a network of more than|`num_hidden_layers`|must be below 2\^63", copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": "' + "x" * (5 << 20) + '"}', "larger than 4 MB"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object"),
        ("{", "not JSON"),
        ('{"model_type": "bert"}', "`model_type` "),
        ('{"hidden_size": "wide"}', "`hidden_size` "),
        ('{"model_type": ["convbert"]}', "`model_type` is "),
        ('{"id2label": "ab"}', "`id2label` must be an object that maps"),
        ('{"id2label": {"0": "a", "1": null}}', "`id2label` must be an object that maps"),
        ('{"id2label": {"1": "a", "2": "b"}}', "`id2label` must be an object that maps"),
        ('{"id2label": {"' + "9" * 5000 + '": "a"}}', "`id2label` must be an object that maps"),
        ('{"layer_norm_eps": -1}', "`layer_norm_eps` must be at least 0"),
        ('{"initializer_range": -3}', "`initializer_range` must be at least 0"),
        ('{"score_range": [0, Infinity]}', "`score_range` must be the lowest and the highest"),
        ('{"score_range": [0, true]}', "`score_range` must be a list of numbers"),
        ('{"hidden_dropout_prob": 1' + "0" * 400 + "}", "`hidden_dropout_prob` must be a finite"),
    ],
)
def test_a_configuration_that_cannot_be_read(copied, content, message):
    (copied / "config.json").write_text(content)
    fails(rf"config\.json: {message}", copied)


def test_every_kernel_is_counted():
    config = ConvBertConfig.from_size("medium-small", num_hidden_layers=2, vocab_size=100)
    total = sum(int(np.prod(w.shape)) for w in ConvBertModel(config).weights if len(w.shape) > 1)
    assert config.num_kernel_parameters() == total + config.num_labels * config.hidden_size
