"""Whole jobs on Keras's JAX backend."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

from tests.support import finetuning
from tests.support.finetuning import sentence, write_tsv
from tests.support.processes import run_python
from tests.support.random_models import VOCAB, rows_of, save, softmax
from tests.support.training_steps import QUICKLY

# Fine-tunes, and prints which of the models' functions JAX has compiled in each trial.
COUNT_COMPILATIONS = """
import json, logging, re, sys
import jax
import finetune

class Compilations(logging.Handler):
    def emit(self, record):
        found.extend(re.findall(r"Compiling jit.(train_step|predict_step)", record.getMessage()))

found, trials, run_trial = [], [], finetune.run_trial

def counted(*arguments):
    result = run_trial(*arguments)
    trials.append(sorted(found))
    found.clear()
    return result

jax.config.update("jax_log_compiles", True)
logging.getLogger("jax._src.interpreters.pxla").addHandler(Compilations())
finetune.run_trial = counted
finetune.main(sys.argv[1:])
print(json.dumps(trials))
"""

# Fills masks, and prints what JAX has compiled beside top_k.
FILL_MASKS = """
import json, logging, re, sys
import jax
from pipelines import FillMask

class Compilations(logging.Handler):
    def emit(self, record):
        found.extend(re.findall(r"Compiling (?:jit.)?(\\w+)", record.getMessage()))

found, fill_mask = [], FillMask.from_pretrained(sys.argv[1])
jax.config.update("jax_log_compiles", True)
logging.getLogger("jax._src.interpreters.pxla").addHandler(Compilations())
tokens = [
    [[mask.tokens, mask.probabilities.tolist()] for mask in fill_mask.predict([text], top_k=2)[0]]
    for text in json.loads(sys.argv[2])
]
print(json.dumps([tokens, found]))
"""


def run(script, arguments):
    """A Python process on JAX, which keeps even what is compiled in less than a second."""
    environment = QUICKLY | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return run_python("-c", script, *arguments, KERAS_BACKEND="jax", **environment)


@pytest.mark.peers
def test_fine_tuning_learns_predicts_and_compiles_few_shapes_once(tmp_path):
    data_dir = finetuning.build_data_dir(tmp_path)
    texts = [f"{sentence(i)}{' mat' * (i % 4 * 7)}" for i in range(30)]  # up to 28 tokens
    rows = [f"x\t{i % 2}\t\t{text}" for i, text in enumerate(texts)]
    write_tsv(data_dir / "finetuning_data" / "cola", "train", rows)
    hparams = {
        "max_seq_length": 32,
        "learning_rate": 0.003,
        "layerwise_lr_decay": 1.0,
        "num_train_epochs": 25.0,
        "train_batch_size": 15,
        "num_trials": 2,
    }
    command = finetuning.arguments(data_dir, "small_one", hparams, "cola", "sts")
    done = run(COUNT_COMPILATIONS, command)
    model_dir = data_dir / "models" / "small_one"
    for result in finetuning.read_results(model_dir, "cola"):
        assert result["metrics"] == {"mcc": 100.0}  # one word decides
    labels = [label for _, label, _ in finetuning.read_predictions(model_dir, "cola_test_2")]
    assert labels == list("0101010")
    for result in finetuning.read_results(model_dir, "sts"):
        assert result["metrics"]["pearson"] > 90
    # Training CoLA has two lengths; its dev and test sets, and all of STS-B, have one.
    of_cola, of_sts = ["predict_step", "train_step", "train_step"], ["predict_step", "train_step"]
    assert json.loads(done.stdout.splitlines()[-1]) == [of_cola, [], of_sts, []]
    assert done.stderr.count("compiling for 15 x 32 tokens; this can take a minute") == 1
    assert done.stderr.count("compiling for") == 5
    assert os.listdir(data_dir / ".compilation_cache")


@pytest.mark.peers
def test_micro_batches_equal_whole_ones(tmp_path):
    """In joint training, whose outputs have a loss each."""
    data_dir = finetuning.build_data_dir(tmp_path)
    no_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    hparams = {"max_seq_length": 16, "num_train_epochs": 1.0, "train_batch_size": 16}
    hparams |= {"task_names": ["cola", "sts"], "model_hparam_overrides": no_dropout}
    commands = []
    for name, parts in (("one", 1), ("two", 2)):
        own = hparams | {"gradient_accumulation_steps": parts}
        command = finetuning.arguments(data_dir, "small_one", own)
        commands.append([*command, "--run-name", name])
    script = "import finetune, json, sys; [*map(finetune.main, json.loads(sys.argv[1]))]"
    run(script, [json.dumps(commands)])
    runs = data_dir / "models" / "small_one" / "finetuning_runs"
    path = "finetuning_models/cola+sts_1/sts/model.safetensors"
    one, two = (safetensors.numpy.load_file(runs / name / path) for name in ("one", "two"))
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, atol=1e-5, err_msg=name)


@pytest.mark.peers
def test_a_mask_head_is_compiled_as_a_whole(tmp_path):
    texts = ["a [MASK] b [MASK] c [MASK]", "a [MASK] b [MASK] [MASK] [MASK]"]
    model = save(tmp_path)
    done = run(FILL_MASKS, [str(tmp_path), json.dumps(texts)])
    filled, compiled = json.loads(done.stdout.splitlines()[-1])
    for text, masks in zip(texts, filled, strict=True):
        (ids,) = rows_of(text)
        expected = softmax(model({"input_ids": ids}))[0][ids[0] == VOCAB.index("[MASK]")]
        assert len(masks) == len(expected)
        for (tokens, probabilities), row in zip(masks, expected, strict=True):
            best = np.argsort(-row)[:2]
            assert tokens == [VOCAB[i] for i in best]
            np.testing.assert_allclose(probabilities, row[best], atol=1e-5)
    # The encoder, the head for three masks and then for four, and the likeliest tokens.
    assert compiled == ["predict_step", "predict_step", "top_k"]
