"""How far our outputs are from transformers', for each of its classes and each file format.

    python -m tests.model.exchange_table --peer-python ~/torch/bin/python

Prints a Markdown table of the largest absolute difference, on padded input with `mask_padding`
false, of random models of medium-small width with two layers. --peer-python names a Python with
torch and transformers, which makes models, files and outputs; `tf_model.h5`, which transformers 5
cannot write, is written here, with the names and layouts of transformers 4.
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy

import model as models
from tests.support.tf_writer import MODEL_NAMES, write_h5

FORMATS = (
    "safetensors",
    "sharded safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin before 1.6",
    "tf_model.h5",
)
OUR_NAMES = {
    "input_ids": "input_ids",
    "attention_mask": "input_mask",
    "token_type_ids": "segment_ids",
}


def main():
    """Makes the files, loads each, prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer-python", required=True, help="with torch and transformers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        peer = Path(__file__).with_name("exchange_peer.py")
        subprocess.run([args.peer_python, peer, folder], check=True)
        print(f"| | {' | '.join(FORMATS)} |\n|---{'|---' * len(FORMATS)}|")
        for name in MODEL_NAMES:
            cells = []
            for form in FORMATS:
                both = [
                    largest_difference(name, Path(folder, name, precision), form)
                    for precision in ("float32", "float16")
                ]
                cells.append(" / ".join(f"{difference:.1e}" for difference in both))
            print(f"| `{name}` | {' | '.join(cells)} |", flush=True)


def largest_difference(name, folder, form):
    """Of all outputs of one class, loaded from one format."""
    directory = folder / form
    if form == "tf_model.h5":
        directory.mkdir()
        shutil.copy(folder / "safetensors" / "config.json", directory)
        tensors = safetensors.numpy.load_file(folder / "safetensors" / "model.safetensors")
        write_h5(directory / form, tensors, name)
    with np.load(folder / "outputs.npz") as file:
        expected = dict(file)
    inputs = {ours: expected.pop(theirs) for theirs, ours in OUR_NAMES.items()}
    network = getattr(models, name).from_pretrained(directory, mask_padding=False)
    outputs = network(inputs)
    if not isinstance(outputs, dict):
        outputs = {next(iter(expected)): outputs}
    return max(np.abs(np.asarray(outputs[key]) - expected[key]).max() for key in expected)


if __name__ == "__main__":
    main()
