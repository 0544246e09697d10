"""Run by `exchange_table.py` with a Python that has torch and transformers.

    python exchange_peer.py FOLDER

Writes, for each of transformers' ConvBERT classes and each precision, the same random model in
PyTorch's formats below FOLDER/CLASS/PRECISION/, and beside them `outputs.npz`: padded inputs, and
what transformers says of them in float32.
"""

import os
import sys

import numpy as np
import torch
import transformers

CLASSES = (
    "ConvBertModel",
    "ConvBertForMaskedLM",
    "ConvBertForSequenceClassification",
    "ConvBertForTokenClassification",
    "ConvBertForQuestionAnswering",
    "ConvBertForMultipleChoice",
)
WIDTH = {
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


def main():
    """Writes everything."""
    for number, name in enumerate(CLASSES):
        for precision in ("float32", "float16"):
            torch.manual_seed(number)
            num_labels = 2 if "Question" in name else 3  # start and end
            config = transformers.ConvBertConfig(**WIDTH, num_labels=num_labels)
            model = getattr(transformers, name)(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():  # biases too, which are zeros when new
                    parameter.add_(0.05 * torch.randn_like(parameter))
                    if precision == "float16":
                        parameter.copy_(parameter.half().float())
            folder = os.path.join(sys.argv[1], name, precision)
            save_outputs(model, folder, (2, 2) if "Choice" in name else (4,))
            save_formats(model.half() if precision == "float16" else model, folder)


def save_outputs(model, folder, rows):
    """Inputs of which some rows end early, and the outputs."""
    random = np.random.default_rng(0)
    inputs = {
        "input_ids": random.integers(5, WIDTH["vocab_size"], (4, max(LENGTHS))),
        "attention_mask": (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(int),
        "token_type_ids": random.integers(0, 2, (4, max(LENGTHS))),
    }
    inputs["input_ids"] *= inputs["attention_mask"]
    inputs = {name: array.reshape(*rows, -1) for name, array in inputs.items()}
    with torch.no_grad():
        outputs = model(**{name: torch.tensor(array) for name, array in inputs.items()})
    os.makedirs(folder)
    names = ("last_hidden_state", "logits", "start_logits", "end_logits")
    found = {name: outputs[name].numpy() for name in names if name in outputs}
    np.savez(os.path.join(folder, "outputs.npz"), **inputs, **found)


def save_formats(model, folder):
    """safetensors, in one file and in parts, and PyTorch's pickles, in both formats."""
    model.save_pretrained(os.path.join(folder, "safetensors"))
    model.save_pretrained(os.path.join(folder, "sharded safetensors"), max_shard_size="1MB")
    for name, is_zip in (("pytorch_model.bin", True), ("pytorch_model.bin before 1.6", False)):
        there = os.path.join(folder, name)
        os.makedirs(there)
        model.config.save_pretrained(there)
        path = os.path.join(there, "pytorch_model.bin")
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=is_zip)


if __name__ == "__main__":
    main()
