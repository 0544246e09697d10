"""What transformers makes of saved models: the other side of compare_transformers.py.

Needs torch and transformers, and nothing of this project. Reads a JSON file of jobs: the model's
directory, transformers' Auto class, the pipeline's name or null, and texts for it. Of each it reads
DIRECTORY/inputs.npz, and writes DIRECTORY/outputs.npz and DIRECTORY/pipeline.json.
"""

import json
import os
import sys

import numpy as np
import torch
import transformers

TENSORS = ("last_hidden_state", "logits", "start_logits", "end_logits")


def main():
    """Does all jobs of the file that the command line names."""
    torch.set_num_threads(1)
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        directory = job["directory"]
        model = getattr(transformers, job["auto_class"]).from_pretrained(directory).eval()
        with np.load(os.path.join(directory, "inputs.npz")) as arrays, torch.no_grad():
            outputs = model(**{name: torch.tensor(arrays[name]).long() for name in arrays})
        arrays = {name: outputs[name].numpy() for name in TENSORS if name in outputs}
        np.savez(os.path.join(directory, "outputs.npz"), **arrays)
        report = {"class": type(model).__name__, "id2label": model.config.id2label}
        if job["pipeline"] is not None:
            report["answers"] = transformers.pipeline(job["pipeline"], directory)(job["texts"])
        with open(os.path.join(directory, "pipeline.json"), "w", encoding="utf-8") as file:
            json.dump(report, file, default=float)
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
