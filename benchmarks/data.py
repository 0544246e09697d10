"""`data`: build_data.py with one process and with several, next to Rust's tokenizers."""

import argparse
import concurrent.futures
import functools
import importlib.util
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT, alternate, report, use_cores
from common.errors import InputError


def run(args: argparse.Namespace) -> None:
    """Measures builds in alternation, and how fast `tokenizers` tokenizes, if it is installed."""
    from data.records.command_line import BERT_VOCAB  # not in the processes that are measured

    corpus, count = os.path.abspath(args.corpus), args.num_processes
    vocab = os.path.abspath(args.vocab_file or BERT_VOCAB)

    def builds(num_processes, *options, copies=1):
        options += ("--corpus", corpus, "--vocab-file", vocab, "--num-processes", num_processes)
        return lambda: in_new_process(build, options, copies)

    ours = f"{count} processes"
    runs = {ours: builds(count)}
    if count > 1:
        runs["1 process"] = builds(1)
        runs[f"{count} builds with 1 process each"] = builds(1, copies=count)
    runs[f"{ours}, original's records"] = builds(count, "--record-format", "original")
    if importlib.util.find_spec("tokenizers"):
        peer = functools.partial(in_new_process, tokenize, corpus, vocab, count)
        runs[f"tokenizers, tokenization alone, {count} threads"] = peer
    use_cores(count)
    report(args, alternate(runs, args.rounds), "run", "text_bytes_per_second", ours)


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process, so that its time and memory are those of this call."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as executor:
        return executor.submit(function, *arguments).result()


def build(options: tuple, copies: int) -> dict:
    """Builds records with build_data.py, in several copies at the same time."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as log:
        folders = [Path(scratch, str(index)) for index in range(copies)]
        begin, processes = time.monotonic(), []
        for folder in folders:
            folder.mkdir()
            command = [sys.executable, ROOT / "build_data.py", "--data-dir", folder, *options]
            processes.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=log))
        if any([process.wait() for process in processes]):  # waits for all of them
            log.seek(0)
            raise InputError(f"build_data.py failed:\n{log.read().decode()[-2000:]}")
        seconds = time.monotonic() - begin
        metadata = [Path(folder, "pretrain_tfrecords", "metadata.json") for folder in folders]
        totals = [json.loads(path.read_text())["totals"] for path in metadata]
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": seconds,
        "text_bytes_per_second": sum(total["text_bytes"] for total in totals) / seconds,
        "bytes_per_token": totals[0]["bytes"] / totals[0]["tokens"],
        "cores_busy": (usage.ru_utime + usage.ru_stime) / seconds,
        "peak_bytes": usage.ru_maxrss * 1024,  # of the largest process
    }


def tokenize(corpus: str, vocab: str, num_threads: int) -> dict:
    """Tokenizes a corpus that is already in memory, one string per document."""
    os.environ["RAYON_NUM_THREADS"] = str(num_threads)
    from tokenizers import BertWordPieceTokenizer

    from data.corpus.readers import read_lines
    from data.corpus.sources import find_corpus

    documents, lines, text_bytes = [], [], 0
    for source in find_corpus(os.path.dirname(corpus), corpus).sources:
        for line in read_lines(source):
            if line is None:  # the end of a document
                documents.append("\n".join(lines))
                lines.clear()
            else:
                lines.append(line.decode("utf-8", "ignore"))
                text_bytes += len(line)
    tokenizer = BertWordPieceTokenizer(vocab=vocab)._tokenizer  # without its Python wrapper
    begin = time.monotonic()
    for first in range(0, len(documents), 1000):
        tokenizer.encode_batch_fast(documents[first : first + 1000], add_special_tokens=False)
    seconds = time.monotonic() - begin
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    rate = text_bytes / seconds
    return {"seconds": seconds, "text_bytes_per_second": rate, "peak_bytes": peak_bytes}
