import dataclasses
import json
import pathlib

import pytest

import configure_finetuning
from common.errors import InputError
from common.fields import override
from configure_finetuning import FinetuningConfig
from data.tasks import glue


def test_files_of_tasks_hold_their_source_and_what_differs_from_the_defaults():
    paths = list(pathlib.Path(configure_finetuning.TASK_HPARAMS).glob("*.json"))
    assert {path.stem for path in paths} >= set(glue.TASKS)
    defaults = dataclasses.asdict(FinetuningConfig())
    for path in paths:
        values = json.loads(path.read_text())
        assert values.pop("source")
        assert not values.items() & {n: v for n, v in defaults.items() if n in values}.items()
        config = FinetuningConfig.for_tasks((path.stem,), {})
        assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize("task", glue.TASKS)
def test_glue_tasks_have_the_originals_settings(task):
    config = FinetuningConfig.for_tasks((task,), {})
    assert config.num_train_epochs == (10.0 if task in ("rte", "sts") else 3.0)
    assert (config.learning_rate, config.train_batch_size) == (None, 32)
    assert (config.warmup_proportion, config.weight_decay_rate) == (0.1, 0.01)
    assert (config.layerwise_lr_decay, config.max_seq_length) == (0.8, 128)
    assert (config.task_names, config.num_trials, config.n_writes_test) == ((task,), 1, 5)
    assert config.double_unordered and config.write_test_outputs and not config.keep_all_models


def test_hparams_override_the_file_of_the_task(tmp_path, monkeypatch):
    monkeypatch.setattr(configure_finetuning, "TASK_HPARAMS", str(tmp_path))
    (tmp_path / "rte.json").write_text('{"num_train_epochs": 7, "train_batch_size": 8}')
    config = FinetuningConfig.for_tasks(("rte",), {"train_batch_size": 4})
    assert (config.num_train_epochs, config.train_batch_size) == (7.0, 4)
    assert FinetuningConfig.for_tasks(("cola",), {}).num_train_epochs == 3.0  # without a file
    (tmp_path / "rte.json").write_text('{"num_train_epoch": 7}')
    with pytest.raises(InputError, match=r"rte\.json: .*`num_train_epoch`"):
        FinetuningConfig.for_tasks(("rte",), {})


def test_tasks_trained_jointly_ignore_the_files():
    config = FinetuningConfig.for_tasks(("rte", "sts"), {"task_names": ["rte", "sts"]})
    assert (config.task_names, config.num_train_epochs) == (("rte", "sts"), 3.0)


IMPOSSIBLE = {
    "num_trials": [0, 1.5, True],
    "train_batch_size": [0],
    "eval_batch_size": [-1],
    "predict_batch_size": ["32"],
    "max_seq_length": [4],
    "seed": [-1],
    "n_writes_test": [-1],
    "do_train": [1],
    "do_eval": ["yes"],
    "learning_rate": [0, "3e-4", float("nan"), float("inf")],
    "num_train_epochs": [-3],
    "weight_decay_rate": [-0.01],
    "layerwise_lr_decay": [0, 1.1],
    "warmup_proportion": [1, -0.1],
    "model_size": ["large", 3],
    "classifier_head": ["deep"],
    "doc_stride": [0],
    "answerable_weight": [-1.0],
    "qa_na_threshold": [float("inf")],
    "label_smoothing": [1.0, -0.1],
    "eval_every": [0, "step", 1.5],
    "keep": ["first"],
    "early_stopping_patience": [0],
    "class_weights": ["even", {}, {"1": -1}, {"1": "2"}, {"1": float("inf")}],
    "model_hparam_overrides": [[1], {"num_labels": 3}, {"beam_size": 3}],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in IMPOSSIBLE for v in IMPOSSIBLE[n]])
def test_impossible_value_names_the_field_and_the_value(name, value):
    with pytest.raises(InputError, match=f"`{name}` must be") as error:
        FinetuningConfig.for_tasks(("cola",), {name: value})
    assert json.dumps(value) in str(error.value)


def test_the_last_trials_seed_must_be_possible():
    FinetuningConfig.for_tasks(("cola",), {"seed": 2**32 - 3, "num_trials": 3})
    with pytest.raises(InputError, match="`seed` must be at most 4294967293 with `num_trials` 3"):
        FinetuningConfig.for_tasks(("cola",), {"seed": 2**32 - 2, "num_trials": 3})


@pytest.mark.parametrize("value", ["cola", [], [1]])
def test_task_names_is_a_list_of_strings(value):
    with pytest.raises(InputError, match="`task_names` must be a list"):
        override(FinetuningConfig(), {"task_names": value})


def test_what_the_dev_set_chooses_needs_evaluations():
    assert FinetuningConfig().eval_every is None  # they take time
    for chosen in ({"keep": "best"}, {"early_stopping_patience": 3}):
        assert FinetuningConfig(**chosen).eval_every == "epoch"
        assert FinetuningConfig(eval_every=5, **chosen).eval_every == 5
        with pytest.raises(InputError, match=r"`do_eval` must be true with .*`keep`"):
            FinetuningConfig(do_eval=False, **chosen)
    FinetuningConfig(do_eval=False, do_train=False, keep="best")
