"""Ids, records and vocabularies do not depend on the environment of the process."""

import gzip
import json
import os
import subprocess
import sys

import tensorflow as tf

from data import ConvBertTokenizer
from data.tokenizer.vocab_file import SPECIAL_TOKENS
from tests.support.corpora import random_archives
from tests.support.files import as_lines, write
from tests.support.processes import ROOT

TEXTS = [
    "IT IS I, John Ingram's JIVE",
    "\u0130stanbul I\u0307 I\u0300 J\u0300 J\u0303 \u012e\u0301 Oslo",
    "\u00ccma \u00cdma \u0128ma \u00cemin \u012aJ Oslo",
    "\u039f\u0394\u039f\u03a3 \u1e9e \u01c5 \ufdfa \ud55c\uad6d\uc5b4 x",
]
# What it is given: the order in which directories are listed, the number of processes, a data
# directory, a corpus, and a tokenizer that was exported in another process.
PROGRAM = """
import hashlib, json, os, pathlib, sys

order, num_processes, data_dir, corpus, served = sys.argv[1:]
list_directory = os.scandir

class Listing:
    def __init__(self, *path):
        with list_directory(*path) as entries:
            by_name = sorted(entries, key=lambda entry: entry.name, reverse=order == "backward")
        self.entries = iter(by_name)
    __enter__ = __iter__ = lambda self: self
    __exit__ = close = lambda self, *_: None
    __next__ = lambda self: next(self.entries)

os.scandir = Listing
os.listdir = lambda path: [entry.name for entry in Listing(path)]

from common import lean_imports
lean_imports.install()
import tensorflow as tf
from data import ConvBertTokenizer
from data.corpus.sources import find_corpus
from data.tokenizer import train_vocab
import build_data

texts, vocab = json.load(sys.stdin)
found = {"rows": []}
for options in ((True, True), (True, False), (False, False)):
    tokenizer = ConvBertTokenizer(vocab, *options)
    batch = tokenizer(texts, padding=False, return_offsets_mapping=True)
    found["rows"] += batch["input_ids"] + batch["offset_mapping"]
found["served"] = tf.saved_model.load(served).tokenize(tf.constant(texts)).numpy().tolist()
options = train_vocab.VocabularyOptions(200)
counts = train_vocab.count_words(find_corpus(data_dir, corpus), options)
tokens = found["vocabulary"] = train_vocab.train_vocabulary(counts, options)
pathlib.Path(data_dir, "vocab.txt").write_text("\\n".join(tokens), encoding="utf-8")
sys.argv = ["", "--data-dir", data_dir, "--corpus", corpus, "--num-processes", num_processes]
sys.argv += ["--max-seq-length", "32", "--num-out-files", "3"]
build_data.main()
found["records"] = {
    path.name: hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(pathlib.Path(data_dir, "pretrain_tfrecords").iterdir())
}
print("FOUND", json.dumps(found))
"""
# Languages need not be installed to matter.
ENVIRONMENTS = [
    (["forward", "1"], 0o022, {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"}),
    (
        ["backward", "2"],
        0o077,
        {
            "LC_ALL": "tr_TR.UTF-8",
            "TZ": "Pacific/Kiritimati",
            "PYTHONHASHSEED": "1",
            "PYTHONIOENCODING": "ascii",
            "RAYON_NUM_THREADS": "1",
        },
    ),
    (["backward", "1"], 0o002, {"LANG": "lt_LT.UTF-8", "PYTHONHASHSEED": "2"}),
]


def start(arguments, umask, environment, data_dir, *paths):
    data_dir.mkdir()
    set_here = ("LC_", "LANG", "TZ", "PYTHON")
    others = {name: text for name, text in os.environ.items() if not name.startswith(set_here)}
    relative = [os.path.relpath(path, data_dir) for path in (data_dir, *paths)]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments, *relative],
        env=others | environment | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=data_dir,
        umask=umask,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_ids_records_and_vocabularies_are_the_same_everywhere(tmp_path):
    corpus = tmp_path / "corpus"
    documents = ["\n\n".join(each) for each in random_archives(4, 9)]
    write(corpus / "æ/ØL.txt", "\n\n".join([*TEXTS, "not UTF-8: "]).encode() + b"\xff")
    write(corpus / "æ/İ.TXT", documents[0])
    write(corpus / "b.jsonl", as_lines({"text": text} for text in [*TEXTS, documents[1], ""]))
    write(corpus / "c.txt.gz", gzip.compress(documents[2].encode(), mtime=0))
    write(corpus / "I.txt", documents[3])
    write(corpus / "passed.over", "")
    chars = {char for text in TEXTS for char in text + text.lower()} | set("i\u0131j\u0307")
    vocab = [f"{mark}{char}" for char in sorted(chars - {" "}) for mark in ("", "##")]
    tokenizer = ConvBertTokenizer([*SPECIAL_TOKENS, *vocab])
    module = tf.Module()
    module.tokenize = tf.function(
        lambda texts: tokenizer.tokenize(texts).to_tensor(-1), [tf.TensorSpec([None], tf.string)]
    )
    tf.saved_model.save(module, str(tmp_path / "served"))
    given = json.dumps([TEXTS, tokenizer.vocab])
    processes = [
        start(*each, tmp_path / f"data{index}", corpus, tmp_path / "served")
        for index, each in enumerate(ENVIRONMENTS)
    ]
    printed = [process.communicate(given)[0] for process in processes]
    first, *others = [json.loads(text.partition("FOUND")[2]) for text in printed]
    assert len(first["rows"]) == 3 * 2 * len(TEXTS) and len(first["records"]) == 4
    assert len(first["vocabulary"]) == 200
    for other in others:
        assert other == first
