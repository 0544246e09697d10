"""Corpora and records on a real S3 server, over lines that are cut; what a wrong set-up says."""

import os

import fsspec
import pytest

from common import remote, remote_cache
from common.errors import InputError
from data.corpus.sources import find_corpus
from data.records.build import build_records
from data.records.metadata import load_metadata
from tests.support import object_store
from tests.support.corpora import contents, write_vocab

pytestmark = pytest.mark.peers
RECORDS = "s3://bucket/pretrain_tfrecords"


@pytest.fixture(scope="module")
def server():
    with object_store.s3_server() as url:
        yield url


@pytest.fixture
def proxy(server, monkeypatch, tmp_path):
    """An empty bucket, behind a proxy."""
    with object_store.Proxy(server) as proxy:
        connect(monkeypatch, proxy.url)
        monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "cache"))
        system = fsspec.filesystem("s3")
        system.mkdir("bucket")
        yield proxy
        proxy.cuts = 0
        system.rm("bucket", recursive=True)


def connect(monkeypatch, url):
    for name, value in object_store.KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(remote, "DELAYS", (0, 0, 0))
    forget_connections()


def forget_connections():
    fsspec.filesystem("s3").clear_instance_cache()
    remote._open_system.cache_clear()


def put(path, url):
    remote.put(str(path), url)


def test_a_build_over_cut_lines_gives_the_same_bytes(proxy, corpus, options, tmp_path):
    build_records(corpus, options, tmp_path / "here")
    put(corpus.path, "s3://bucket/openwebtext.tar")
    put(tmp_path / "vocab.txt", "s3://bucket/vocab.txt")
    proxy.cut_after, proxy.cuts = 3000, 5
    options = options.__class__(**vars(options) | {"vocab_file": "s3://bucket/vocab.txt"})
    build_records(find_corpus("s3://bucket"), options, RECORDS)
    assert proxy.cuts == 0
    system = fsspec.filesystem("s3")
    stored = {os.path.basename(path): system.cat(path) for path in system.find(RECORDS)}
    assert stored == contents(tmp_path / "here")

    proxy.cut_after, proxy.cuts = 3000, 2
    fetched = load_metadata(RECORDS)
    assert proxy.cuts == 0
    assert contents(fetched.records_dir) == stored
    proxy.lines.clear()
    assert load_metadata(RECORDS) == fetched
    (listing,) = proxy.lines
    assert listing.startswith("GET /bucket?list-type=2&prefix=pretrain_tfrecords")

    name = fetched.shards[1].name
    system.pipe(f"{RECORDS}/{name}", stored[name][::-1])
    with pytest.raises(InputError, match=f"{name} is not the one"):
        load_metadata(RECORDS)


def test_a_line_that_is_cut_again_and_again(proxy):
    content = os.urandom(1 << 20)
    fsspec.filesystem("s3").pipe("bucket/big", content)
    proxy.cut_after, proxy.cuts = 150_000, 1000
    with remote.open_binary("s3://bucket/big") as file:
        assert file.read() == content
    assert proxy.cuts < 995


def test_ten_thousand_files_are_listed_in_a_few_requests(proxy):
    proxy.lines.clear()
    corpus = find_corpus(".", "s3://many/texts/*.txt")
    assert [s.name for s in corpus.sources][::9999] == ["00000.txt:0", "09999.txt:0"]
    assert len(proxy.lines) < 25


def problem(operation, *arguments):
    with pytest.raises(InputError) as raised:
        operation(*arguments)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_wrong_set_ups_are_one_line(proxy, server, tmp_path, monkeypatch):
    path = write_vocab(tmp_path / "v.txt")
    put(path, "s3://bucket/v.txt")
    for operation in (
        lambda url: find_corpus(".", url),
        remote_cache.fetch,
        load_metadata,
        lambda url: put(path, url),
    ):
        text = problem(operation, "s3://no-such-bucket/x")
        assert "s3://no-such-bucket/x: not found" in text and "bucket" in text
    assert "Invalid bucket name" in problem(remote.list_files, "s3://No_bucket!/x")

    object_store.require_valid_keys(server, True)
    try:
        for operation in (remote.list_files, remote.open_binary, lambda url: put(path, url)):
            text = problem(operation, "s3://bucket/v.txt")
            assert "s3://bucket/v.txt: no access" in text and "credentials" in text
    finally:
        object_store.require_valid_keys(server, False)

    connect(monkeypatch, "http://127.0.0.1:9")
    text = problem(remote.list_files, "s3://bucket/v.txt")
    assert "127.0.0.1:9" in text and "connection" in text

    for name in (*object_store.KEYS, "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    forget_connections()
    assert "no access" in problem(remote.list_files, "s3://bucket/v.txt")
