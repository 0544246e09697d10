import os
from pathlib import Path

import pytest
from huggingface_hub import HfFileSystem, constants

from common import hub_datasets
from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.metadata import load_metadata
from data.records.options import BuildOptions
from data.tasks.registry import get_task
from tests.support import corpora, hub_server
from tests.support.files import parquet, write

NAME = "me/texts"
ADDRESS = f"hf://datasets/{NAME}"
WORDS = ["bing", "ting", "lun", "ta", "run", "to", "ke", "so", "fo", "do", "da", "ring", "me"]


def texts(first):
    """A parquet file with ten texts."""
    return parquet(text=[" ".join(WORDS[(first + i) % 9 :] * 5) for i in range(10)])


FILES = {
    "README.md": b"about",
    "data/train-0.parquet": texts(0),
    "data/train-1.parquet": texts(3),
    "data/test-0.parquet": texts(6),
    "data/more/deep.parquet": texts(1),
    "tasks/train.csv": b"text,label\nda ring,yes\nne ping,no\n",
    "tasks/dev.parquet": parquet(text=["da da"], label=["yes"]),
    "odd [1].txt": b"one text\n",
}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub with a data set in which a tag has other files than the main branch."""
    with hub_server.serve() as server:
        server.files[f"datasets/{NAME}"] = {"main": dict(FILES), "v1": {"a.txt": b"old text\n"}}
        hub_server.connect(monkeypatch, server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        HfFileSystem.clear_instance_cache()
        hub_datasets.fetch_file.cache_clear()
        yield server


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/data/train-*.parquet", ["data/train-0.parquet", "data/train-1.parquet"]),
        ("/data/**/*.parquet", sorted(name for name in FILES if name.startswith("data"))),
        ("/data/test-0.parquet", ["data/test-0.parquet"]),
        ("/tasks", ["tasks/dev.parquet", "tasks/train.csv"]),
        ("/tas*", ["tasks/dev.parquet", "tasks/train.csv"]),
        ("/odd [1].txt", ["odd [1].txt"]),
        ("", sorted(FILES)),
        ("@v1/*.txt", ["a.txt"]),
        (f"@{hub_server.COMMITS['v1']}", ["a.txt"]),
        ("/none-*.txt", []),
    ],
)
def test_files_of_an_address(server, path, names):
    found = hub_datasets.fetch(ADDRESS + path)
    assert (found.names, found.others) == (names, [])
    there = [path for path in Path(found.directory or "none").rglob("*") if path.is_file()]
    assert {str(path.relative_to(found.directory)) for path in there} == set(names)
    revision = "v1" if path.startswith("@") else "main"
    assert found.commit == hub_server.COMMITS[revision]
    assert "@" not in found.address
    for name in names:
        expected = server.files[f"datasets/{NAME}"][revision][name]
        assert Path(found.directory, name).read_bytes() == expected


def test_only_wanted_files_are_downloaded_once(server):
    found = hub_datasets.fetch(f"{ADDRESS}/data", lambda name: "train" in name)
    assert found.others == ["data/more/deep.parquet", "data/test-0.parquet"]
    assert sorted(server.downloads()) == ["train-0.parquet", "train-1.parquet"]
    server.requests.clear()
    assert hub_datasets.fetch(f"{ADDRESS}/data", lambda name: "train" in name) == found
    assert server.downloads() == []


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://me/model/a.txt", "expected hf://datasets/OWNER/NAME"),
        ("hf://datasets/me", "hf://datasets/me: expected hf://datasets/OWNER/NAME"),
        ("hf://datasets/me/none/a.txt", "no such data set"),
        (f"{ADDRESS}@v9/a.txt", "no such data set or revision"),
    ],
)
def test_what_is_not_there(server, address, message):
    with pytest.raises(InputError, match=message):
        hub_datasets.fetch(address)


def test_no_connection(server, monkeypatch):
    hub_server.connect(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=f"cannot read {ADDRESS}"):
        hub_datasets.fetch(ADDRESS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
        hub_datasets.fetch(ADDRESS)


def test_records_have_the_address_and_the_revision(server, tmp_path):
    options = BuildOptions(vocab_file=str(corpora.write_vocab(tmp_path / "vocab.txt")))
    corpus = find_corpus(tmp_path, f"{ADDRESS}/data/train-*.parquet")
    build_records(corpus, options, tmp_path / "hub")
    metadata = load_metadata(tmp_path / "hub")
    assert metadata.options["corpus"] == f"{ADDRESS}/data/train-*.parquet"
    assert metadata.options["corpus_revision"] == hub_server.COMMITS["main"]
    assert metadata.total("documents") == 20

    # The same files from a folder give the same records.
    (tmp_path / "local" / "data").mkdir(parents=True)
    for name in ("data/train-0.parquet", "data/train-1.parquet"):
        (tmp_path / "local" / name).write_bytes(FILES[name])
    local = find_corpus(tmp_path, tmp_path / "local")
    build_records(local, options, tmp_path / "here")
    there = load_metadata(tmp_path / "here")
    assert there.shards == metadata.shards
    changed = ("corpus", "corpus_revision")
    options = [{k: v for k, v in m.options.items() if k not in changed} for m in (metadata, there)]
    assert options[0] == options[1]
    assert there.options.keys() == metadata.options.keys() - {"corpus_revision"}


def test_one_file_and_none(server, tmp_path):
    corpus = find_corpus(tmp_path, f"{ADDRESS}@v1/a.txt")
    assert [source.name for source in corpus.sources] == ["a.txt:0"]
    assert corpus.origin["corpus_revision"] == hub_server.COMMITS["v1"]
    with pytest.raises(InputError, match=r"no corpus: .*/tasks/\*\.csv has only 1 others"):
        find_corpus(tmp_path, f"{ADDRESS}/tasks/*.csv")
    with pytest.raises(InputError, match="does not match any file"):
        find_corpus(tmp_path, f"{ADDRESS}/*.gz")


def test_files_of_a_task(server, tmp_path):
    files = {"train": f"{ADDRESS}/tasks/train.csv", "dev": f"{ADDRESS}/tasks/dev.parquet"}
    fields = {"text_columns": ["text"], "label_column": "label", "files": files}
    path = tmp_path / "mine.json"
    write(path, fields)
    task = get_task(str(path))
    assert server.requests == []  # nothing is downloaded before it is needed
    task = task.complete(str(tmp_path))
    assert task.load(str(tmp_path), "train").texts == ["da ring", "ne ping"]
    assert task.load(str(tmp_path), "dev").texts == ["da da"]
    assert sorted(set(server.downloads())) == ["dev.parquet", "train.csv"]
    write(path, fields | {"files": files | {"train": f"{ADDRESS}/tasks/*"}})
    with pytest.raises(InputError, match=r"tasks/\*: expected one file, found 2"):
        get_task(str(path)).complete(str(tmp_path))
    assert os.listdir(tmp_path / "cache")
