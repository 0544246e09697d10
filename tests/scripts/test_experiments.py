"""An experiment from its JSON file to its tables, in miniature."""

import json
import os
import pathlib
import signal
import threading
import time

import numpy as np
import pytest

from common.errors import InputError
from configure_pretraining import PretrainingConfig
from model import ConvBertModel
from scripts import compare_runs, run_experiment
from tests.support.files import as_lines, write

EXPERIMENT = {
    "pretraining": {
        "model_size": "tiny",
        "max_seq_length": 24,
        "num_train_steps": 10,
        "num_warmup_steps": 1,
    },
    "variants": {
        "both": {"seeds": [0, 1], "hparams": {}},
        "masked_lm": {"seeds": [0], "hparams": {"electra_objective": False}},
    },
    "finetuning": [
        {"tasks": ["cola", "data/sample/pos.json"], "hparams": {"num_trials": 2}},
        {"tasks": ["mrpc"], "hparams": {"num_trials": 2, "num_train_epochs": 1.0}},
    ],
}
EXPERIMENTS = sorted((run_experiment.ROOT / "scripts" / "experiments").iterdir())
METRICS = {"cola": "mcc", "pos": "accuracy", "mrpc": "accuracy"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write(folder / "small.json", json.dumps(EXPERIMENT))
    for task in METRICS:
        for split in ("train", "dev"):
            write(folder / "finetuning_data" / task / f"{split}.tsv", "")
    return folder


@pytest.fixture
def jobs(monkeypatch):
    """Stands for pretrain.py and finetune.py: writes what they write. Returns their options."""
    ran = []

    def run_job(script, *arguments):
        options = [each for each in arguments if each.startswith("--")]
        ran.append((script, *options))
        _, data_dir, _, name, *others = arguments
        folder = pathlib.Path(data_dir, "models", name)
        hparams = json.loads(others[-1])
        if script == "pretrain.py":
            config = PretrainingConfig.from_hparams(hparams).model_config(vocab_size=10)
            is_rtd = hparams.get("electra_objective", True)
            ConvBertModel(config).save_pretrained(
                folder / ("discriminator" if is_rtd else "encoder")
            )
            (folder / "checkpoints").mkdir()
            line = {"step": 10, "tokens_per_second": 900.0, "loss": 9.0}
            scores = {"step": 10, "eval_mlm_accuracy": 0.25 + 0.125 * hparams["seed"]}
            write(folder / "train_log.jsonl", as_lines([line, scores]))
            return
        assert ("--from-scratch" in options) == (name == "random")
        assert hparams.get("model_size") == ("tiny" if name == "random" else None)
        for task in others[: others.index(options[2])]:
            task = pathlib.Path(task).stem  # noqa: PLW2901
            base = 50.0 if name == "random" else 60.0 if name == "masked_lm_0" else 70.0
            results = [
                {"trial": seed + 1, "seed": seed, "metrics": {METRICS[task]: base + seed}}
                | {"seconds": 1.0, "fingerprint": "", "num_examples": 9, "tests": {}}
                for seed in range(hparams["num_trials"])
            ]
            write(folder / "results" / f"{task}_results.json", json.dumps({task: results}))

    monkeypatch.setattr(run_experiment, "run_job", run_job)
    return ran


def run(data_dir, *options):
    arguments = [str(data_dir / "small.json"), "--data-dir", str(data_dir)]
    run_experiment.main([*arguments, "--output", str(data_dir / "results"), *options])


def test_from_settings_to_tables(data_dir, jobs, capsys):
    run(data_dir, "--runs", "both_0", "--keep")
    assert [script for script, *_ in jobs] == ["pretrain.py", "finetune.py", "finetune.py"]
    others = ["both_1", "masked_lm_0", "random"]
    run(data_dir, "--runs", *others)
    assert len(jobs) == 3 * 3 + 2
    results, models = data_dir / "results", data_dir / "models"
    names = {path.name for path in results.iterdir()}
    assert names == {"both_0", *others}
    found = json.loads((results / "both_1" / "results.json").read_text())
    assert found["pretraining"] == EXPERIMENT["pretraining"] | {"seed": 1}
    assert found["scores"]["pos"] == {"metric": "accuracy", "values": {"0": 70.0, "1": 71.0}}
    encoder = ConvBertModel.from_pretrained(models / "both_0" / "discriminator")
    assert sum(found["parameters"].values()) == encoder.count_params()
    log = (results / "both_0" / "train_log.jsonl").read_text()
    assert log == (models / "both_0" / "train_log.jsonl").read_text()
    assert {path.name for path in models.iterdir()} == {"both_0"}
    run(data_dir)
    assert not list(models.iterdir()) and len(jobs) == 3 * 3 + 2  # nothing is repeated

    capsys.readouterr()
    compare_runs.main([str(results), "--baseline", "both"])
    costs, scores, differences = capsys.readouterr().out.split("\n\n")
    assert cells(costs)[0][3:6] == ["2", "31.25 (8.84)", "–"] and len(cells(costs)) == 2
    assert cells(scores) == [
        ["both", "4", *["70.50 (0.58)"] * 3],
        ["masked_lm", "2", *["60.50 (0.71)"] * 3],
        ["random", "2", *["50.50 (0.71)"] * 3],
    ]
    for row, (name, pairs, mean) in zip(
        cells(differences)[::3], [("masked_lm", 2, 10), ("random", 4, 20)], strict=True
    ):
        interval = f"+{mean}.00 to +{mean}.00"
        assert row == [f"both − {name}", "cola", str(pairs), f"+{mean}.00", interval, ""]
    from_random = compare_runs.difference_table(compare_runs.read_variants(results), "random")
    assert [row[:4] for row in cells(from_random)[::3]] == [
        ["random − both", "cola", "4", "-20.00"],
        ["random − masked_lm", "cola", "2", "-10.00"],
    ]


def cells(table):
    """The body of a Markdown table."""
    lines = table.strip().splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_a_difference_within_noise():
    """Pairs are of the same seed of fine-tuning; seeds that only one run has count in none."""
    runs = {"values": {"0": 1.0, "2": 9.0, "3": 4.0}}, {"values": {"3": 1.0, "1": 9.0, "0": 2.0}}
    first, second = ({"log": [], "scores": {"rte": {"metric": "x"} | each}} for each in runs)
    table = compare_runs.difference_table({"a": {0: first}, "b": {0: second}}, "a")
    assert cells(table) == [["a − b", "rte", "2", "+1.00", "-1.00 to +3.00", "within noise"]]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"more": 1}, "finetuning, pretraining, variants"),
        ({"variants": {"a": {"hparams": {}}}}, "variant a.*seeds"),
        ({"variants": {"a": {"seeds": [0], "hparams": {"model_siz": 1}}}}, "variant a.*model_siz"),
        ({"pretraining": {"model_size": "tiny"}}, "variant both.*max_seq_length"),
        ({"finetuning": [{"tasks": ["cola"]}]}, "small.json.*finetuning.*hparams"),
    ],
)
def test_wrong_settings(tmp_path, jobs, changes, expected):
    write(tmp_path / "small.json", json.dumps(EXPERIMENT | changes))
    with pytest.raises(InputError, match=expected):
        run(tmp_path)
    assert jobs == []


def test_a_missing_file_of_a_task_is_noticed_before_the_first_job(tmp_path, jobs):
    write(tmp_path / "small.json", json.dumps(EXPERIMENT))
    with pytest.raises(InputError, match="cola: no train file"):
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
        network({"input_ids": np.array([[1, 2]])})
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
