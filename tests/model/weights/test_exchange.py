"""Random models that transformers saves compute the same here, in every class and file format.

`python -m pytest -m peers -s tests/model/weights/test_exchange.py` also prints the differences.
"""

import shutil

import keras
import numpy as np
import pytest
import safetensors.numpy

import model as models
from scripts import compare_transformers
from tests.support.tf_writer import MODEL_NAMES, write_h5

# The width of medium-small.
CONFIG = {"hidden_size": 384, "num_attention_heads": 8, "embedding_size": 128, "num_groups": 2}
CONFIG |= {"intermediate_size": 1536, "num_hidden_layers": 2, "vocab_size": 1000}


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
    inputs = compare_transformers.random_inputs(name, CONFIG["vocab_size"])
    expected = compare_transformers.compute(model, inputs)
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


@pytest.mark.peers
def test_attention_alone_is_transformers_electra():
    import torch
    import transformers

    keras.utils.set_random_seed(0)
    fields = {name: value for name, value in CONFIG.items() if name != "num_groups"}
    config = models.ConvBertConfig(
        **fields, conv_type="noconv", head_ratio=1, initializer_range=0.1, mask_padding=False
    )
    network = models.ConvBertModel(config)
    electra = transformers.ElectraModel(transformers.ElectraConfig(**fields)).eval()
    electra.load_state_dict({row.hf_name: torch.tensor(row.to_hf()) for row in network.tensors()})
    inputs = compare_transformers.random_inputs("ConvBertModel", CONFIG["vocab_size"])
    expected = compare_transformers.compute(electra, inputs)["last_hidden_state"]
    differences = np.abs(np.asarray(network(inputs)) - expected)[inputs["input_mask"] == 1]
    print(f"ElectraModel: {differences.max():.1e}, of values up to {np.abs(expected).max():.1f}")
    assert differences.max() < 2e-5
