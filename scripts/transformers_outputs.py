"""Computes transformers' outputs for saved models; `compare_transformers.py` runs it.

Needs torch and transformers, and nothing of this project. Reads a JSON file of jobs: a model's
directory, transformers' Auto class, the name of a pipeline or null, and texts for it. For each it
reads DIRECTORY/inputs.npz, and writes DIRECTORY/outputs.npz and DIRECTORY/answers.json.
"""

import json
import os
import sys

import numpy as np
import torch
import transformers

OUTPUTS = ("last_hidden_state", "logits", "start_logits", "end_logits")


def main():
    """Runs the jobs, and prints the versions."""
    torch.set_num_threads(1)
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)
    for job in jobs:
        directory = job["directory"]
        model = getattr(transformers, job["auto_class"]).from_pretrained(directory).eval()
        with np.load(os.path.join(directory, "inputs.npz")) as arrays, torch.no_grad():
            outputs = model(**{name: torch.tensor(arrays[name]).long() for name in arrays})
        arrays = {name: outputs[name].numpy() for name in OUTPUTS if name in outputs}
        np.savez(os.path.join(directory, "outputs.npz"), **arrays)
        if job["pipeline"] is not None:
            answers = transformers.pipeline(job["pipeline"], directory)(job["texts"])
            with open(os.path.join(directory, "answers.json"), "w", encoding="utf-8") as file:
                json.dump(answers, file, default=float)
    print(f"transformers {transformers.__version__}, PyTorch {torch.__version__}")


if __name__ == "__main__":
    main()
