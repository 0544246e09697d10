import dataclasses

import pytest

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
