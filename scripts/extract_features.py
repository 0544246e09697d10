"""Writes a vector for each text, or pair of texts: the mean of an encoder's outputs, or [CLS]'s.

    python3 scripts/extract_features.py MODEL --input texts.txt --output vectors.npy
    python3 scripts/extract_features.py MODEL --input new.csv --columns title body \\
        --pooling cls --output vectors.parquet

MODEL is any saved ConvBERT model: DATA_DIR/models/NAME/discriminator, a fine-tuned one,
transformers', or the name of one on the Hugging Face hub. Without --columns there is one text a
line (or an argument), or two with a tab between them; with --columns the input is a TSV, CSV or
JSON-lines file. A .npy file is an array float32 [texts, H]; a .parquet file has the texts beside
their vectors. Both are in the texts' order, and are written while they are computed.
"""

import argparse
import contextlib
import os
from collections.abc import Iterable, Iterator

import bootstrap  # noqa: F401

from common import errors, files
from scripts import text_input

FORMATS = ("npy", "parquet")


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, encodes them, writes the vectors as they come."""
    args = parse_arguments(arguments)
    output_format = text_input.choose_format(args.output, FORMATS)
    texts, pairs = text_input.read_texts(args)
    directory = text_input.find_model(args)

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    from data.tensorflow_setup import prepare_tensorflow
    from pipelines import FeatureExtractor

    prepare_tensorflow(keras.backend.backend() == "tensorflow")
    extractor = FeatureExtractor.from_pretrained(directory, args.pooling, args.layer)
    chunks = extractor.encode_chunks(texts, pairs, args.batch_size)
    write = write_npy if output_format == "npy" else write_parquet
    with (
        text_input.progress_bar(len(texts)) as bar,
        files.atomic_path(args.output) as temporary,
    ):
        write(temporary, counted(chunks, bar), texts, pairs, extractor.hidden_size)
    print(f"{args.output}: {len(texts)} vectors of {extractor.hidden_size} numbers")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text_input.add_model(parser, "a saved model")
    text_input.add_arguments(parser)
    parser.add_argument("--output", required=True, help="file to write: .npy or .parquet")
    text_input.add_vector_options(parser)
    return parser.parse_intermixed_args(arguments)


def counted(chunks: Iterable, bar) -> Iterator:
    """The chunks; the bar moves when one has been dealt with."""
    for chunk in chunks:
        yield chunk
        bar.update(len(chunk))


def write_npy(path: str, chunks: Iterable, texts: list[str], _, width: int) -> None:
    """An array `[texts, width]`, chunk after chunk."""
    import numpy as np

    header = {"descr": "<f4", "fortran_order": False, "shape": (len(texts), width)}
    # Not a memory map: what is written to one is lost without a word when the disk is full.
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for vectors in chunks:
            file.write(vectors.astype("<f4", copy=False).tobytes())


def write_parquet(
    path: str, chunks: Iterable, texts: list[str], pairs: list[str] | None, width: int
) -> None:
    """Columns `text`, `text_pair` where there are pairs, and `vector`; a row group a chunk."""
    import pyarrow
    from pyarrow import parquet

    columns = {"text": texts} | ({"text_pair": pairs} if pairs else {})
    fields = {name: pyarrow.string() for name in columns}
    schema = pyarrow.schema(fields | {"vector": pyarrow.list_(pyarrow.float32(), width)})
    begin = 0
    with contextlib.closing(parquet.ParquetWriter(path, schema)) as writer:
        for vectors in chunks:
            rows = slice(begin, begin + len(vectors))
            numbers = pyarrow.array(vectors.reshape(-1))
            arrays = [pyarrow.array(column[rows]) for column in columns.values()]
            arrays.append(pyarrow.FixedSizeListArray.from_arrays(numbers, width))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
            begin = rows.stop


if __name__ == "__main__":
    errors.run(main)
