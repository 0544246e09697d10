"""Random models that transformers saves compute the same here, in every class and file format.

`python -m pytest -m peers -s tests/model/weights/test_exchange.py` also prints the differences.
"""

import shutil

import numpy as np
import pytest
import safetensors.numpy

import model as models
from tests.support.huggingface import INPUTS, OUTPUTS
from tests.support.tf_writer import MODEL_NAMES, write_h5

# The width of medium-small.
CONFIG = {
    "hidden_size": 384,
    "num_attention_heads": 8,
    "embedding_size": 128,
    "intermediate_size": 1536,
    "num_groups": 2,
    "num_hidden_layers": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 64,
}
LENGTHS = (24, 17, 9, 24)


def random_model(name, precision):
    """transformers' model in float32, with weights that `precision` can hold."""
    import torch
    import transformers

    torch.manual_seed(list(MODEL_NAMES).index(name))
    num_labels = 2 if "Question" in name else 3  # start and end
    config = transformers.ConvBertConfig(**CONFIG, num_labels=num_labels)
    model = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # new biases are zeros
            parameter.add_(0.05 * torch.randn_like(parameter))
            if precision == "float16":
                parameter.copy_(parameter.half().float())
    return model


def run(model, name):
    """Padded inputs under our names, and transformers' outputs."""
    import torch

    random = np.random.default_rng(0)
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(int)
    inputs = {
        "input_ids": random.integers(5, CONFIG["vocab_size"], mask.shape) * mask,
        "input_mask": mask,
        "segment_ids": random.integers(0, 2, mask.shape),
    }
    if "Choice" in name:
        inputs = {key: array.reshape(2, 2, -1) for key, array in inputs.items()}
    with torch.no_grad():
        outputs = model(**{INPUTS[key]: torch.tensor(array) for key, array in inputs.items()})
    return inputs, {key: outputs[key].numpy() for key in OUTPUTS if key in outputs}


def save_formats(model, name, folder):
    """Saves a model in every format, each in a directory; transformers 5 cannot write the last."""
    import torch

    model.save_pretrained(folder / "safetensors")
    model.save_pretrained(folder / "sharded safetensors", max_shard_size="1MB")
    for form, is_zip in (("pytorch_model.bin", True), ("pytorch_model.bin before 1.6", False)):
        model.config.save_pretrained(folder / form)
        path = folder / form / "pytorch_model.bin"
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)
    (folder / "tf_model.h5").mkdir()
    shutil.copy(folder / "safetensors" / "config.json", folder / "tf_model.h5")
    tensors = safetensors.numpy.load_file(folder / "safetensors" / "model.safetensors")
    write_h5(folder / "tf_model.h5" / "tf_model.h5", tensors, name)


@pytest.mark.peers
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_class_and_format(name, precision, tmp_path):
    model = random_model(name, precision)
    inputs, expected = run(model, name)
    save_formats(model.half() if precision == "float16" else model, name, tmp_path)
    for directory in sorted(tmp_path.iterdir()):
        network = getattr(models, name).from_pretrained(directory, mask_padding=False)
        outputs = network(inputs)
        outputs = outputs if isinstance(outputs, dict) else {next(iter(expected)): outputs}
        difference = max(np.abs(outputs[key] - expected[key]).max() for key in expected)
        print(f"{name}, {precision}, {directory.name}: {difference:.1e}")
        assert difference < 2e-5
        state = {key: value.float().numpy() for key, value in model.state_dict().items()}
        for row in network.tensors():
            theirs = state.get(row.hf_name, state.get(f"convbert.{row.hf_name}"))
            np.testing.assert_array_equal(row.to_hf(), theirs, err_msg=row.hf_name)
