"""Shards depend only on corpus, options and seed; stopped builds are resumed; errors."""

import dataclasses
import errno
import itertools
import json
import lzma
import os

import pytest
import tensorflow as tf

from common.errors import InputError
from data.corpus.readers import DAMAGED, NOT_UTF8, ReadOptions
from data.corpus.sources import find_corpus
from data.records import build as building
from data.records import metadata as records
from data.records.batches import evaluation_batches
from data.records.build import build_records
from data.records.build_shard import BuildOptions, LineTokenizer, ShardTask, build_shard
from data.records.metadata import PROGRESS_FILE, load_metadata
from tests.support.corpora import (
    archive_of,
    begun_shards,
    contents,
    openwebtext_of,
    random_archives,
    tar_of,
    write_vocab,
)
from tests.support.files import write


def test_a_build_of_known_text(tmp_path, options):
    text = "ba da\n\nFA  xyzzy\n"
    (tmp_path / "t.tar").write_bytes(tar_of({"a.xz": archive_of([text, "ga"])}))
    (tmp_path / "t.txt").write_text(text)
    archive = build_records(find_corpus(tmp_path, tmp_path / "t.tar"), options, tmp_path / "a")
    batch = next(evaluation_batches(archive, 2, 1).as_numpy_iterator())
    assert batch["input_ids"].sum(0)[7:].sum() == 0
    # [CLS] 2, [SEP] 3; ba 5, da 10, fa 15, an unknown word 1; ga 20.
    assert batch["input_ids"][:, :7].tolist() == [[2, 5, 10, 15, 1, 3, 0], [2, 20, 3, 0, 0, 0, 0]]
    shard = archive.shards[0]
    assert (shard.documents, shard.text_bytes, shard.text_tokens) == (2, 5 + 9 + 2, 5)
    assert (shard.unknown_tokens, shard.examples, shard.tokens) == (1, 2, 9)
    plain = build_records(find_corpus(tmp_path, tmp_path / "t.txt"), options, tmp_path / "p")
    assert plain.shards[0].documents == 2  # the blank line is an end here
    assert (plain.vocab_size, plain.options["seed"], plain.do_lower_case) == (64, 42, True)


@pytest.mark.parametrize("record_format", ["compact", "original"])
def test_padding_has_the_id_of_the_vocabularys_pad(tmp_path, options, record_format):
    tokens = ["[UNK]", "[CLS]", "ba", "[PAD]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens))
    (tmp_path / "t.txt").write_text("ba\n\nxyzzy ba")
    given = dataclasses.replace(options, record_format=record_format)
    metadata = build_records(find_corpus(tmp_path, tmp_path / "t.txt"), given, tmp_path / "r")
    (batch,) = evaluation_batches(metadata, 2, 1, max_seq_length=40, pad_id=3).as_numpy_iterator()
    assert batch["input_ids"][:, :6].tolist() == [[1, 2, 4, 3, 3, 3], [1, 0, 2, 4, 3, 3]]
    assert (batch["input_ids"][batch["input_mask"] == 0] == 3).all()
    if record_format == "original":
        (stored, _) = tf.data.TFRecordDataset(metadata.path(metadata.shards[0]))
        feature = tf.train.Example.FromString(stored.numpy()).features.feature
        assert feature["input_ids"].int64_list.value[:] == [1, 2, 4] + [3] * 29


def test_file_names_need_not_be_utf8(tmp_path, options):
    write(tmp_path / "c" / os.fsdecode(b"\xe6.txt"), b"ba da\n\n\xff")
    corpus = find_corpus(tmp_path, tmp_path / "c")
    assert build_records(corpus, options, tmp_path / "r").total("documents") == 1
    assert build_records(corpus, options, tmp_path / "r") is None


@pytest.mark.parametrize("name", ["metadata.json", PROGRESS_FILE])
@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"options": 5}', b"[" * 100_000, b"\xff"])
def test_damaged_notes_of_a_build_need_overwrite(tmp_path, corpus, options, name, content):
    write(tmp_path / "r" / name, content)
    with pytest.raises(InputError, match=r"built with other options \(.*--overwrite"):
        build_records(corpus, options, tmp_path / "r")
    assert contents(tmp_path / "r") == {name: content}


def test_totals_and_carry_over(tmp_path, corpus, options):
    metadata = build_records(corpus, options, tmp_path / "r")
    assert metadata == load_metadata(tmp_path / "r")
    total = metadata.total
    words = sum(len(doc.split()) for archive in random_archives(6, 8) for doc in archive)
    assert len(metadata.shards) == 4 and total("documents") == 48
    assert total("text_tokens") == words
    kept = metadata.total("tokens") - 2 * metadata.num_examples - total("two_segment_examples")
    assert kept == words
    originals = dataclasses.replace(options, carry_over=False)
    assert build_records(corpus, originals, tmp_path / "o").total("tokens") < 0.9 * words


def test_bytes_depend_on_corpus_options_and_seed_alone(tmp_path, corpus, options):
    build_records(corpus, options, tmp_path / "a")
    build_records(corpus, options, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    build_records(corpus, dataclasses.replace(options, seed=1), tmp_path / "c")
    first, other = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_a_shard_needs_nothing_but_its_task(tmp_path, corpus, options):
    metadata = build_records(corpus, options, tmp_path / "r")
    task = ShardTask(2, str(tmp_path / metadata.shards[2].name), corpus.sources[3:4])
    assert build_shard(task, options, LineTokenizer(options)) == metadata.shards[2]
    assert (tmp_path / task.name).read_bytes() == contents(tmp_path / "r")[task.name]


@pytest.mark.parametrize("compressed", [False, True])
def test_a_stopped_build_is_resumed(tmp_path, corpus, options, monkeypatch, compressed):
    if compressed:
        corpus.path.with_suffix(".tar.xz").write_bytes(lzma.compress(corpus.path.read_bytes()))
        corpus.path.unlink()
        corpus = find_corpus(tmp_path)
    build_records(corpus, options, tmp_path / "whole")
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            begun_shards(patch, limit=1)
            build_records(corpus, options, tmp_path / "r")
    names = sorted(contents(tmp_path / "r"))
    assert names[0] == PROGRESS_FILE and len(names) == 3
    with pytest.raises(InputError, match="not complete"):
        load_metadata(tmp_path / "r")
    with (tmp_path / "r" / PROGRESS_FILE).open("a") as file:
        file.write('{"name": "pretrain_da')  # killed while writing it
    for shard in (names[2], "pretrain_data.tfrecord-00003-of-00004"):
        leftover = tmp_path / "r" / f".{shard}.another-host-1-0.convbert-tmp"
        leftover.write_bytes(b"half a shard")

    begun = begun_shards(monkeypatch)
    build_records(corpus, options, tmp_path / "r")
    assert len(begun) == 2 and not {records.shard_name(i, 4) for i in begun} & set(names)
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def test_a_complete_folder_is_left_alone(tmp_path, corpus, options, monkeypatch):
    build_records(corpus, options, tmp_path / "r")
    before = contents(tmp_path / "r")
    monkeypatch.setattr(building, "LineTokenizer", None)  # not even needed
    assert build_records(corpus, options, tmp_path / "r") is None
    assert contents(tmp_path / "r") == before
    (tmp_path / "r" / "pretrain_data.tfrecord-00001-of-00004").unlink()
    with pytest.raises(InputError, match=r"00001-of-00004 is missing .*--overwrite"):
        build_records(corpus, options, tmp_path / "r")


def test_other_options_need_overwrite(tmp_path, corpus, options):
    build_records(corpus, options, tmp_path / "r")
    before = contents(tmp_path / "r")
    other = dataclasses.replace(options, seed=7, num_out_files=2)
    with pytest.raises(InputError, match=r"\(seed 42 != 7, num_out_files 4 != 2\).*--overwrite"):
        build_records(corpus, other, tmp_path / "r")
    (tmp_path / "r" / "metadata.json").rename(tmp_path / "metadata.json")
    with pytest.raises(InputError, match="their options are unknown"):
        build_records(corpus, options, tmp_path / "r")
    (tmp_path / "metadata.json").rename(tmp_path / "r" / "metadata.json")
    assert contents(tmp_path / "r") == before

    build_records(corpus, other, tmp_path / "r", overwrite=True)
    build_records(corpus, other, tmp_path / "fresh")
    assert contents(tmp_path / "r") == contents(tmp_path / "fresh")


def test_another_corpus_or_vocabulary_is_another_build(tmp_path, corpus, options):
    build_records(corpus, options, tmp_path / "r")
    with open(options.vocab_file, "a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match="vocab_file_sha256"):
        build_records(corpus, options, tmp_path / "r")
    write_vocab(tmp_path / "vocab.txt")
    corpus.path.write_bytes(openwebtext_of(random_archives(6, 7)))
    with pytest.raises(InputError, match="corpus_files_sha256"):
        build_records(find_corpus(tmp_path), options, tmp_path / "r")


def test_an_unusable_vocabulary_changes_nothing(tmp_path, corpus, options):
    build_records(corpus, dataclasses.replace(options, seed=3), tmp_path / "r")
    before = contents(tmp_path / "r")
    (tmp_path / "bad.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nba\n")
    for name, message in (("bad.txt", r"\[MASK\]"), ("none.txt", r"cannot read .*none\.txt")):
        bad = dataclasses.replace(options, vocab_file=str(tmp_path / name))
        with pytest.raises(InputError, match=message):
            build_records(corpus, bad, tmp_path / "r", overwrite=True)
        with pytest.raises(InputError, match=message):
            build_records(corpus, bad, tmp_path / "new")
    assert contents(tmp_path / "r") == before and not (tmp_path / "new").exists()


def test_damage_stops_the_build_and_keeps_finished_shards(tmp_path, options):
    archives = [archive_of(documents) for documents in random_archives(4, 8)]
    damaged = bytearray(archives[2])
    damaged[len(damaged) // 2] ^= 0xFF
    names = [f"{index}.xz" for index in range(4)]
    files = dict(zip(names, archives, strict=True))
    (tmp_path / "t.tar").write_bytes(tar_of(files | {"2.xz": bytes(damaged)}))
    with pytest.raises(InputError, match=r"t\.tar/2\.xz: damaged"):
        build_records(find_corpus(tmp_path, tmp_path / "t.tar"), options, tmp_path / "r")
    assert len(contents(tmp_path / "r")) == 3  # two shards and the note of them
    (tmp_path / "t.tar").write_bytes(tar_of(files))  # downloaded again
    build_records(find_corpus(tmp_path, tmp_path / "t.tar"), options, tmp_path / "r")
    assert load_metadata(tmp_path / "r").total("documents") == 32


@pytest.mark.parametrize("compressed", [False, True])
def test_skipped_damage_gives_the_same_bytes_however_it_is_built(tmp_path, options, compressed):
    """In one go, or stopped by the damage and then told to skip it."""
    archives = [archive_of(documents) for documents in random_archives(5, 300)]
    archives[2] = archives[2][: len(archives[2]) // 2] + archives[2][-40:]
    content = tar_of({f"{index}.xz": archive for index, archive in enumerate(archives)})
    (tmp_path / "t.tar").write_bytes(lzma.compress(content) if compressed else content)
    strict = find_corpus(tmp_path, tmp_path / "t.tar")
    skipping = find_corpus(tmp_path, tmp_path / "t.tar", ReadOptions(skip_damaged=True))
    with pytest.raises(InputError, match=r"t\.tar/2\.xz: damaged"):
        build_records(strict, options, tmp_path / "a")
    kept = set(contents(tmp_path / "a"))
    assert "metadata.json" not in kept and len(kept) == 3
    metadata = build_records(skipping, options, tmp_path / "a")
    build_records(skipping, options, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert metadata.skipped == {DAMAGED: 1}
    assert 1200 < metadata.total("documents") < 1500
    saved = json.loads((tmp_path / "a" / "metadata.json").read_text())["skipped"]
    assert saved["counts"] == {DAMAGED: 1}
    assert saved["listed"][0]["file"] == "t.tar/2.xz"


def test_skipped_documents_change_nothing_else(tmp_path, options):
    good = [b"ba da fa " * 9, b"ga ka la " * 7]
    (tmp_path / "good.txt").write_bytes(b"\n\n".join(good))
    (tmp_path / "bad.txt").write_bytes(b"\n\n".join([good[0], b"\xff", good[1], b"\xe6"]))
    builds = [
        build_records(find_corpus(tmp_path, tmp_path / f"{name}.txt"), options, tmp_path / name)
        for name in ("good", "bad")
    ]
    shards = [contents(tmp_path / name)[builds[0].shards[0].name] for name in ("good", "bad")]
    assert shards[0] == shards[1]
    assert [build.skipped for build in builds] == [{}, {NOT_UTF8: 2}]
    assert load_metadata(tmp_path / "bad") == builds[1]
    entries = json.loads((tmp_path / "bad" / "metadata.json").read_text())["skipped"]["listed"]
    assert entries[0] == {"file": "bad.txt", "place": "byte 83", "reason": NOT_UTF8}


def test_options_on_reading_are_part_of_the_build(tmp_path, options):
    (tmp_path / "t.txt").write_text("ba da\n\nfa\n")
    build_records(find_corpus(tmp_path, tmp_path / "t.txt"), options, tmp_path / "r")
    other = find_corpus(tmp_path, tmp_path / "t.txt", ReadOptions(blanks_separate_docs=False))
    with pytest.raises(InputError, match="blanks_separate_docs True != False"):
        build_records(other, options, tmp_path / "r")
    assert build_records(other, options, tmp_path / "o").total("documents") == 1
    irrelevant = find_corpus(tmp_path, tmp_path / "t.txt", ReadOptions(text_field="body"))
    assert build_records(irrelevant, options, tmp_path / "r") is None


@pytest.mark.parametrize("full", ["shard", "progress", "metadata"])
def test_a_full_disk_loses_nothing_that_is_finished(tmp_path, corpus, options, monkeypatch, full):
    build_records(corpus, options, tmp_path / "whole")
    with monkeypatch.context() as patch:
        limit_writing(patch, full)
        with pytest.raises(InputError, match=r"cannot write .*: No space left.*same command"):
            build_records(corpus, options, tmp_path / "r")
    left = contents(tmp_path / "r")
    assert len(left) == {"shard": 2, "progress": 3, "metadata": 5}[full]
    assert "metadata.json" not in left and not any(name.startswith(".") for name in left)
    begun = begun_shards(monkeypatch)
    build_records(corpus, options, tmp_path / "r")
    assert len(begun) == {"shard": 3, "progress": 3, "metadata": 0}[full]
    assert contents(tmp_path / "r") == contents(tmp_path / "whole")


def limit_writing(monkeypatch, full):
    """Makes the disk full when the second shard, its note or the metadata is written."""
    calls = itertools.count(1)

    def fail(number, function):
        def call(*arguments, **options):
            if next(calls) == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return function(*arguments, **options)

        return call

    if full == "metadata":
        monkeypatch.setattr(records, "write_json", fail(1, records.write_json))
    elif full == "progress":  # after the lock's holder, the options and the first shard
        monkeypatch.setattr(building.json, "dumps", fail(4, json.dumps))
    else:
        writer = tf.io.TFRecordWriter
        open_full = lambda path: writer("/dev/full" if next(calls) == 2 else path)  # noqa: E731
        monkeypatch.setattr(tf.io, "TFRecordWriter", open_full)


def test_text_without_a_word(tmp_path, options):
    (tmp_path / "t.txt").write_text(" \n \n")
    with pytest.raises(InputError, match=r'gave no examples.* \{"empty": 1\}'):
        build_records(find_corpus(tmp_path, tmp_path / "t.txt"), options, tmp_path / "r")


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        ("max_seq_length", 4, "at least 5"),
        ("max_seq_length", 1 << 16, "at least 5 and at most 65535"),
        ("num_out_files", 0, "at least 1"),
        ("seed", -1, "at least 0"),
        ("segment_rule", "bert", "one of .*electra.*convbert"),
        ("record_format", "json", "one of .*compact.*original"),
    ],
)
def test_impossible_options(name, value, allowed):
    with pytest.raises(InputError, match=f"`{name}` must be {allowed}.*Received: .*{value}"):
        BuildOptions("vocab.txt", **{name: value})
