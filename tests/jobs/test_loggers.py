import json
import re
import sys
import types

import pytest

import finetune
from common import files
from common.errors import InputError
from common.fields import override
from jobs import loggers
from model.config import Execution
from tests.support import finetuning, pretraining
from tests.support.eager import eagerly
from tests.support.pretraining import log_lines

FINETUNING = finetuning.HPARAMS | {"num_train_epochs": 3.0}  # 30 examples in batches of 15


class FakeWandb(types.ModuleType):
    """What is used of wandb; `runs` has the settings and the history of each run by its id."""

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = types.SimpleNamespace(name="wandb")  # for find_spec
        self.runs, self.error = {}, None

    def init(self, *, name, config, id, resume, dir):
        if self.error:
            raise self.error
        assert resume == "allow"
        run_id = id or f"run {len(self.runs)}"
        known = self.runs.setdefault(run_id, {"name": name, "starts": 0, "lines": []})
        known |= {"config": config, "starts": known["starts"] + 1, "finished": False}

        def log(numbers, step):
            assert not known["finished"]
            if self.error:
                raise self.error
            known["lines"].append({"step": step} | numbers)

        return types.SimpleNamespace(id=run_id, log=log, finish=lambda: known.update(finished=True))


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setattr(files, "sync", lambda path: None)
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return pretraining.build_data_dir(tmp_path_factory.mktemp("pretraining") / "data")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return finetuning.build_data_dir(tmp_path_factory.mktemp("finetuning"), "m")


def open_loggers(directory, first_step=0, services=("wandb",)):
    folder = str(directory)
    return loggers.Loggers(folder, folder, services, "a run", {"seed": 1}, first_step)


def test_lines_of_steps_that_come_again_are_dropped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 100}\n{"step": 200}\n{"step": 3')
    lines = loggers.JsonLines(str(path))
    lines.drop_after(100)
    assert path.read_text() == '{"step": 1}\n{"step": 100}\n' and lines.last_dropped == 200
    lines.write(150, {"loss": 0.5})
    assert path.read_text().endswith('{"step": 150, "loss": 0.5}\n')


def test_a_resumed_run_goes_on_in_its_services(tmp_path, wandb):
    first = open_loggers(tmp_path)
    for step in (1, 2, 3):
        first.write(step, {"loss": float(step)})
    first.close()
    again = open_loggers(tmp_path, first_step=1)  # the last checkpoint was at step 1
    for step in (2, 3, 4):
        again.write(step, {"loss": 9.0})
    again.close()
    (run,) = wandb.runs.values()
    assert (run["starts"], run["finished"], run["config"]) == (2, True, {"seed": 1})
    assert [(line["step"], line["loss"]) for line in run["lines"]] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 9),
    ]
    assert [line["loss"] for line in log_lines(tmp_path)] == [1, 9, 9, 9]
    assert len(list(tmp_path.glob("events.*"))) == 2
    assert json.loads((tmp_path / loggers.IDS).read_text()) == {"wandb": "run 0"}


def test_a_service_that_fails(tmp_path, wandb, caplog):
    """Before the run it is an error, in the run a warning."""
    opened = open_loggers(tmp_path)
    wandb.error = ConnectionError("no network")
    opened.write(1, {"loss": 1.0})
    opened.close()
    assert "wandb: no network" in caplog.text and log_lines(tmp_path) == [{"step": 1, "loss": 1.0}]
    with pytest.raises(InputError, match=r'`loggers`: "wandb": no network.*loggers\.json'):
        open_loggers(tmp_path, first_step=1)


def test_names_of_services(monkeypatch):
    for name in loggers.SERVICES:
        assert override(Execution(), {"loggers": [name]})
    with pytest.raises(InputError, match=r'`loggers` must be one of "wandb".* Received: "mlfow"'):
        finetune.FinetuningConfig.for_tasks(("cola",), {"loggers": ["mlfow"]})
    with pytest.raises(InputError, match="`do_eval` must be true"):
        finetune.FinetuningConfig.for_tasks(("cola",), {"loggers": ["wandb"], "do_eval": False})


def test_a_missing_package_is_an_error_before_anything_is_written(tasks, records, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    before = pretraining.tree(tasks), pretraining.tree(records)
    expected = re.escape('`loggers`: "mlflow"') + ".* pip install mlflow"
    with pytest.raises(InputError, match=expected):
        finetune.main(
            finetuning.arguments(tasks, "m", FINETUNING | {"loggers": ["mlflow"]}, "cola")
        )
    with pytest.raises(InputError, match=expected):
        pretraining.run(records, loggers=["mlflow"])
    assert (pretraining.tree(tasks), pretraining.tree(records)) == before


@eagerly()
def test_pretraining_and_finetuning(tasks, records, wandb):
    name, options = "logged", {"loggers": ["wandb"], "num_eval_steps": 1}
    pretraining.run(records, name, **options, num_train_steps=3)
    pretraining.run(records, name, **options, do_eval=True)
    (run,) = wandb.runs.values()
    assert (run["name"], run["config"]["num_train_steps"], run["starts"]) == (name, 5, 3)
    assert run["lines"] == log_lines(records / "models" / name)
    assert [line["step"] for line in run["lines"]] == [1, 2, 3, 4, 5, 5]
    assert "eval_loss" in run["lines"][-1]

    hparams = FINETUNING | {"loggers": ["wandb"], "num_trials": 2}
    finetune.main(finetuning.arguments(tasks, "m", hparams, "cola"))
    for trial, run in enumerate(list(wandb.runs.values())[1:], start=1):
        assert (run["name"], run["config"]["seed"]) == (f"m, cola {trial}", trial - 1)
        assert run["finished"]
        assert run["lines"] == log_lines(tasks / "models/m/finetuning_logs" / f"cola_{trial}")
        assert [line["step"] for line in run["lines"]] == [2, 4, 6]
    assert len(wandb.runs) == 3


@pytest.mark.peers
def test_mlflow_in_a_local_store(records, tmp_path, monkeypatch):
    """A run that is stopped and resumed is one run of MLflow's."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    pretraining.run(records, "mlflow", loggers=["mlflow"], num_train_steps=3)
    pretraining.run(records, "mlflow", loggers=["mlflow"])
    (run_id,) = json.loads((records / "models/mlflow" / loggers.IDS).read_text()).values()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs(["0"])
    assert (run.info.run_id, run.info.run_name, run.info.status) == (run_id, "mlflow", "FINISHED")
    assert run.data.params["num_train_steps"] == "3" and run.data.params["model_size"] == "tiny"
    found = {metric.step: metric.value for metric in client.get_metric_history(run_id, "loss")}
    lines = {line["step"]: line["loss"] for line in log_lines(records / "models/mlflow")}
    assert found == pytest.approx(lines) and list(lines) == [1, 2, 3, 4, 5]
