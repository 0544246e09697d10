"""Writes one vector per text, or pair of texts, from a model's encoder.

    python3 scripts/extract_features.py MODEL --input texts.txt --output vectors.npy
    python3 scripts/extract_features.py MODEL --input new.csv --columns title body \\
        --pooling cls --output vectors.npy

MODEL is the directory of any saved ConvBERT model, such as DATA_DIR/models/NAME/discriminator, or
the name of one on the Hugging Face hub. Texts are arguments, or lines of a file or of standard
input, with a tab between the two texts of a pair; with --columns they are cells of a TSV, CSV or
JSON-lines file. The output is an array float32 [texts, H] in the order of the texts. It is written
as it is computed, and appears when it is complete.
"""

from collections.abc import Iterable
from typing import Any

import bootstrap  # noqa: F401

from common import errors, files
from pipelines import command_line, text_files


def main(arguments: list[str] | None = None) -> None:
    """Reads and checks the texts, encodes them, and writes the vectors."""
    parser = command_line.make_parser(__doc__, "a saved model", "one or two columns")
    parser.add_argument("--output", metavar="FILE", required=True, help=".npy file to write")
    command_line.add_vector_options(parser)
    args = parser.parse_intermixed_args(arguments)
    command_line.check_output(args.output, ".npy")
    rows = text_files.read_rows(args, "a text, or two with a tab between them", most=2)
    columns = list(map(list, zip(*rows, strict=True)))
    directory = command_line.find_model(args)
    extractor = command_line.load_pipeline(
        "FeatureExtractor",
        directory,
        dtype=args.dtype,
        pooling=args.pooling,
        layer=args.layer,
    )
    vectors = extractor.encode_chunks(*columns, batch_size=args.batch_size, errors=args.errors)
    with (
        command_line.progress_bar(len(rows)) as bar,
        files.write_errors_named(args.output),
        files.atomic_path(args.output) as temporary,
    ):
        write_npy(temporary, vectors, (len(rows), extractor.hidden_size), bar)
    print(f"{args.output}: {len(rows)} vectors of {extractor.hidden_size} numbers")


def write_npy(path: str, chunks: Iterable[Any], shape: tuple[int, int], bar: Any) -> None:
    """Writes a float32 array of the given shape, chunk by chunk, and advances the bar."""
    import numpy as np

    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    # Not a memory map: if the disk is full, writes to one are lost silently.
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for vectors in chunks:
            file.write(vectors.astype("<f4", copy=False).tobytes())
            bar.update(len(vectors))


if __name__ == "__main__":
    errors.run(main)
