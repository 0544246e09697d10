import json
import zipfile

import pytest

from common.errors import InputError
from jobs import glue_submission
from scripts import make_submission

ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("contradiction", "entailment", "neutral")
# What gluebenchmark.com takes: rows, and the strings of a prediction (none: a score).
OFFICIAL = {
    "CoLA.tsv": (1063, ("0", "1")),
    "SST-2.tsv": (1821, ("0", "1")),
    "MRPC.tsv": (1725, ("0", "1")),
    "STS-B.tsv": (1379, ()),
    "QQP.tsv": (390_965, ("0", "1")),
    "MNLI-m.tsv": (9796, INFERENCE),
    "MNLI-mm.tsv": (9847, INFERENCE),
    "QNLI.tsv": (5463, ENTAILMENT),
    "RTE.tsv": (3000, ENTAILMENT),
    "WNLI.tsv": (146, ("0", "1")),
    "AX.tsv": (1104, INFERENCE),
}
PREDICTIONS = {
    "cola_test": "CoLA.tsv",
    "sst_test": "SST-2.tsv",
    "mrpc_test": "MRPC.tsv",
    "sts_test": "STS-B.tsv",
    "qqp_test": "QQP.tsv",
    "mnli_test_matched": "MNLI-m.tsv",
    "mnli_test_mismatched": "MNLI-mm.tsv",
    "mnli_diagnostic": "AX.tsv",
    "qnli_test": "QNLI.tsv",
    "rte_test": "RTE.tsv",
    "wnli_test": "WNLI.tsv",
}
WNLI = next(file for file in glue_submission.FILES if file.name == "WNLI")
STSB = next(file for file in glue_submission.FILES if file.name == "STS-B")


def expected_rows(name, trial):
    """A prediction a row that depends on the row and the trial."""
    rows, labels = OFFICIAL[name]
    if not labels:
        return [f"{(index + trial) % 50 / 10:.4f}" for index in range(rows)]
    return [labels[(index // 3 + trial) % len(labels)] for index in range(rows)]


def write_predictions(model_dir, stem, trial, values=None):
    values = expected_rows(PREDICTIONS[stem], trial) if values is None else values
    rows = (f"{index}\t{value}\t0.123456 -0.5\n" for index, value in enumerate(values))
    folder = model_dir / "test_predictions"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}_{trial}.tsv"
    path.write_text("index\tprediction\tlogits\n" + "".join(rows), encoding="utf-8")
    return path


def write_results(model_dir, task, metric, scores, tests=("test",)):
    tests = dict.fromkeys(tests, "a hash")
    entries = [
        {"trial": trial, "metrics": {metric: score, "other": -score}, "tests": tests}
        for trial, score in enumerate(scores, start=1)
    ]
    folder = model_dir / "results"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task}_results.json").write_text(json.dumps({task: entries}), encoding="utf-8")


def run(data_dir, *arguments):
    make_submission.main(["--data-dir", str(data_dir), "--model-name", "m", *arguments])


def read_zip(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "models" / "m").mkdir(parents=True)
    return tmp_path / "models" / "m"


def test_all_of_glue_at_its_official_size(tmp_path, model_dir, capsys):
    for stem in PREDICTIONS:
        write_predictions(model_dir, stem, 1)
    for task, metric in (
        ("cola", "mcc"), ("sst", "accuracy"), ("sts", "pearson"), ("qqp", "accuracy"),
        ("mnli", "accuracy"), ("qnli", "accuracy"), ("rte", "accuracy"), ("wnli", "accuracy"),
    ):  # fmt: skip
        write_results(model_dir, task, metric, [61.25])
    write_predictions(model_dir, "mrpc_test", 2)
    write_predictions(model_dir, "mrpc_test", 3)
    write_results(model_dir, "mrpc", "accuracy", [80.0, 90.0, 85.0])
    write_predictions(model_dir, "rte_test", 4)
    beyond = ["-0.3", "5.2", "-0.0001", "2.4996"]
    values = beyond + expected_rows("STS-B.tsv", 1)[4:]
    write_predictions(model_dir, "sts_test", 1, values)

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
    assert printed[9] == "RTE.tsv        3000      4                   as asked for"
    assert printed[10] == "WNLI.tsv        146      1  accuracy 61.25   as asked for"
    assert printed[11] == "AX.tsv         1104      1  accuracy 61.25   median of 1"
    assert printed[12] == str(model_dir / "submission.zip")


def test_missing_predictions_are_listed_or_filled_in(tmp_path, model_dir, capsys):
    write_predictions(model_dir, "mnli_test_matched", 1)
    write_results(model_dir, "mnli", "accuracy", [70.0])
    with pytest.raises(InputError, match="no predictions for\n") as caught:
        run(tmp_path)
    listed = [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:-1]]
    assert listed == [name[:-4] for name in OFFICIAL if name != "MNLI-m.tsv"]
    assert str(model_dir / "test_predictions" / "cola_test_TRIAL.tsv") in str(caught.value)
    assert str(model_dir / "test_predictions" / "mnli_diagnostic_1.tsv") in str(caught.value)
    assert not (model_dir / "submission.zip").exists()

    output = tmp_path / "filled.zip"
    run(tmp_path, "--allow-missing", "--output", str(output))
    contents = {name: text.splitlines()[1:] for name, text in read_zip(output).items()}
    assert {name: len(rows) for name, rows in contents.items()} == {
        name: rows for name, (rows, _) in OFFICIAL.items()
    }
    answers = {
        name: {row.split("\t")[1] for row in rows}
        for name, rows in contents.items()
        if name != "MNLI-m.tsv"
    }
    assert answers == {
        "CoLA.tsv": {"1"}, "SST-2.tsv": {"1"}, "MRPC.tsv": {"1"}, "STS-B.tsv": {"0.000", "2.500"},
        "QQP.tsv": {"0"}, "MNLI-mm.tsv": {"entailment"}, "QNLI.tsv": {"not_entailment"},
        "RTE.tsv": {"entailment"}, "WNLI.tsv": {"0"}, "AX.tsv": {"entailment"},
    }  # fmt: skip
    assert contents["STS-B.tsv"].count("0\t0.000") == 1
    assert contents["MNLI-m.tsv"][4] == "4\tneutral"
    captured = capsys.readouterr()
    assert "CoLA.tsv       1063      -                   no predictions: 1\n" in captured.out


def test_the_median_trial_among_those_with_predictions(model_dir):
    def choose(wanted=None):
        return glue_submission.choose_trial(str(model_dir), "wnli", wanted)

    assert choose() == glue_submission.Choice(None, "no predictions")
    write_results(model_dir, "wnli", "accuracy", [50.0, 90.0, 60.0, 70.0, 80.0])
    assert choose() == glue_submission.Choice(None, "no predictions")
    for trial in (1, 2, 4, 5):
        write_predictions(model_dir, "wnli_test", trial)
    write_predictions(model_dir, "wnli_test", 7)  # of a trial that the results do not know
    assert choose() == glue_submission.Choice(4, "median of 4", 70.0)
    (model_dir / "test_predictions" / "wnli_test_1.tsv").unlink()
    assert choose() == glue_submission.Choice(5, "median of 3", 80.0)
    assert choose(3) == glue_submission.Choice(3, "as asked for", 60.0)
    assert choose(7) == glue_submission.Choice(7, "as asked for", None)


def test_no_scores_to_choose_by(model_dir):
    write_predictions(model_dir, "wnli_test", 2)
    write_predictions(model_dir, "wnli_test", 3)
    message = r"wnli: .*wnli_results\.json has no dev score \(accuracy\).*\(2, 3\).*--trial wnli=2"
    with pytest.raises(InputError, match=message):
        glue_submission.choose_trial(str(model_dir), "wnli")
    write_results(model_dir, "wnli", "f1", [50.0, 60.0, 70.0])  # not the main metric
    with pytest.raises(InputError, match=message):
        glue_submission.choose_trial(str(model_dir), "wnli")
    # A later run, of other settings, which wrote no predictions: those that are there are not its.
    write_results(model_dir, "wnli", "accuracy", [50.0, 60.0, 70.0], tests=())
    with pytest.raises(InputError, match=message):
        glue_submission.choose_trial(str(model_dir), "wnli")
    asked_for = glue_submission.Choice(2, "as asked for", None)
    assert glue_submission.choose_trial(str(model_dir), "wnli", 2) == asked_for
    (model_dir / "results" / "wnli_results.json").write_text('{"wnli": [{"trial": 2}]}')
    with pytest.raises(InputError, match=r"wnli_results\.json is not a results file"):
        glue_submission.choose_trial(str(model_dir), "wnli")


@pytest.mark.parametrize(
    ("line", "text", "message"),
    [
        (0, "index\tlabel", r'line 1: expected the columns "index" and .*got "index label"'),
        (6, "4\t1\t0.5", r'line 7: expected the index 5, got "4 1 0\.5"'),
        (6, "5", r'line 7: expected the index 5, got "5"'),
        (146, "145\tyes\t0.5", 'line 147: expected one of 0, 1, got "yes"'),
        (146, None, "expected 146 predictions, one for each row of GLUE's WNLI test .* got 145"),
    ],
)
def test_errors_in_predictions(model_dir, line, text, message):
    path = write_predictions(model_dir, "wnli_test", 1)
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[line : line + 1] = [] if text is None else [text]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=f"wnli_test_1.tsv(, |: ){message}"):
        glue_submission.read_predictions(str(path), WNLI)


@pytest.mark.parametrize("value", ["high", "nan", "inf"])
def test_a_score_is_a_finite_number(model_dir, value):
    values = ["1.5"] * 1378 + [value]
    path = write_predictions(model_dir, "sts_test", 1, values)
    with pytest.raises(InputError, match=f'line 1380: expected a number, got "{value}"'):
        glue_submission.read_predictions(str(path), STSB)


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    predictions = {"WNLI": ["0", "1"], "AX": ["neutral"]}
    for name in ("a.zip", "b.zip"):
        glue_submission.write_zip(str(tmp_path / name), predictions)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.read("WNLI.tsv") == b"index\tprediction\n0\t0\n1\t1\n"


def test_a_folder_that_is_not_there(tmp_path):
    path = tmp_path / "nowhere" / "submission.zip"
    with pytest.raises(InputError, match=f"cannot write {path}: there is no folder {path.parent}"):
        glue_submission.write_zip(str(path), {"WNLI": ["0"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trial", "cola"), '--trial cola: expected a task and a trial, such as "cola=2"'),
        (("--trial", "cola=0"), "--trial cola=0: expected"),
        (("--trial", "colla=1"), "unknown task `colla`"),
    ],
)
def test_trials_that_cannot_be_meant(tmp_path, model_dir, arguments, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path, *arguments)


def test_no_model(tmp_path):
    with pytest.raises(InputError, match=r"there is no model folder .*m$"):
        run(tmp_path)
