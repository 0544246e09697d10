"""Jobs whose DATA_DIR is in an object store: another machine goes on where one stopped."""

import argparse
import json
import os
from pathlib import Path

import pytest

import finetune
import pretrain
from common import files
from common.errors import InputError
from data.records import command_line
from jobs import working_copy
from model.weights import warm_start
from scripts import check_task, inspect_data, predict, train_vocab
from tests.support import corpora, finetuning, pretraining
from tests.support.eager import eagerly
from tests.support.object_store import memory_store

URL = "memory://bucket/d"


@pytest.fixture
def memory(monkeypatch, tmp_path):
    return memory_store(monkeypatch, tmp_path)


def move_to_store(memory, directory):
    memory.put(f"{directory}/", "/bucket/d/", recursive=True)


def names(memory, folder):
    prefix = f"/bucket/d/{folder}".rstrip("/") + "/"
    return {path.removeprefix(prefix) for path in memory.find(prefix)}


def test_a_vocabulary_and_records(memory, tmp_path, capsys):
    archives = corpora.random_archives(2, 4)
    memory.pipe("/bucket/d/openwebtext.tar", corpora.openwebtext_of(archives))
    train_vocab.main(["--data-dir", URL, "--vocab-size", "120"])
    assert "/vocab.txt: 1" in capsys.readouterr().out
    assert names(memory, "") == {
        "openwebtext.tar",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    with pytest.raises(InputError, match=f"{URL}/vocab.txt exists"):
        train_vocab.main(["--data-dir", URL])
    parser = argparse.ArgumentParser()
    command_line.add_arguments(parser)
    command_line.build(parser.parse_args(["--data-dir", URL]), 1)
    assert f"{URL}/pretrain_tfrecords: 2 shards" in capsys.readouterr().out
    inspect_data.main(["--data-dir", URL, "--num-examples", "1"])
    assert "example 1 of 1" in capsys.readouterr().out


def test_a_model_name_with_a_folder(memory):
    directory, send = working_copy.open_directory(URL, "danish/first")
    files.write_text(f"{directory}/train_log.jsonl", "{}")
    send()
    assert names(memory, "models") == {"danish/first/train_log.jsonl"}


@eagerly()
def test_pretraining_goes_on_elsewhere(memory, tmp_path, monkeypatch):
    move_to_store(memory, pretraining.build_data_dir(tmp_path / "data"))
    hparams = {"keep_checkpoints": 1, "num_eval_steps": 1}
    pretrain.main(pretraining.arguments(URL, num_train_steps=3, **hparams))
    found = names(memory, "models/model")
    assert {"discriminator/model.safetensors", "generator/config.json", "train_log.jsonl"} <= found
    assert "checkpoints/step_3/state.json" in found

    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "elsewhere"))
    pretrain.main(pretraining.arguments(URL, num_train_steps=4, **hparams))
    found = names(memory, "models/model")
    states = {name for name in found if name.startswith("checkpoints")}
    assert states == {f"checkpoints/step_4/state.{end}" for end in ("json", "safetensors")}
    log = memory.cat("/bucket/d/models/model/train_log.jsonl").decode().splitlines()
    steps = [json.loads(line)["step"] for line in log]
    assert steps == sorted(steps) and steps[-1] == 4

    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "third"))
    models = warm_start.find_models(f"{URL}/models/model")
    assert models.keys() == {"main", "generator"}
    assert (Path(models["main"]).name, os.listdir(tmp_path / "third/memory/bucket/d/models")) == (
        "discriminator",
        ["model"],
    )
    assert not list((tmp_path / "third").rglob("state.*"))


def test_finetuning_and_prediction(memory, tmp_path, monkeypatch, capsys):
    move_to_store(memory, finetuning.build_data_dir(tmp_path / "data"))
    short = ["--hparams", '{"max_seq_length": 16}']
    check_task.main(["cola", "--data-dir", URL, "--model-name", "small_one", *short])
    assert "| train" in capsys.readouterr().out
    command = finetuning.arguments(URL, "small_one", finetuning.HPARAMS, "cola")
    finetune.main(command)
    model = f"{URL}/models/small_one"
    found = names(memory, "models/small_one")
    assert {"results/cola_results.json", "test_predictions/cola_test_1.tsv"} <= found
    assert {"finetuning_models/cola_1/model.safetensors", "discriminator/config.json"} <= found
    results = memory.cat("/bucket/d/models/small_one/results/cola_results.json")

    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(finetune, "run_trial", None)  # the trial is finished
    finetune.main(command)
    assert memory.cat("/bucket/d/models/small_one/results/cola_results.json") == results

    monkeypatch.setenv("CONVBERT_CACHE", str(tmp_path / "third"))
    capsys.readouterr()
    predict.main([f"{model}/finetuning_models/cola_1", finetuning.sentence(1)])
    assert json.loads(capsys.readouterr().out)["label"] == "1"
    fetched = {path.name for path in (tmp_path / "third").rglob("*") if path.is_file()}
    assert "model.safetensors" in fetched and "cola_results.json" not in fetched
