"""Writes one HTML page that shows what happens inside a model when it reads a text.

    python3 scripts/visualize.py DATA_DIR/models/NAME/discriminator "The cat sat on the moon."
    python3 scripts/visualize.py MODEL "A question?" "And its context." --output page.html

The page shows, for each layer, head and token, the weights of self-attention and the kernels of the
dynamic convolution. For each token, it shows the discriminator's probability that it was replaced.
MODEL is the directory of any saved ConvBERT model, or the name of one on the Hugging Face hub; only
pre-trained ones have a discriminator's head. The page needs no other file and no network.
"""

import argparse
import base64
import json
from pathlib import Path
from typing import Any

import bootstrap  # noqa: F401
from absl import logging

from common import errors, files
from common.fields import require
from pipelines import command_line

PAGE = Path(__file__).with_suffix(".html")
PLACE = "@DATA@"  # in the page, where the data go
UNIT = 65535  # weights from 0 to 1 are stored as two bytes


def main(arguments: list[str] | None = None) -> None:
    """Runs the model on the text, and writes the page."""
    args = parse_arguments(arguments)
    command_line.check_output(args.output, ".html")
    from data.tasks.examples import parse_text

    texts = [parse_text(args.text, "TEXT")]
    if args.text_pair is not None:
        texts.append(parse_text(args.text_pair, "TEXT_PAIR"))
    directory = command_line.find_model(args)
    extractor = command_line.load_pipeline("FeatureExtractor", directory)
    encoder, tokenizer = extractor.network.encoder(), extractor.tokenizer
    longest = min(args.max_seq_length, extractor.max_seq_length)
    inputs = tokenizer(*([text] for text in texts), max_length=longest)
    num_tokens = 1 + sum(1 + int(tokenizer.tokenize([text]).row_lengths()[0]) for text in texts)
    num_cut = num_tokens - inputs["input_ids"].shape[1]
    if num_cut:
        message = "%d of %d tokens do not fit into %d (`--max-seq-length`), and are cut"
        logging.warning(message, num_cut, num_tokens, longest)
    data = {
        "model": args.model,
        "texts": texts,
        "tokens": tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]),
        "segments": inputs["segment_ids"][0].tolist(),
        "cut": num_cut,
    }
    data |= look_inside(encoder, inputs, find_head(encoder, directory))
    files.write_text(args.output, make_page(data))
    print(args.output)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command_line.model_parser(__doc__, "a saved model")
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("text_pair", metavar="TEXT_PAIR", nargs="?", help="the second of a pair")
    parser.add_argument("--output", metavar="FILE", default="visualization.html")
    parser.add_argument(
        "--max-seq-length",
        type=int,
        default=128,
        help="tokens to show; the page grows with their square (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    require(args.max_seq_length >= 5, "max_seq_length", "at least 5", args.max_seq_length)
    return args


def find_head(encoder: Any, directory: str) -> Any:
    """The discriminator's head of a saved model, with its weights; None if it has none."""
    from model.layers.heads import DiscriminatorHead
    from model.weights import pretrained

    head, source = DiscriminatorHead(encoder.config), pretrained.read(directory)
    head.build((None, None, encoder.config.hidden_size))
    tensors = pretrained.discriminator_tensors(head)
    if not all(tensor.hf_name in source.arrays for tensor in tensors):
        return None
    source.load_into(encoder.tensors() + tensors)
    return head


def look_inside(encoder: Any, inputs: dict, head: Any) -> dict:
    """What the page shows of one text.

    Returns `attention` [layers, heads, T, T] and `kernels` [layers, heads, T, K], both encoded;
    their sizes `layers`, `heads` and `taps`, which is 0 without convolutions; and T probabilities
    `replaced`, or None without a `head`.
    """
    import numpy as np
    from keras import ops

    found = encoder.activations(inputs)
    attention = np.stack([ops.convert_to_numpy(layer)[0] for layer in found["attention"]])
    kernels = [ops.convert_to_numpy(layer)[0] for layer in found.get("conv_kernel", ())]
    replaced = None
    if head is not None:
        replaced = ops.convert_to_numpy(ops.sigmoid(head(found["layers"][-1])))[0]
    return {
        "layers": len(attention),
        "heads": attention.shape[1],
        "taps": kernels[0].shape[-1] if kernels else 0,
        "attention": encode(attention),
        "kernels": encode(np.stack(kernels).transpose(0, 2, 1, 3)) if kernels else "",
        "replaced": None if replaced is None else [round(float(p), 4) for p in replaced],
    }


def encode(weights: Any) -> str:
    """Weights from 0 to 1 as base64 of little-endian 16-bit integers, from 0 to `UNIT`."""
    return base64.b64encode((weights * UNIT).round().astype("<u2").tobytes()).decode()


def make_page(data: dict) -> str:
    """The page with its data, escaped so that no text can end the element that holds them."""
    content = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    return PAGE.read_text(encoding="utf-8").replace(PLACE, content)


if __name__ == "__main__":
    errors.run(main)
