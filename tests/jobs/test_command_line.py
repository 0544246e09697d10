import dataclasses
import json

import pytest

import finetune
import pretrain
from configure_finetuning import FinetuningConfig
from configure_pretraining import PretrainingConfig
from jobs.command_line import job_parser


@pytest.mark.parametrize("config_class", [PretrainingConfig, FinetuningConfig])
def test_help_ends_with_all_hyperparameters(config_class):
    lines = job_parser("Trains.", config_class).format_help().splitlines()
    names = [line.split()[1] for line in lines if line.startswith("| ")]
    assert names[0] == "name"
    assert sorted(names[1:]) == sorted(field.name for field in dataclasses.fields(config_class))
    assert lines[-1].startswith("| ")


@pytest.mark.parametrize("job", [pretrain, finetune])
def test_the_printed_settings_are_hyperparameters(job, tmp_path, capsys):
    def printed(hparams):
        options = ("--data-dir", tmp_path, "--model-name", "m", "--hparams", json.dumps(hparams))
        job.main([*map(str, options), "--print-config"])
        return json.loads(capsys.readouterr().out)

    found = printed({"train_batch_size": 7})
    assert found["train_batch_size"] == 7 and found == printed(found)
    if job is pretrain:  # shorter than the default warm-up
        assert (found := printed({"num_train_steps": 9})) == printed(found)
    assert not any(tmp_path.iterdir())


def test_tasks_that_are_trained_one_by_one_have_settings_of_their_own(capsys):
    finetune.main(["--data-dir", "d", "--model-name", "m", "--print-config", "cola", "rte"])
    cola, rte = json.loads(capsys.readouterr().out)
    assert (cola["task_names"], cola["num_train_epochs"]) == (["cola"], 3.0)
    assert (rte["task_names"], rte["num_train_epochs"]) == (["rte"], 10.0)
