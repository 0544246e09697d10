import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import finetune
from common.errors import InputError
from data import ConvBertTokenizer
from data.tasks import glue
from data.tasks.batching import make_features
from data.tasks.classification import task as classification
from data.tasks.examples import TextExamples
from jobs.job_models import JobModels
from jobs.trials import Job, TaskData
from model import ConvBertConfig, ConvBertForSequenceClassification, ConvBertModel
from pipelines import TextClassifier
from tests.support import finetuning
from tests.support.eager import eagerly
from tests.support.files import write
from tests.support.finetuning import (
    HPARAMS,
    NETWORK,
    VOCAB,
    read_predictions,
    read_results,
    sentence,
)
from tests.support.pages import Page
from tests.support.pretraining import tree
from tests.support.processes import ROOT
from tests.support.random_models import softmax


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return finetuning.build_data_dir(tmp_path_factory.mktemp("data"))


@pytest.fixture
def model_dir(data_dir):
    return data_dir / "models" / "small_one"


def arguments(data_dir, *tasks, model="small_one", **hparams):
    return finetuning.arguments(data_dir, model, HPARAMS | hparams, *tasks)


def test_trains_scores_and_predicts_once(data_dir, model_dir, monkeypatch):
    command = arguments(data_dir, "cola", num_trials=2, seed=5)
    finetune.main(command)

    results = read_results(model_dir, "cola")
    assert [(r["trial"], r["seed"], r["num_examples"]) for r in results] == [(1, 5, 11), (2, 6, 11)]
    assert [r["metrics"] for r in results] == [{"mcc": 100.0}] * 2  # one word decides
    assert all(r["seconds"] > 0 for r in results)
    text = (model_dir / "results" / "cola_results.txt").read_text()
    assert "cola trial 2: mcc: 100.00 (11 dev examples, seed 6" in text
    assert "cola mcc: median 100.00, mean 100.00, deviation 0.00, best 100.00" in text

    rows = read_predictions(model_dir, "cola_test_2")
    assert [int(index) for index, _, _ in rows] == list(range(7))
    assert [label for _, label, _ in rows] == list("0101010")
    logits = np.array([numbers.split() for _, _, numbers in rows], float)
    assert logits.argmax(1).tolist() == [0, 1, 0, 1, 0, 1, 0]

    (saved,) = (model_dir / "finetuning_models").glob("cola_*")
    assert saved.name == "cola_2"
    assert json.loads((saved / "config.json").read_text())["id2label"] == {"0": "0", "1": "1"}
    model = ConvBertForSequenceClassification.from_pretrained(saved)
    batch = ConvBertTokenizer.from_pretrained(saved)([sentence(i) for i in range(7)])
    np.testing.assert_allclose(np.asarray(model(batch)), logits, atol=1e-5)

    page = Page((model_dir / "results" / "cola_report.html").read_text())
    assert page.ids() == ["scores", "labels-dev", "confusion-dev", "mistakes-dev", "lengths"]
    assert "trial 2, seed 6" in page.texts["body"] and "No wrong texts" in page.texts["body"]
    assert "100.00" in page.texts["scores"] and "0 (0.0%) texts cut" in page.texts["lengths"]

    before = tree(model_dir)
    trials = []

    def run_trial(models, features, trial):
        trials.append(trial)
        return {"cola": results[0]}

    monkeypatch.setattr(finetune, "run_trial", run_trial)
    finetune.main(command)
    assert trials == [] and tree(model_dir) == before
    monkeypatch.setattr(finetune.trials, "write_results", lambda *_: None)
    for change in ({"learning_rate": 0.03}, {"seed": 7}, {"num_trials": 3, "seed": 5}):
        hparams = {"num_trials": 1, "seed": 5} | change
        finetune.main([*arguments(data_dir, "cola", **hparams), "--overwrite"])
        trials.append("|")
    assert trials == [1, "|", 1, "|", 3, "|"]


@eagerly()
def test_a_run_has_a_place_of_its_own(data_dir, model_dir, capsys):
    command = [*arguments(data_dir, "cola", "mrpc", num_train_epochs=1.0), "--run-name", "short"]
    before = tree(model_dir)
    finetune.main(command)
    run_dir = model_dir / "finetuning_runs" / "short"
    assert {path.name for path in run_dir.iterdir()} == {
        "results",
        "finetuning_models",
        "test_predictions",
    }
    page = Page((run_dir / "results" / "mrpc_report.html").read_text())
    assert page.texts["title"] == "mrpc: small_one, short" and page.count("article") > 0
    assert "# small_one, short: scores on dev sets" in capsys.readouterr().out
    assert before.items() <= tree(model_dir).items()
    assert all(
        run_dir in [path, *path.parents]
        for path in tree(model_dir).keys() - before.keys() - {run_dir.parent}
    )


def test_regression_and_pairs(data_dir, model_dir, monkeypatch):
    finetune.main(arguments(data_dir, "sts", "mrpc", classifier_head="mlp"))
    (sts,), (mrpc,) = read_results(model_dir, "sts"), read_results(model_dir, "mrpc")
    assert sts["num_examples"] == mrpc["num_examples"] == 11
    assert set(sts["metrics"]) == {"pearson", "spearman"} and sts["metrics"]["pearson"] > 90
    assert set(mrpc["metrics"]) == {"accuracy", "f1"} and mrpc["metrics"]["f1"] > 90
    rows = read_predictions(model_dir, "sts_test_1")
    assert len(rows) == 5
    for _, prediction, logit in rows:
        assert float(prediction) == pytest.approx(np.clip(5 * float(logit), 0, 5), abs=1e-4)
    assert not (model_dir / "test_predictions" / "mrpc_test_1.tsv").exists()

    weights = model_dir / "finetuning_models" / "mrpc_1" / "model.safetensors"
    before, page = weights.read_bytes(), model_dir / "results" / "mrpc_report.html"
    page.unlink()
    # A report that fails costs nothing but the report.
    monkeypatch.setattr(classification.ClassificationTask, "review", lambda *_: 1 / 0)
    finetune.main(arguments(data_dir, "mrpc", classifier_head="mlp", do_train=False))
    assert not page.exists()
    assert read_results(model_dir, "mrpc") == [mrpc] and weights.read_bytes() == before


def test_several_tasks_jointly(data_dir, model_dir):
    command = arguments(data_dir, task_names=["cola", "sts"], train_batch_size=16)
    finetune.main(command)
    (cola,), (sts,) = (read_results(model_dir, name, "cola+sts") for name in ("cola", "sts"))
    assert cola["metrics"]["mcc"] == 100.0 and sts["metrics"]["pearson"] > 90
    assert (cola["num_examples"], sts["num_examples"], cola["seconds"]) == (11, 11, sts["seconds"])
    assert {path.name for path in (model_dir / "results" / "cola+sts").iterdir()} == {
        "cola_report.html",
        "sts_report.html",
    }
    text = (model_dir / "results" / "cola+sts_results.txt").read_text()
    assert text.startswith("cola trial 1: mcc: 100.00") and "sts trial 1: pearson" in text
    table = json.loads((model_dir / "results" / "cola+sts_summary.json").read_text())
    assert list(table["tasks"]) == ["cola", "sts"]

    rows = read_predictions(model_dir, "cola+sts/cola_test_1")
    assert [label for _, label, _ in rows] == list("0101010")
    saved = model_dir / "finetuning_models" / "cola+sts_1"
    # Each task has a normal model; their encoders are equal.
    classifier = TextClassifier.from_pretrained(saved / "cola")
    assert classifier.predict([sentence(i) for i in range(7)]).answers == list("0101010")
    regressor = TextClassifier.from_pretrained(saved / "sts")
    pairs = [sentence(0), sentence(1)], ["the mat"] * 2
    assert np.allclose(regressor.predict(*pairs).answers, [1.0, 4.0], atol=1.0)
    with pytest.raises(InputError, match="`text_pairs` is missing"):
        regressor.predict(pairs[0])
    encoders = [each.model.convbert.get_weights() for each in (classifier, regressor)]
    assert all(np.array_equal(a, b) for a, b in zip(*encoders, strict=True))

    before = tree(model_dir / "finetuning_models")
    finetune.main(command)
    assert tree(model_dir / "finetuning_models") == before
    (saved / "sts" / "config.json").unlink()
    shutil.rmtree(saved / "sts")
    with pytest.raises(InputError, match=r"cola\+sts_1/sts is missing"):
        finetune.main(arguments(data_dir, task_names=["cola", "sts"], do_train=False))


def test_a_task_from_a_json_file(data_dir, model_dir, tmp_path):
    """Several labels, from CSV and JSON lines, and predicted by the saved model."""
    rows = [[w for w, bit in (("dog", 1), ("good", 2)) if i & bit] for i in range(24)]
    texts = [f"the {'dog' if 'dog' in r else 'cat'} {'good' if 'good' in r else 'a'}" for r in rows]
    folder = data_dir / "finetuning_data" / "words"
    cells = [f'"{t}","{"|".join(r)}"' for t, r in zip(texts, rows, strict=True)]
    write(folder / "train.csv", "\n".join(["text,words", *cells]) + "\n")
    lines = [json.dumps({"text": t, "words": r}) for t, r in zip(texts, rows, strict=True)]
    (folder / "dev.jsonl").write_text("\n".join(lines[:9]) + "\n")
    (folder / "test.tsv").write_text("\n".join(["text", *texts[:5]]) + "\n")
    fields = {"text_columns": "text", "label_column": "words", "label_delimiter": "|"}
    fields["problem_type"] = "multi_label_classification"
    path = write(tmp_path / "words.json", fields)
    finetune.main(arguments(data_dir, path))

    (result,) = read_results(model_dir, "words")
    assert result["num_examples"] == 9
    assert result["metrics"] == {"micro_f1": 100.0, "macro_f1": 100.0, "exact_match": 100.0}
    predicted = [labels for _, labels, _ in read_predictions(model_dir, "words_test_1")]
    assert predicted == ["", "dog", "good", "dog|good", ""]
    saved = model_dir / "finetuning_models" / "words_1"
    config = json.loads((saved / "config.json").read_text())
    assert config["problem_type"] == fields["problem_type"]
    assert config["id2label"] == {"0": "dog", "1": "good"}
    classifier = TextClassifier.from_pretrained(saved)
    assert classifier.max_seq_length == HPARAMS["max_seq_length"]
    assert classifier.predict(texts[:5]).answers == rows[:5]

    fields |= {"name": "words", "labels": ["dog", "good", "bad"]}
    other = write(tmp_path / "more.json", fields)
    with pytest.raises(InputError, match=r"words_1 .* `id2label`"):
        finetune.main([*arguments(data_dir, other, do_train=False), "--overwrite"])
    with pytest.raises(InputError, match=r"words \(.*words\.json, .*more\.json\)"):
        finetune.main(arguments(data_dir, path, other))


@eagerly()
def test_loss_is_summed_over_the_batch(data_dir, tmp_path):
    """Cross entropy for classes, and squared error of score / 5 for scores.

    For several labels, the mean of each one's cross entropy.
    """
    tokenizer = ConvBertTokenizer(data_dir / "vocab.txt")
    texts, rng = [sentence(i) for i in range(6)], np.random.default_rng(0)
    several = classification.ClassificationTask(
        "several", (), ("text",), "label", tuple("abc"), classification.MULTI_LABEL
    )
    config = finetune.FinetuningConfig(learning_rate=1e-9, num_train_epochs=1.0, train_batch_size=6)
    for task, labels in (
        (glue.TASKS["cola"], np.array([0, 1, 1, 0, 1, 1], np.int32)),
        (glue.TASKS["sts"], rng.uniform(0, 5, 6).astype(np.float32)),
        (several, rng.integers(0, 2, (6, 3), np.int32)),
    ):
        network = ConvBertConfig(**NETWORK, **task.model_fields())
        model = ConvBertForSequenceClassification(network)
        examples = TextExamples("", "", texts, None, labels, task.score_range)
        features = make_features(tokenizer, examples, 16)
        job = Job((TaskData(task, None, {}, {}),), config, None, str(tmp_path))
        models = JobModels(job)
        models.by_task = {task.name: model}
        finetune.train(models, {task.name: features}, trial=1, evaluate=None)
        inputs = tokenizer(texts)
        logits = np.asarray(model(inputs))
        if task.is_regression:
            expected = ((logits[:, 0] - labels / 5) ** 2).sum()
        elif task is several:
            expected = np.log1p(np.exp(np.where(labels, -logits, logits))).mean(1).sum()
        else:
            expected = -np.log(softmax(logits)[np.arange(6), labels]).sum()
        loss = model.evaluate(inputs, features.targets, batch_size=6, verbose=0)
        assert loss == pytest.approx(expected, rel=1e-5)


def test_weights_and_smoothing_of_labels_reach_the_loss(data_dir):
    """With no weight for a label, it is never predicted; smoothing bounds the probabilities."""
    hparams = {"class_weights": {"0": 0.0}, "label_smoothing": 0.2}
    finetune.main([*arguments(data_dir, "cola", **hparams), "--run-name", "weights"])
    run_dir = data_dir / "models" / "small_one" / "finetuning_runs" / "weights"
    rows = read_predictions(run_dir, "cola_test_1")
    assert {label for _, label, _ in rows} == {"1"}
    probabilities = softmax(np.array([numbers.split() for _, _, numbers in rows], float))
    assert np.abs(probabilities[:, 1] - 0.9).max() < 0.05


@pytest.mark.parametrize("hparams", [{}, {"task_names": ["cola", "sts"]}, {"do_train": False}])
@eagerly()
def test_a_dry_run_writes_nothing(data_dir, hparams, tmp_path, monkeypatch, capsys):
    shutil.copytree(data_dir / "finetuning_data", tmp_path / "finetuning_data")
    finetuning.save_encoder(tmp_path, "small_one")
    if hparams == {"do_train": False}:
        command = arguments(tmp_path, "cola", num_train_epochs=0.1, num_trials=2)
        finetune.main(command)
        hparams = hparams | {"num_trials": 2, "num_train_epochs": 0.1}
    tasks = [] if "task_names" in hparams else ["cola"]
    before = tree(tmp_path)
    finetune.main([*arguments(tmp_path, *tasks, **hparams), "--dry-run"])
    assert tree(tmp_path) == before
    with pytest.raises(InputError, match="`max_seq_length` must be at most 32"):
        finetune.main([*arguments(tmp_path, "cola", max_seq_length=64), "--dry-run"])


@eagerly()
def test_from_scratch_has_the_saved_models_shape_and_vocabulary(data_dir, tmp_path):
    """Not the default size's, and not that of another vocabulary in DATA_DIR."""
    shutil.copytree(data_dir, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "vocab.txt").open("a") as file:
        file.write("more\n")
    hparams = {"num_train_epochs": 0.1, "seed": 7, "write_test_outputs": False}
    command = arguments(tmp_path, "cola", **hparams)
    finetune.main([*command, "--from-scratch", "--run-name", "scratch"])
    (saved,) = tmp_path.glob("models/*/finetuning_runs/scratch/finetuning_models/cola_1")
    before, after = map(ConvBertModel.from_pretrained, (saved.parents[3] / "discriminator", saved))
    for old, new in zip(before.weights, after.weights, strict=True):
        assert old.path.split("/")[1:] == new.path.split("/")[1:] and old.shape == new.shape
        if old.path.endswith("kernel"):
            assert np.abs(old.numpy() - new.numpy()).max() > 0.01


@eagerly()
def test_from_scratch_needs_no_model(data_dir):
    command = arguments(
        data_dir,
        model="none",
        model_size="tiny",
        model_hparam_overrides={"num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 64},
        num_train_epochs=0.1,
        mask_padding=False,
        write_test_outputs=False,
    )
    finetune.main([*command, "--from-scratch"])  # the default task is cola
    model_dir = data_dir / "models" / "none"
    assert read_results(model_dir, "cola")[0]["num_examples"] == 11
    config = json.loads((model_dir / "finetuning_models" / "cola_1" / "config.json").read_text())
    assert (config["hidden_size"], config["vocab_size"]) == (64, len(VOCAB))
    assert config["mask_padding"] is False


@pytest.mark.parametrize(
    ("tasks", "hparams", "message"),
    [
        (["cola"], {"model": "none_yet"}, r"none_yet/discriminator.*--from-scratch"),
        (["cola"], {"learning_rat": 1}, "Did you mean `learning_rate`"),
        (["cola"], {"num_trials": 0}, "`num_trials` must be at least 1"),
        (["squat"], {}, "`squat`"),
        ([], {"task_names": ["cola", "cola"]}, r"cola \(cola, cola\)"),
        (["cola"], {"task_names": ["rte"]}, "`task_names`"),
        (["cola", "rte"], {}, "rte.* train"),
        (["cola"], {"max_seq_length": 64}, "`max_seq_length` must be at most 32"),
        (["cola"], {"model_size": "small"}, '`model_size` "small"'),
        (["cola"], {"model_hparam_overrides": {"x": 1}}, "hyper-parameter `x`"),
        (["mrpc"], {"do_train": False, "num_trials": 9}, "mrpc_.* is missing"),
        (
            ["cola", "--overwrite"],
            {"learning_rate": 1e30, "warmup_proportion": 0},
            "finite.*`learning_rate`",
        ),
    ],
)
@eagerly()
def test_wrong_input_changes_nothing(data_dir, tasks, hparams, message):
    before = tree(data_dir)
    with pytest.raises(InputError, match=message):
        finetune.main(arguments(data_dir, *tasks, **hparams))
    assert tree(data_dir) == before


def test_rows_of_a_later_task_that_are_too_long(data_dir, tmp_path, monkeypatch):
    for name, length in (("cola", 16), ("mrpc", 64)):
        write(tmp_path / f"{name}.json", {"max_seq_length": length})
    monkeypatch.setattr("configure_finetuning.TASK_HPARAMS", str(tmp_path))
    before = tree(data_dir)
    with pytest.raises(InputError, match=r"`max_seq_length` must be at most 32.* 64"):
        finetune.main(finetuning.arguments(data_dir, "small_one", {}, "cola", "mrpc"))
    assert tree(data_dir) == before


def test_wrong_vocabulary(data_dir, model_dir, tmp_path):
    shutil.copytree(model_dir / "discriminator", tmp_path / "models" / "m" / "discriminator")
    os.symlink(data_dir / "finetuning_data", tmp_path / "finetuning_data")
    directory = tmp_path / "models" / "m" / "discriminator"
    (directory / "tokenizer.json").unlink()
    (directory / "vocab.txt").write_text("\n".join([*VOCAB, "more"]) + "\n")
    with pytest.raises(InputError, match=r"vocab\.txt has 16 tokens.*`vocab_size` is 15"):
        finetune.main(arguments(tmp_path, "cola", model="m"))


def test_damaged_row_stops_before_training(data_dir, tmp_path):
    os.symlink(data_dir / "models", tmp_path / "models")
    finetuning.write_data(tmp_path)
    path = tmp_path / "finetuning_data" / "STS-B" / "dev.tsv"
    path.write_text(path.read_text().replace("4.0", "6.0", 1))
    before = tree(data_dir)
    with pytest.raises(InputError, match=r"dev\.tsv, line 3: .*score"):
        finetune.main(arguments(tmp_path, "cola", "sts", seed=77))
    assert tree(data_dir) == before


def test_all_means_the_nine_tasks():
    args = finetune.parse_arguments(["--data-dir", "d", "--model-name", "m", "all"])
    configs = {name: config for config in finetune.job_configs(args) for name in config.task_names}
    assert list(configs) == list(glue.TASKS)
    assert [configs[name].num_train_epochs for name in ("mnli", "rte", "sts")] == [3.0, 10.0, 10.0]


def shell_error(root, folder_of_python, **variables):
    """The error of `finetune.sh qnli`."""
    variables["PATH"] = f"{folder_of_python}:{os.environ['PATH']}"
    command = ["bash", str(root / "finetune.sh"), "qnli"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    return done.stderr


def test_finetune_sh_passes_on_the_environment_and_its_arguments(tmp_path):
    variables = {"DATA_DIR": str(tmp_path), "MODEL_NAME": "mine"}
    error = shell_error(ROOT, pathlib.Path(sys.executable).parent, **variables)
    assert str(tmp_path / "finetuning_data") in error


def test_finetune_sh_without_the_packages(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")  # beside no .venv
    shutil.copy(ROOT / "finetune.sh", tmp_path)
    python = tmp_path / "bin" / "python3"
    write(python, "#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    assert "requirements.txt" in shell_error(tmp_path, python.parent)
