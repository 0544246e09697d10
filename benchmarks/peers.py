"""What benchmark.py compares the data builder with, each in a process of its own.

    python3 benchmarks/peers.py {tokenizers,plain} CORPUS VOCAB_FILE COUNT

The last line printed is JSON: the seconds that the work took, the start not counted, and the text.
"""

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import errors
from common.errors import InputError
from data.corpus.readers import read_lines
from data.corpus.sources import Corpus, find_corpus

DOCUMENTS_A_BATCH = 1000


def main():
    """Runs the peer that the command line names."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    name, path, vocab_file, count = sys.argv[1:]
    corpus = find_corpus(Path(path).parent, path)
    if corpus.is_stream:
        raise InputError(f"{path} is a compressed tar: decompress it to compare with others.")
    peer = {"tokenizers": run_tokenizers, "plain": run_plain}[name]
    print(json.dumps(peer(corpus, vocab_file, int(count))))


def run_tokenizers(corpus: Corpus, vocab_file: str, num_threads: int) -> dict:
    """Has Rust's tokenizers cut the whole text, which is in memory, a document a string."""
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    from tokenizers import BertWordPieceTokenizer

    documents, lines, text_bytes = [], [], 0
    for source in corpus.sources:
        for line in read_lines(source):
            if line is not None:
                lines.append(line.decode("utf-8", "ignore"))
                text_bytes += len(line)
            else:
                documents.append("\n".join(lines))
                lines.clear()
    tokenizer = BertWordPieceTokenizer(vocab=vocab_file)._tokenizer  # the rest of it is Python
    start = time.monotonic()
    for first in range(0, len(documents), DOCUMENTS_A_BATCH):
        batch = documents[first : first + DOCUMENTS_A_BATCH]
        tokenizer.encode_batch_fast(batch, add_special_tokens=False)
    return {"seconds": time.monotonic() - start, "text_bytes": text_bytes}


def run_plain(corpus: Corpus, vocab_file: str, num_processes: int) -> dict:
    """Builds the original's records in plain Python, the sources dealt to the processes in turn."""
    context = multiprocessing.get_context("spawn")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        jobs = [
            (corpus.sources[index::num_processes], vocab_file, f"{folder}/{index}")
            for index in range(num_processes)
        ]
        with context.Pool(num_processes) as pool:
            results = pool.starmap(build_plainly, jobs)
    totals = [sum(column) for column in zip(*results, strict=True)]
    seconds = {"seconds": time.monotonic() - start}
    return seconds | dict(zip(("text_bytes", "record_bytes", "record_tokens"), totals, strict=True))


def build_plainly(sources: list, vocab_file: str, path: str) -> tuple[int, int, int]:
    """Writes the records of sources; returns the bytes of text, of records, and the tokens."""
    from data.records.examples import ExampleBuilder
    from data.records.shard_io import open_shard
    from data.tokenizer.vocab_file import load_vocabulary
    from tests.support.wordpiece import reference_ids

    vocab = {token: index for index, token in enumerate(load_vocabulary(vocab_file))}
    builder = ExampleBuilder(
        128, vocab["[CLS]"], vocab["[SEP]"], random.Random(0), "convbert", carry_over=False
    )
    text_bytes = tokens = 0
    with open_shard(path, "original", 128) as write:
        for source in sources:
            for line in read_lines(source):
                if line is None:
                    examples = builder.end_document()
                else:
                    text_bytes += len(line)
                    ids = reference_ids(line.decode("utf-8", "ignore"), vocab)
                    examples = builder.add_line(np.array(ids, np.int32))
                for example in examples:
                    write(*example)
                    tokens += len(example.ids)
    return text_bytes, os.path.getsize(path), tokens


if __name__ == "__main__":
    errors.run(main)
