import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from common import hub
from common.errors import InputError
from data import ConvBertTokenizer
from model import ConvBertConfig, ConvBertForMaskedLM, ConvBertForSequenceClassification
from model.weights.warm_start import find_models
from pipelines import FillMask
from scripts import convert_checkpoint
from tests.support import hub_server, torch_writer
from tests.support.processes import ROOT

SMALL = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", "README.md": b"text", "extra.bin": b"1"}
WEIGHTS = dict.fromkeys(("model.safetensors", "pytorch_model.bin", "tf_model.h5"), b"1")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub with "owner/model"; the cache is `tmp_path / "cache"`."""
    with hub_server.serve() as server:
        server.files["owner/model"] = {"main": SMALL | WEIGHTS, "v1": SMALL | {"tf_model.h5": b"1"}}
        hub_server.connect(monkeypatch, server.url)
        monkeypatch.chdir(tmp_path)
        yield server


def resolve(name="owner/model", **options):
    return hub.resolve(name, cache_dir="cache", **options)


def names_in(directory):
    return sorted(os.listdir(directory))


def fails(message, name="owner/model", **options):
    with pytest.raises(InputError, match=message):
        resolve(name, **options)


def test_only_what_is_needed_is_fetched(server):
    directory = resolve(weights=False)
    assert names_in(directory) == ["config.json", "vocab.txt"]
    assert resolve() == directory
    assert names_in(directory) == ["config.json", "model.safetensors", "vocab.txt"]
    assert sorted(server.downloads()) == names_in(directory)
    server.requests.clear()
    assert resolve() == directory
    assert server.downloads() == []


SHARDS = ["model-00001-of-00001.safetensors", "model.safetensors.index.json"]


@pytest.mark.parametrize(
    ("there", "fetched"),
    [
        (["pytorch_model.bin", "tf_model.h5"], ["pytorch_model.bin"]),
        (["tf_model.h5"], ["tf_model.h5"]),
        ([*SHARDS, "model-extra.safetensors", "pytorch_model.bin"], SHARDS),
    ],
)
def test_the_best_weights_are_fetched(server, there, fetched):
    server.files["owner/model"]["main"] = {"config.json": b"{}"} | dict.fromkeys(there, b"1")
    assert names_in(resolve()) == ["config.json", *fetched]


def test_revisions(server):
    main, old = resolve(), resolve(revision="v1")
    assert ["tf_model.h5" in names_in(directory) for directory in (main, old)] == [False, True]
    assert resolve(revision=hub_server.COMMITS["v1"]) == old
    fails(r"owner/model \(v2\).*: no such model or revision", revision="v2")


def test_without_a_connection_the_cache_is_used(server, monkeypatch):
    directory = resolve()
    server.requests.clear()
    assert resolve(local_files_only=True) == directory
    assert server.requests == []
    fails(r"owner/other \(main\), .* local cache", "owner/other", local_files_only=True)
    resolve(revision="v1", weights=False)
    fails(r"owner/model \(\w+\), .* local cache", revision="v1", local_files_only=True)
    hub_server.connect(monkeypatch, "http://127.0.0.1:9")
    assert resolve() == directory
    fails(r"owner/other.*: .*refused.* to http://127\.0\.0\.1:9", "owner/other")


def test_a_download_that_breaks_off_is_resumed(server, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    content = np.random.default_rng(0).bytes(50_000)
    server.files["owner/model"]["main"] = SMALL | {"model.safetensors": content}
    server.cut_after = 20_500
    path = Path(resolve(), "model.safetensors")
    assert path.read_bytes() == content
    ranges = [asked for method, _, asked in server.requests if method == "GET" and asked]
    assert ranges in (["bytes=20000-"], ["bytes=20500-"])


def test_errors_of_the_hub(server):
    fails("owner/none .*not a local directory: no such model or revision", "owner/none")
    server.files["owner/gated"] = server.files["owner/model"]
    server.gated.add("owner/gated")
    fails("owner/gated.*: it is gated", "owner/gated")
    server.files["owner/empty"] = {"main": SMALL}
    fails("owner/empty on the hub has none of model.safetensors, ", "owner/empty")


PATHS = (
    "../model",
    "owner/../model",
    "a..b",
    "/owner/model",
    "./model",
    "~/model",
    "a/b/c",
    "a//b",
)
NAMES = ("", "a b", "a\\b", "-a", "a--b", "a.git", "owner/", "a?b", "a#b", "ä", "a\n", "a:b")
REVISIONS = ("../../../outside", "/etc", "a b", "", "a..b")


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        *((name, None, f"no such directory: {name}") for name in PATHS),
        *((name, None, "is not a local directory: it is not a valid name") for name in NAMES),
        *(("owner/model", revision, "`revision` must be") for revision in REVISIONS),
    ],
)
def test_impossible_names_are_refused_before_the_hub_is_asked(
    server, tmp_path, name, revision, message
):
    fails(message, name, revision=revision)
    assert server.requests == []
    assert names_in(tmp_path) == []


def test_a_local_directory_wins(server, tmp_path):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    assert resolve() == "owner/model"
    assert hub.resolve(tmp_path) == str(tmp_path)
    fails("`revision` is 'v1', but owner/model is a local directory", revision="v1")
    fails("no such directory: missing", Path("missing"))
    (tmp_path / "file").write_text("")
    fails("no such directory: file", "file")
    assert server.requests == []


VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Kø", "##ben", "##havn", "er", "stor", "."]


def publish(folder):
    """A cased model with the files that transformers 4 wrote; returns files, and the model."""
    sizes = {"vocab_size": len(VOCAB), "max_position_embeddings": 16, "num_hidden_layers": 1}
    model = ConvBertForMaskedLM(ConvBertConfig.from_size("medium-small", **sizes))
    model.save_pretrained(folder)
    arrays = {}
    for row in model.tensors():
        arrays[row.hf_name if row.head else f"convbert.{row.hf_name}"] = row.to_hf()
    arrays["generator_lm_head.weight"] = arrays["convbert.embeddings.word_embeddings.weight"]
    torch_writer.save(folder / "pytorch_model.bin", arrays)
    (folder / "model.safetensors").unlink()
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCAB))
    special = {f"{token[1:-1].lower()}_token": token for token in VOCAB[:5]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    tokenizer = {"do_lower_case": False, "strip_accents": None, "never_split": None}
    tokenizer |= {"tokenize_chinese_chars": True, "tokenizer_class": "ConvBertTokenizer"} | special
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return {path.name: path.read_bytes() for path in folder.iterdir()}, model


def test_a_model_that_others_published(server, tmp_path):
    files, theirs = publish(tmp_path / "published")
    server.files["owner/danish"] = {"main": files}
    shutil.rmtree(tmp_path / "published")
    tokenizer = ConvBertTokenizer.from_pretrained("owner/danish", cache_dir="cache")
    assert "pytorch_model.bin" not in server.downloads()
    inputs = tokenizer(["København er stor.", "køb"])
    assert inputs["input_ids"][0].tolist() == [2, 5, 6, 7, 8, 9, 10, 3]
    assert inputs["input_ids"][1].tolist()[:3] == [2, 1, 3]  # cased
    model = ConvBertForMaskedLM.from_pretrained("owner/danish", cache_dir="cache")
    np.testing.assert_array_equal(model(inputs), theirs(inputs))
    assert "pytorch_model.bin" in server.downloads()


def test_hub_names_where_directories_are_taken(server, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    files, _ = publish(tmp_path / "published")
    server.files["owner/danish"] = {"v1": files}
    options = {"revision": "v1", "cache_dir": "cache"}
    (found,) = FillMask.from_pretrained("owner/danish", **options).predict(["Kø [MASK]"], top_k=2)
    assert len(found[0].tokens) == 2
    convert_checkpoint.main(["owner/danish", "converted", "--revision", "v1"])
    assert {"model.safetensors", "vocab.txt"} < set(names_in("converted"))
    server.files["owner/danish"]["main"] = files
    directory = find_models("owner/danish")["main"]
    assert set(names_in(directory)) == set(files)
    with pytest.raises(InputError, match=r"no such directory: \./danish"):
        ConvBertForSequenceClassification.from_pretrained("./danish")


def test_the_environment_and_a_script(server, tmp_path):
    """`HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`, in processes of their own."""
    files = SMALL | WEIGHTS | {"config.json": b'{"architectures": ["X"]}'}
    server.files["owner/model"] = {"v1": files}
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.url}
    environment.pop("HF_HUB_OFFLINE", None)
    script = ROOT / "scripts" / "predict.py"
    command = [sys.executable, script, "owner/model", "--revision", "v1", "text"]

    def run(**variables):
        options = {"env": environment | variables, "capture_output": True, "timeout": 300}
        return subprocess.run(command, text=True, check=False, **options).stderr

    error = run(HF_HUB_OFFLINE="1")
    assert "owner/model (v1)" in error
    assert "HF_HUB_OFFLINE" in error
    assert server.requests == []
    assert '`architectures` ["X"]' in run()
    server.requests.clear()
    assert '`architectures` ["X"]' in run(HF_HUB_OFFLINE="1")
    assert server.requests == []
