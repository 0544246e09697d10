import zipfile

import pytest

from common.errors import InputError
from data.tasks import glue
from jobs import glue_submission
from jobs.glue_submission import Choice
from scripts import make_submission
from tests.support.files import write

ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("contradiction", "entailment", "neutral")
# What gluebenchmark.com accepts: file, rows, and labels (none: a score). Our predictions, and what
# stands for missing ones.
OFFICIAL = {
    "CoLA.tsv": (1063, ("0", "1"), "cola_test", {"1"}),
    "SST-2.tsv": (1821, ("0", "1"), "sst_test", {"1"}),
    "MRPC.tsv": (1725, ("0", "1"), "mrpc_test", {"1"}),
    "STS-B.tsv": (1379, (), "sts_test", {"0.000", "2.500"}),
    "QQP.tsv": (390_965, ("0", "1"), "qqp_test", {"0"}),
    "MNLI-m.tsv": (9796, INFERENCE, "mnli_test_matched", set(INFERENCE)),  # is not missing
    "MNLI-mm.tsv": (9847, INFERENCE, "mnli_test_mismatched", {"entailment"}),
    "QNLI.tsv": (5463, ENTAILMENT, "qnli_test", {"not_entailment"}),
    "RTE.tsv": (3000, ENTAILMENT, "rte_test", {"entailment"}),
    "WNLI.tsv": (146, ("0", "1"), "wnli_test", {"0"}),
    "AX.tsv": (1104, INFERENCE, "mnli_diagnostic", {"entailment"}),
}
FILES = {file.name: file for file in glue_submission.FILES}


def expected_rows(name, trial):
    """Predictions that depend on the row and the trial."""
    rows, labels, *_ = OFFICIAL[name]
    if not labels:
        return [f"{(index + trial) % 50 / 10:.4f}" for index in range(rows)]
    return [labels[(index // 3 + trial) % len(labels)] for index in range(rows)]


def write_predictions(model_dir, name, trial, values=None):
    values = expected_rows(name, trial) if values is None else values
    rows = (f"{index}\t{value}\t0.123456 -0.5\n" for index, value in enumerate(values))
    path = model_dir / "test_predictions" / f"{OFFICIAL[name][2]}_{trial}.tsv"
    write(path, "index\tprediction\tlogits\n" + "".join(rows))
    return path


def write_results(model_dir, task, metric, scores, tests=("test",)):
    others = {"seed": 0, "seconds": 1.0, "fingerprint": "", "num_examples": 9}
    others["tests"] = dict.fromkeys(tests, "a hash")
    results = [
        {"trial": trial, "metrics": {metric: score, "other": -score}} | others
        for trial, score in enumerate(scores, start=1)
    ]
    write(model_dir / "results" / f"{task}_results.json", {task: results})


def run(data_dir, *arguments):
    make_submission.main(["--data-dir", str(data_dir), "--model-name", "m", *arguments])


def choose(model_dir, requested=None):
    return glue_submission.choose_trial(str(model_dir), "wnli", requested)


def read_zip(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)
    return tmp_path / "models" / "m"


def test_all_of_glue_at_its_official_size(tmp_path, model_dir, capsys):
    for name in OFFICIAL:
        write_predictions(model_dir, name, 1)
    for task in glue.TASKS.values():
        write_results(model_dir, task.name, task.metrics[0], [61.25])
    write_predictions(model_dir, "MRPC.tsv", 2)
    write_predictions(model_dir, "MRPC.tsv", 3)
    write_results(model_dir, "mrpc", "accuracy", [80.0, 90.0, 85.0])
    write_predictions(model_dir, "RTE.tsv", 4)
    beyond = ["-0.3", "5.2", "-0.0001", "2.4996"]
    values = beyond + expected_rows("STS-B.tsv", 1)[4:]
    write_predictions(model_dir, "STS-B.tsv", 1, values)

    run(tmp_path, "--trial", "rte=4", "--trial", "wnli=1")
    contents = read_zip(model_dir / "submission.zip")
    assert contents.keys() == OFFICIAL.keys()
    for name, text in contents.items():
        header, *lines = text.splitlines()
        assert header == "index\tprediction"
        rows = expected_rows(name, {"MRPC.tsv": 3, "RTE.tsv": 4}.get(name, 1))
        if name == "STS-B.tsv":
            rows = ["0.000", "5.000", "0.000", "2.500"] + [f"{float(v):.3f}" for v in rows[4:]]
        assert lines == [f"{index}\t{value}" for index, value in enumerate(rows)]
        assert text.endswith("\n")
    printed = capsys.readouterr().out.splitlines()
    assert printed[3] == "MRPC.tsv       1725      3  accuracy 85.00   median of 3"
    assert printed[9] == "RTE.tsv        3000      4                   as requested"
    assert printed[10] == "WNLI.tsv        146      1  accuracy 61.25   as requested"
    assert printed[11] == "AX.tsv         1104      1  accuracy 61.25   median of 1"
    assert printed[12] == str(model_dir / "submission.zip")


def test_predictions_of_a_run_with_a_name(tmp_path, model_dir):
    write_predictions(model_dir, "RTE.tsv", 1)
    run_dir = model_dir / "finetuning_runs" / "slow"
    values = ["not_entailment"] * 3000
    write_predictions(run_dir, "RTE.tsv", 1, values)
    write_results(run_dir, "rte", "accuracy", [61.25])
    run(tmp_path, "--allow-missing", "--run-name", "slow")
    assert not (model_dir / "submission.zip").exists()
    rows = read_zip(run_dir / "submission.zip")["RTE.tsv"].splitlines()[1:]
    assert [row.split("\t")[1] for row in rows] == values


def test_missing_predictions_are_listed_or_filled_in(tmp_path, model_dir, capsys):
    write_predictions(model_dir, "MNLI-m.tsv", 1)
    write_results(model_dir, "mnli", "accuracy", [70.0])
    with pytest.raises(InputError, match="no predictions") as caught:
        run(tmp_path)
    listed = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:-1]]
    assert listed == [name[:-4] for name in OFFICIAL if name != "MNLI-m.tsv"]
    assert str(model_dir / "test_predictions" / "cola_test_TRIAL.tsv") in str(caught.value)
    assert str(model_dir / "test_predictions" / "mnli_diagnostic_1.tsv") in str(caught.value)
    assert not (model_dir / "submission.zip").exists()

    output = tmp_path / "filled.zip"
    run(tmp_path, "--allow-missing", "--output", str(output))
    contents = {name: text.splitlines()[1:] for name, text in read_zip(output).items()}
    for name, (num_rows, _, _, answers) in OFFICIAL.items():
        assert len(contents[name]) == num_rows
        assert {row.split("\t")[1] for row in contents[name]} == answers
    assert contents["STS-B.tsv"].count("0\t0.000") == 1
    assert contents["MNLI-m.tsv"][4] == "4\tneutral"
    printed = capsys.readouterr().out
    assert "CoLA.tsv       1063      -                   no predictions: 1\n" in printed


def test_the_median_trial_among_those_with_predictions(model_dir):
    assert choose(model_dir) == Choice(None, "no predictions")
    write_results(model_dir, "wnli", "accuracy", [50.0, 90.0, 60.0, 70.0, 80.0])
    assert choose(model_dir) == Choice(None, "no predictions")
    for trial in (1, 2, 4, 5):
        write_predictions(model_dir, "WNLI.tsv", trial)
    write_predictions(model_dir, "WNLI.tsv", 7)  # of a trial that the results do not know
    assert choose(model_dir) == Choice(4, "median of 4", 70.0)
    (model_dir / "test_predictions" / "wnli_test_1.tsv").unlink()
    assert choose(model_dir) == Choice(5, "median of 3", 80.0)
    assert choose(model_dir, 3) == Choice(3, "as requested", 60.0)
    assert choose(model_dir, 7) == Choice(7, "as requested", None)


def test_no_scores_to_choose_by(model_dir):
    write_predictions(model_dir, "WNLI.tsv", 2)
    write_predictions(model_dir, "WNLI.tsv", 3)
    message = r"wnli: .*wnli_results\.json .*\(accuracy\).*\(2, 3\).*--trial wnli=2"
    with pytest.raises(InputError, match=message):
        choose(model_dir)
    # Not the main metric; then a later run with other settings, which wrote no predictions: the
    # existing ones are not its own.
    for metric, tests in (("f1", ("test",)), ("accuracy", ())):
        write_results(model_dir, "wnli", metric, [50.0, 60.0, 70.0], tests)
        with pytest.raises(InputError, match=message):
            choose(model_dir)
    assert choose(model_dir, 2) == Choice(2, "as requested", None)
    (model_dir / "results" / "wnli_results.json").write_text('{"wnli": [{"trial": 2}]}')
    with pytest.raises(InputError, match=r"wnli_results\.json.*wnli"):
        choose(model_dir)


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, "index\tlabel", ', line 1: .*"index" .*"index label"'),
        (6, "4\t1\t0.5", r', line 7: .* 5, got "4 1 0\.5"'),
        (6, "5", ', line 7: .* 5, got "5"'),
        (146, "145\tyes\t0.5", ', line 147: .* 0, 1, got "yes"'),
        (146, None, ": expected 146 .* got 145"),
    ],
)
def test_errors_in_predictions(model_dir, line, text, message):
    path = write_predictions(model_dir, "WNLI.tsv", 1)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line : line + 1] = [] if text is None else [text]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"wnli_test_1.tsv{message}"):
        glue_submission.read_predictions(str(path), FILES["WNLI"])


@pytest.mark.parametrize("value", ["high", "nan", "inf"])
def test_a_score_is_a_finite_number(model_dir, value):
    values = ["1.5"] * 1378 + [value]
    path = write_predictions(model_dir, "STS-B.tsv", 1, values)
    with pytest.raises(InputError, match=f'line 1380: .*"{value}"'):
        glue_submission.read_predictions(str(path), FILES["STS-B"])


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    predictions = {"WNLI": ["0", "1"], "AX": ["neutral"]}
    for name in ("a.zip", "b.zip"):
        glue_submission.write_zip(str(tmp_path / name), predictions)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.read("WNLI.tsv") == b"index\tprediction\n0\t0\n1\t1\n"


def test_a_directory_that_does_not_exist(tmp_path):
    path = tmp_path / "nowhere" / "submission.zip"
    with pytest.raises(InputError, match=f"{path}: .* {path.parent} "):
        glue_submission.write_zip(str(path), {"WNLI": ["0"]})


@pytest.mark.parametrize(
    ("trial", "message"),
    [
        ("cola", '--trial cola: .*"cola=2"'),
        ("cola=0", "--trial cola=0"),
        ("colla=1", "unknown task `colla`"),
    ],
)
def test_impossible_trials(tmp_path, model_dir, trial, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, "--trial", trial)


def test_no_model(tmp_path):
    with pytest.raises(InputError, match=str(tmp_path / "models" / "m")):
        run(tmp_path)
