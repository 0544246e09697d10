"""An experiment from its JSON file to its tables, in miniature."""

import json
import os
import signal
import threading
import time

import numpy as np
import pytest

import finetune
import pretrain
from common.errors import InputError
from configure_pretraining import PretrainingConfig
from model import ConvBertModel
from scripts import compare_runs, run_experiment
from tests.support import finetuning, pretraining
from tests.support.files import write

EXPERIMENT = {
    "pretraining": pretraining.HPARAMS
    | {"eval_every": 5, "eval_holdout_shards": 1, "num_eval_steps": 1, "eval_batch_size": 4},
    "variants": {
        "both": {"seeds": [0, 1], "hparams": {}},
        "masked_lm": {"seeds": [0], "hparams": {"electra_objective": False}},
    },
    "finetuning": [
        {"tasks": ["cola", "mrpc"], "hparams": {"num_trials": 2, "num_train_epochs": 1.0}}
    ],
}

EXPERIMENTS = sorted((run_experiment.ROOT / "scripts" / "experiments").iterdir())


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = pretraining.build_data_dir(tmp_path_factory.mktemp("data"))
    finetuning.write_data(folder)
    write(folder / "small.json", json.dumps(EXPERIMENT))
    return folder


@pytest.fixture
def jobs(monkeypatch):
    """Runs jobs in this process; the names of those that ran."""
    ran = []

    def run_job(script, *arguments):
        ran.append(script)
        (pretrain if script == "pretrain.py" else finetune).main(list(arguments))

    monkeypatch.setattr(run_experiment, "run_job", run_job)
    return ran


def run(data_dir, *options):
    arguments = [str(data_dir / "small.json"), "--data-dir", str(data_dir)]
    run_experiment.main([*arguments, "--output", str(data_dir / "results"), *options])


@pytest.mark.usefixtures("eager")
def test_from_settings_to_tables(data_dir, jobs, capsys):
    run(data_dir, "--runs", "both_0")
    assert jobs == ["pretrain.py", "finetune.py"]
    run(data_dir)
    assert jobs == ["pretrain.py", "finetune.py"] * 3 + ["finetune.py"]
    results = data_dir / "results"
    names = {path.name for path in results.iterdir()}
    assert names == {"both_0", "both_1", "masked_lm_0", "random"}
    found = json.loads((results / "both_1" / "results.json").read_text())
    assert found["pretraining"]["seed"] == 1
    assert found["parameters"]["encoder"] == 507_208
    assert (
        found["scores"]["cola"]["metric"] == "mcc" and len(found["scores"]["mrpc"]["values"]) == 2
    )
    log = (results / "both_1" / "train_log.jsonl").read_text()
    assert log == (data_dir / "models" / "both_1" / "train_log.jsonl").read_text()
    left = {path.name for path in (data_dir / "models" / "both_1").iterdir()}
    assert not left & {"checkpoints", "discriminator", "generator", "finetuning_models"}

    run(data_dir)
    assert len(jobs) == 7  # nothing is repeated
    capsys.readouterr()
    compare_runs.main([str(results), "--baseline", "both"])
    costs, scores, differences = capsys.readouterr().out.split("\n\n")
    assert "| both " in costs and "| masked_lm " in costs and "random" not in costs
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in scores.splitlines()]
    assert [row[:2] for row in rows[2:]] == [["both", "4"], ["masked_lm", "2"], ["random", "2"]]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in differences.splitlines()]
    assert [row[:3] for row in rows[2:]] == [
        ["both − masked_lm", "cola", "2"],
        ["both − masked_lm", "mrpc", "2"],
        ["both − random", "cola", "4"],
        ["both − random", "mrpc", "4"],
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"more": 1}, "finetuning, pretraining, variants"),
        ({"variants": {"a": {"hparams": {}}}}, "variant a.*seeds"),
        ({"variants": {"a": {"seeds": [0], "hparams": {"model_siz": 1}}}}, "variant a.*model_siz"),
        ({"finetuning": [{"tasks": ["cola"]}]}, "small.json.*finetuning.*hparams"),
    ],
)
def test_wrong_settings(tmp_path, jobs, changes, expected):
    write(tmp_path / "small.json", json.dumps(EXPERIMENT | changes))
    with pytest.raises(InputError, match=expected):
        run(tmp_path)
    assert jobs == []


def test_an_unknown_run(data_dir, jobs):
    with pytest.raises(InputError, match=r"--runs.*both_0, masked_lm_0, random, both_1.*both_3"):
        run(data_dir, "--runs", "both_3")
    assert jobs == []


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_projects_own_experiments(path):
    """Their settings are possible, and attention alone has as many parameters as both."""
    runs = run_experiment.list_runs(run_experiment.read_experiment(str(path)))
    networks = {
        name: ConvBertModel(PretrainingConfig.from_hparams(hparams).model_config(vocab_size=10))
        for name, hparams in runs.items()
        if name in ("convbert_0", "attention_0")
    }
    counts = {}
    for name, network in networks.items():
        network(np.array([[1, 2]]))
        weights = [weight for weight in network.weights if "embedding" not in weight.path]
        counts[name] = sum(weight.numpy().size for weight in weights)
    assert "convbert_0" in counts
    if "attention_0" in counts:
        assert counts["attention_0"] == pytest.approx(counts["convbert_0"], rel=0.01)


def test_a_stop_reaches_the_job_and_its_status_the_caller(tmp_path, monkeypatch, capsys):
    write(
        tmp_path / "job.py",
        "import pathlib, signal, sys\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "pathlib.Path(sys.argv[2], 'ready').touch()\n"
        "signal.pause()\n",
    )
    monkeypatch.setattr(run_experiment, "ROOT", tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def stop():
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(SystemExit) as stopped:
        run_experiment.run_job("job.py", "--data-dir", str(tmp_path))
    assert stopped.value.code == 7 and signal.getsignal(signal.SIGTERM) == before
    assert f"job.py --data-dir {tmp_path}" in capsys.readouterr().out


def test_an_interval_of_paired_differences():
    """The ends of the 27 samples of three rows have a share of 1/27 each, more than 2.5 %."""
    differences = np.repeat([[1.0], [2.0], [6.0]], 2, axis=1)
    assert compare_runs.interval(differences) == (1.0, 6.0)
    assert compare_runs.interval(np.full((3, 3), 0.5)) == (0.5, 0.5)
    wide = compare_runs.interval(np.random.default_rng(0).normal(size=(200, 1)))
    assert wide[1] - wide[0] == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.1)
