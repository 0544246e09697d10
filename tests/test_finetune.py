import dataclasses
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import keras
import numpy as np
import pytest

import finetune
from common import errors, files
from data import ConvBertTokenizer
from data.tasks import glue
from data.tasks.batching import make_features
from data.tasks.classification import task as classification
from data.tasks.examples import TextExamples
from model import ConvBertConfig, ConvBertForSequenceClassification, ConvBertModel
from pipelines import TextClassifier

ROOT = pathlib.Path(__file__).parents[1]
WORDS = ["good", "bad", "the", "dog", "cat", "ran", "sat", "on", "a", "mat"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
ENCODER = dict(
    vocab_size=len(VOCAB), embedding_size=16, hidden_size=16, num_hidden_layers=1,
    num_attention_heads=2, intermediate_size=32, max_position_embeddings=32,
)  # fmt: skip
HPARAMS = dict(
    max_seq_length=16, learning_rate=0.003, layerwise_lr_decay=1.0, num_train_epochs=25.0,
    train_batch_size=15,
    model_hparam_overrides={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
)  # fmt: skip


def sentence(i):
    """Sentences that differ, of which every second one is "good"."""
    return f"the {WORDS[3 + i % 2]} {WORDS[5 + i % 3 % 2]} {('bad', 'good')[i % 2]}" + " mat" * (
        i % 4
    )


def write_tsv(folder, split, header, rows):
    folder.mkdir(parents=True, exist_ok=True)
    lines = ([header] if header else []) + rows
    (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def write_data(data_dir):
    """CoLA, MRPC and STS-B files in GLUE's format; the texts are made up."""
    data = data_dir / "finetuning_data"
    for split, count in (("train", 30), ("dev", 11)):
        rows = range(count)
        write_tsv(data / "cola", split, None, [f"x\t{i % 2}\t\t{sentence(i)}" for i in rows])
        pairs = [f"{i % 2}\t1\t2\t{sentence(i)}\tthe mat" for i in rows]
        write_tsv(data / "MRPC", split, "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", pairs)
        header = "index\tsentence1\tsentence2\tscore"
        scores = [f"{i}\t{sentence(i)}\tthe mat\t{1 + 3 * (i % 2)}.0" for i in rows]
        write_tsv(data / "STS-B", split, header, scores)
    write_tsv(data / "cola", "test", "index\tsentence", [f"{i}\t{sentence(i)}" for i in range(7)])
    tests = [f"{i}\t{sentence(i)}\tthe mat" for i in range(5)]
    write_tsv(data / "STS-B", "test", "index\tsentence1\tsentence2", tests)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """DATA_DIR with the data, a vocabulary and a pre-trained model "small_one"."""
    directory = tmp_path_factory.mktemp("data")
    write_data(directory)
    (directory / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    encoder = directory / "models" / "small_one" / "discriminator"
    keras.utils.set_random_seed(0)
    ConvBertModel(ConvBertConfig(**ENCODER)).save_pretrained(encoder)
    ConvBertTokenizer(directory / "vocab.txt").save_pretrained(encoder)
    return directory


def arguments(data_dir, *tasks, model="small_one", **hparams):
    text = json.dumps(HPARAMS | hparams)
    return ["--data-dir", str(data_dir), "--model-name", model, "--hparams", text, *tasks]


def read_results(model_dir, task):
    return json.loads((model_dir / "results" / f"{task}_results.json").read_text())[task]


def contents(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*")}


def test_trains_scores_predicts_and_repeats_nothing(data_dir, monkeypatch):
    model_dir = data_dir / "models" / "small_one"
    command = arguments(data_dir, "cola", num_trials=2, seed=5)
    finetune.main(command)

    entries = read_results(model_dir, "cola")
    assert [(e["trial"], e["seed"], e["num_examples"]) for e in entries] == [(1, 5, 11), (2, 6, 11)]
    assert [e["metrics"] for e in entries] == [{"mcc": 100.0}] * 2  # one word decides
    assert all(e["seconds"] > 0 for e in entries)
    text = (model_dir / "results" / "cola_results.txt").read_text()
    assert "cola trial 2: mcc: 100.00 (11 dev examples, seed 6" in text
    assert "cola mcc: median 100.00, mean 100.00, deviation 0.00, best 100.00" in text

    rows = (model_dir / "test_predictions" / "cola_test_2.tsv").read_text().splitlines()
    assert rows[0] == "index\tprediction\tlogits"
    cells = [row.split("\t") for row in rows[1:]]
    assert [int(index) for index, _, _ in cells] == list(range(7))
    assert [label for _, label, _ in cells] == ["0", "1", "0", "1", "0", "1", "0"]
    logits = np.array([[float(x) for x in numbers.split()] for _, _, numbers in cells])
    assert logits.argmax(1).tolist() == [0, 1, 0, 1, 0, 1, 0]

    assert [path.name for path in (model_dir / "finetuning_models").iterdir()] == ["cola_2"]
    saved = model_dir / "finetuning_models" / "cola_2"
    assert json.loads((saved / "config.json").read_text())["id2label"] == {"0": "0", "1": "1"}
    model = ConvBertForSequenceClassification.from_pretrained(saved)
    batch = ConvBertTokenizer.from_pretrained(saved)([sentence(i) for i in range(7)])
    np.testing.assert_allclose(np.asarray(model(batch)), logits, atol=1e-5)

    before = contents(model_dir)
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "run_trial", lambda *_: pytest.fail("trained again"))
        finetune.main(command)
    assert contents(model_dir) == before

    trials = []
    with monkeypatch.context() as patch:

        def run_trial(job, features, trial):
            trials.append(trial)
            return {"cola": entries[0]}

        patch.setattr(finetune, "run_trial", run_trial)
        patch.setattr(finetune, "write_results", lambda *_: None)
        for change in ({"learning_rate": 0.03}, {"seed": 7}, {"num_trials": 3, "seed": 5}):
            finetune.main(arguments(data_dir, "cola", **({"num_trials": 1, "seed": 5} | change)))
            trials.append("|")
    assert trials == [1, "|", 1, "|", 3, "|"]


def test_evaluates_without_training(data_dir):
    finetune.main(arguments(data_dir, "cola", model="small_one", seed=9))
    model_dir = data_dir / "models" / "small_one"
    trained = read_results(model_dir, "cola")[0]
    weights = model_dir / "finetuning_models" / "cola_1" / "model.safetensors"
    before = weights.read_bytes()
    finetune.main(arguments(data_dir, "cola", seed=9, do_train=False))
    assert read_results(model_dir, "cola")[0] == trained  # and a finished trial, as before
    assert weights.read_bytes() == before


def test_regression_and_pairs(data_dir):
    finetune.main(arguments(data_dir, "sts", "mrpc", classifier_head="mlp"))
    model_dir = data_dir / "models" / "small_one"
    (sts,), (mrpc,) = read_results(model_dir, "sts"), read_results(model_dir, "mrpc")
    assert sts["num_examples"] == mrpc["num_examples"] == 11
    assert set(sts["metrics"]) == {"pearson", "spearman"} and sts["metrics"]["pearson"] > 90
    assert set(mrpc["metrics"]) == {"accuracy", "f1"} and mrpc["metrics"]["f1"] > 90
    rows = (model_dir / "test_predictions" / "sts_test_1.tsv").read_text().splitlines()[1:]
    cells = [row.split("\t") for row in rows]
    assert len(cells) == 5
    for _, prediction, logit in cells:
        assert float(prediction) == pytest.approx(np.clip(5 * float(logit), 0, 5), abs=1e-4)
    assert not (model_dir / "test_predictions" / "mrpc_test_1.tsv").exists()


def test_several_tasks_jointly(data_dir):
    command = arguments(data_dir, task_names=["cola", "sts"], train_batch_size=16)
    finetune.main(command)
    model_dir = data_dir / "models" / "small_one"
    results = json.loads((model_dir / "results" / "cola+sts_results.json").read_text())
    ((cola,), (sts,)) = results["cola"], results["sts"]
    assert cola["metrics"]["mcc"] == 100.0 and sts["metrics"]["pearson"] > 90
    assert (cola["num_examples"], sts["num_examples"], cola["seconds"]) == (11, 11, sts["seconds"])
    text = (model_dir / "results" / "cola+sts_results.txt").read_text()
    assert text.startswith("cola trial 1: mcc: 100.00") and "sts trial 1: pearson" in text
    table = json.loads((model_dir / "results" / "cola+sts_summary.json").read_text())
    assert list(table["tasks"]) == ["cola", "sts"]

    rows = (model_dir / "test_predictions" / "cola+sts" / "cola_test_1.tsv").read_text()
    assert [row.split("\t")[1] for row in rows.splitlines()[1:]] == list("0101010")
    saved = model_dir / "finetuning_models" / "cola+sts_1"
    # Each task's model is one like any other, and the encoder is the same.
    classifier = TextClassifier.from_pretrained(saved / "cola")
    assert classifier.predict([sentence(i) for i in range(7)]).answers == list("0101010")
    regressor = TextClassifier.from_pretrained(saved / "sts")
    pairs = [sentence(0), sentence(1)], ["the mat"] * 2
    assert np.allclose(regressor.predict(*pairs).answers, [1.0, 4.0], atol=1.0)
    encoders = [each.model.convbert.get_weights() for each in (classifier, regressor)]
    assert all(np.array_equal(a, b) for a, b in zip(*encoders, strict=True))

    before = contents(model_dir / "finetuning_models")
    finetune.main(command)
    assert contents(model_dir / "finetuning_models") == before
    (saved / "sts" / "config.json").unlink()
    shutil.rmtree(saved / "sts")
    with pytest.raises(errors.InputError, match=r"cola\+sts_1/sts is missing, and `do_train` is"):
        finetune.main(arguments(data_dir, task_names=["cola", "sts"], do_train=False))


def test_a_task_of_ones_own(data_dir, tmp_path):
    """Several labels, from CSV and JSON lines, and back as text from the saved model."""
    rows = [[w for w, bit in (("dog", 1), ("good", 2)) if i & bit] for i in range(24)]
    texts = [f"the {'dog' if 'dog' in r else 'cat'} {'good' if 'good' in r else 'a'}" for r in rows]
    folder = data_dir / "finetuning_data" / "words"
    folder.mkdir()
    cells = [f'"{t}","{"|".join(r)}"' for t, r in zip(texts, rows, strict=True)]
    (folder / "train.csv").write_text("\n".join(["text,words", *cells]) + "\n")
    lines = [json.dumps({"text": t, "words": r}) for t, r in zip(texts, rows, strict=True)]
    (folder / "dev.jsonl").write_text("\n".join(lines[:9]) + "\n")
    (folder / "test.tsv").write_text("\n".join(["text", *texts[:5]]) + "\n")
    fields = {"text_columns": "text", "label_column": "words", "label_delimiter": "|"}
    fields["problem_type"] = "multi_label_classification"
    path = tmp_path / "words.json"
    path.write_text(json.dumps(fields))
    finetune.main(arguments(data_dir, str(path)))

    model_dir = data_dir / "models" / "small_one"
    (entry,) = read_results(model_dir, "words")
    assert entry["num_examples"] == 9
    assert entry["metrics"] == {"micro_f1": 100.0, "macro_f1": 100.0, "exact_match": 100.0}
    predicted = (model_dir / "test_predictions" / "words_test_1.tsv").read_text().splitlines()[1:]
    assert [row.split("\t")[1] for row in predicted] == ["", "dog", "good", "dog|good", ""]
    saved = model_dir / "finetuning_models" / "words_1"
    config = json.loads((saved / "config.json").read_text())
    assert config["problem_type"] == fields["problem_type"]
    assert config["id2label"] == {"0": "dog", "1": "good"}
    classifier = TextClassifier.from_pretrained(saved)
    assert classifier.max_seq_length == HPARAMS["max_seq_length"]
    assert classifier.predict(texts[:5]).answers == rows[:5]

    other = tmp_path / "more.json"
    other.write_text(json.dumps(fields | {"name": "words", "labels": ["dog", "good", "bad"]}))
    with pytest.raises(
        errors.InputError, match=r"words_1 was trained for another task .* `id2label"
    ):
        finetune.main(arguments(data_dir, str(other), do_train=False))
    with pytest.raises(errors.InputError, match=r"words\.json and .*more\.json are both called wo"):
        finetune.main(arguments(data_dir, str(path), str(other)))


def test_loss_is_summed_over_the_batch(data_dir):
    """Of classes the cross entropy, of scores the squared error on score / 5.

    Of several labels it is each one's cross entropy, and their mean.
    """
    tokenizer = ConvBertTokenizer(data_dir / "vocab.txt")
    texts, rng = [sentence(i) for i in range(6)], np.random.default_rng(0)
    several = classification.ClassificationTask(
        "several", (), ("text",), "label", tuple("abc"), classification.MULTI_LABEL
    )
    for task, labels in (
        (glue.TASKS["cola"], np.array([0, 1, 1, 0, 1, 1], np.int32)),
        (glue.TASKS["sts"], rng.uniform(0, 5, 6).astype(np.float32)),
        (several, rng.integers(0, 2, (6, 3), np.int32)),
    ):
        config = finetune.FinetuningConfig(
            learning_rate=1e-9, num_train_epochs=1.0, train_batch_size=6
        )
        network = ConvBertConfig(**ENCODER, **task.model_fields())
        model = ConvBertForSequenceClassification(network)
        examples = TextExamples("", "", texts, None, labels, task.score_range)
        features = make_features(tokenizer, examples, 16)
        finetune.train({"task": model}, {"task": features}, config, seed=0, title="test")
        inputs = tokenizer(texts)
        logits = model.predict(inputs, verbose=0)
        if task.is_regression:
            expected = ((logits[:, 0] - labels / 5) ** 2).sum()
        elif task is several:
            expected = np.log1p(np.exp(np.where(labels, -logits, logits))).mean(1).sum()
        else:
            exponentials = np.exp(logits)
            shares = exponentials / exponentials.sum(1, keepdims=True)
            expected = -np.log(shares[np.arange(6), labels]).sum()
        loss = model.evaluate(inputs, features.targets, batch_size=6, verbose=0)
        assert loss == pytest.approx(expected, rel=1e-5)


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


def test_diverged_training_is_an_error(data_dir):
    before = contents(data_dir)
    with pytest.raises(errors.InputError, match=r"finite number.*lower `learning_rate`"):
        finetune.main(arguments(data_dir, "cola", learning_rate=1e30, warmup_proportion=0, seed=3))
    assert contents(data_dir) == before


class Killed(BaseException):
    """Stands for `kill -9`: what comes after it does not happen."""


class Model:
    """A trained model's stand-in: its files and its predictions tell its settings and seed."""

    def __init__(self, job, trial):
        self.job, self.seed = job, job.config.seed + trial - 1
        self.config = types.SimpleNamespace(max_position_embeddings=32)

    def save_pretrained(self, directory):
        os.makedirs(directory, exist_ok=True)
        path = pathlib.Path(directory, "model.safetensors")
        path.write_text(f"{self.job.config.learning_rate} {self.seed}")

    def outputs(self, examples, batch_size):
        rate = round(1000 * (self.job.config.learning_rate or 0))
        random = np.random.default_rng([rate, self.seed])
        return random.normal(size=(len(examples), 2)).astype(np.float32)


def made_up_score(task, examples, features, outputs):
    return {name: float(outputs.sum() + i) for i, name in enumerate(task.metrics)}


@pytest.fixture
def suite(data_dir, tmp_path, monkeypatch):
    """A function that runs two tasks' two trials without a network, killed at the n-th change.

    It returns how many trials it trained; `trained` has those of all its calls.
    """
    trained, changes = [], [0, math.inf]

    def limited(function):
        def change(path, *arguments, **options):
            changes[0] += os.path.lexists(path)
            if changes[0] >= changes[1]:
                raise Killed
            return function(path, *arguments, **options)

        return change

    for module, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(module, name, limited(getattr(module, name)))
    stand_ins = {
        "build_models": lambda job, trial: {job.name: Model(job, trial)},
        "make_features": lambda job, part: part.dev | part.tests | {"train": part.train},
        "train": lambda *arguments: trained.append(arguments),
        "time": types.SimpleNamespace(time=lambda: 0.0),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(finetune, name, stand_in)
    monkeypatch.setattr("pipelines.base.compute_outputs", Model.outputs)
    monkeypatch.setattr("keras.backend.clear_session", lambda: None)
    monkeypatch.setattr("data.tasks.classification.task.ClassificationTask.score", made_up_score)
    monkeypatch.setattr(finetune.files, "sync", lambda path: None)
    picture = types.SimpleNamespace(savefig=lambda path, **_: pathlib.Path(path).touch())
    monkeypatch.setattr(finetune.results_table, "draw", lambda table: picture)
    args = finetune.parse_arguments(arguments(data_dir, "cola", "mrpc", num_trials=2))
    encoder = None

    def run(model_dir, killed_at=math.inf, **hparams):
        nonlocal encoder
        configs = finetune.job_configs(args)
        encoder = encoder or finetune.find_encoder(args, configs[0])
        jobs = []
        for config in configs:
            job = finetune.load_job(dataclasses.replace(config, **hparams), args)
            jobs.append(dataclasses.replace(job, encoder=encoder, model_dir=str(model_dir)))
        before = len(trained)
        changes[:] = 0, killed_at
        try:
            finetune.run_suite(jobs)
        finally:
            changes[1] = math.inf
        return len(trained) - before

    run.trained = trained
    return run


def results_of(model_dir):
    """The files of a model directory, without those that a killed process was writing."""
    paths = [path for path in model_dir.rglob("*") if path.is_file()]
    names = {path.relative_to(model_dir): path.read_text() for path in paths}
    return {name: text for name, text in names.items() if files.TEMPORARY_SUFFIX not in str(name)}


def test_suite_killed_at_any_change_goes_on(suite, tmp_path):
    """With the settings it was killed under, or with those that had been finished before."""
    earlier, model_dir = tmp_path / "earlier" / "m", tmp_path / "m"
    finished, other = {"learning_rate": 0.001}, {"learning_rate": 0.002}
    assert suite(earlier, **finished) == 4
    shutil.copytree(earlier, model_dir)
    assert suite(model_dir, **other) == 4
    whole = {0.001: results_of(earlier), 0.002: results_of(model_dir)}
    assert suite(model_dir, **other) == 0
    assert results_of(model_dir) == whole[0.002]

    for settings in (other, finished):
        killed, at = True, 0
        while killed:
            at += 1
            shutil.rmtree(model_dir)
            shutil.copytree(earlier, model_dir)
            suite.trained.clear()
            try:
                suite(model_dir, killed_at=at, **other)
                killed = False
            except Killed:
                pass
            suite(model_dir, **settings)
            assert results_of(model_dir) == whole[settings["learning_rate"]], at
            if settings is other:  # at most the trial that was under way is repeated
                assert len(suite.trained) in (4, 5)
        assert at > 30


def test_suites_table(suite, tmp_path, capsys):
    suite(tmp_path, learning_rate=0.001)
    table = json.loads((tmp_path / "results" / "summary.json").read_text())
    entries = json.loads((tmp_path / "results" / "mrpc_results.json").read_text())["mrpc"]
    row = table["tasks"]["mrpc"]
    assert row["metrics"]["f1"]["values"] == [entry["metrics"]["f1"] for entry in entries]
    assert (row["train_examples"], row["dev_examples"], row["seeds"]) == (30, 11, [0, 1])
    assert row["hparams"]["learning_rate"] == 0.001
    assert [each["missing"]["cola"] for each in table["averages"]] == [
        "not GLUE's 8,551 training examples, but 30; not GLUE's 1,043 dev examples, but 11"
    ] * 2
    assert (tmp_path / "results" / "summary.md").read_text() in capsys.readouterr().out


def test_trials_that_were_not_scored_are_not_finished(suite, tmp_path):
    assert suite(tmp_path, do_eval=False) == 4
    assert not (tmp_path / "results" / "summary.json").exists()
    assert suite(tmp_path, do_eval=False) == 0
    assert suite(tmp_path) == 4


def test_progress_goes_by_a_tasks_finished_trials_or_by_its_text():
    jobs = []
    for name, length in (("cola", 100), ("sst", 200)):
        examples = types.SimpleNamespace(num_characters=length)
        config = finetune.FinetuningConfig(num_trials=2, num_train_epochs=1.0)
        part = finetune.TaskData(glue.TASKS[name], examples, {"dev": examples}, {})
        jobs.append(finetune.Job((part,), config, None, ""))
    finished = {"cola": {}, "sst": {}}
    assert finetune.progress(jobs, finished) == "trial 1 of 4"
    finished["cola"][1] = {"cola": {"seconds": 600.0}}
    # Another 10 minutes, and twice 20 for twice the text.
    assert finetune.progress(jobs, finished) == "trial 2 of 4, about 50 min left"
    finished["sst"][2] = {"sst": {"seconds": 7200.0}}
    assert finetune.progress(jobs, finished) == "trial 3 of 4, about 2 h 10 min left"


ERRORS = {
    "no pre-trained model": (["cola"], {"model": "none_yet"}, "no pre-trained model.*from-scratch"),
    "unknown hyper-parameter": (["cola"], {"learning_rat": 1}, "Did you mean `learning_rate`"),
    "impossible value": (["cola"], {"num_trials": 0}, "`num_trials` must be a positive integer"),
    "unknown task": (["squat"], {}, "unknown task `squat`"),
    "the same twice": ([], {"task_names": ["cola", "cola"]}, "both called cola"),
    "tasks named twice": (["cola"], {"task_names": ["rte"]}, "name them in one place"),
    "missing file of the second task": (["cola", "rte"], {}, "task rte: no train file"),
    "longer than the model": (["cola"], {"max_seq_length": 64}, "positions for 32 tokens"),
    "another size": (["cola"], {"model_size": "small"}, '`model_size` is "small", with'),
    "unknown override": (["cola"], {"model_hparam_overrides": {"x": 1}}, "hyper-parameter `x`"),
    "nothing trained": (["mrpc"], {"do_train": False, "num_trials": 9}, "mrpc_.* is missing"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_wrong_input_is_one_message_and_changes_nothing(data_dir, capsys, case):
    tasks, hparams, message = ERRORS[case]
    before = contents(data_dir)
    with pytest.raises(SystemExit) as exit_:
        errors.run(lambda: finetune.main(arguments(data_dir, *tasks, **hparams)))
    assert exit_.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith("error: ") and "Traceback" not in shown
    assert re.search(message, shown)
    assert contents(data_dir) == before


def test_wrong_vocabulary(data_dir, tmp_path):
    model = tmp_path / "models" / "m" / "discriminator"
    ConvBertModel(ConvBertConfig(**ENCODER)).save_pretrained(model)
    (model / "vocab.txt").write_text("\n".join([*VOCAB, "more"]) + "\n")
    os.symlink(data_dir / "finetuning_data", tmp_path / "finetuning_data")
    with pytest.raises(errors.InputError, match=r"vocab\.txt has 16 tokens.*`vocab_size` is 15"):
        finetune.main(arguments(tmp_path, "cola", model="m"))


def test_damaged_row_stops_before_training(data_dir, tmp_path):
    os.symlink(data_dir / "models", tmp_path / "models")
    write_data(tmp_path)
    path = tmp_path / "finetuning_data" / "STS-B" / "dev.tsv"
    path.write_text(path.read_text().replace("4.0", "6.0", 1))
    before = contents(data_dir)
    with pytest.raises(errors.InputError, match=r"dev\.tsv, line 3: expected a score from 0 to 5"):
        finetune.main(arguments(tmp_path, "cola", "sts", seed=77))
    assert contents(data_dir) == before


def test_all_means_the_nine_tasks():
    args = finetune.parse_arguments(["--data-dir", "d", "--model-name", "m", "all"])
    configs = {name: config for config in finetune.job_configs(args) for name in config.task_names}
    assert list(configs) == list(glue.TASKS)
    assert [configs[name].num_train_epochs for name in ("mnli", "rte", "sts")] == [3.0, 10.0, 10.0]


def run_script(script, path, **environment):
    environment = {"PATH": path, **environment}
    command = ["bash", str(script), "qnli"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_script_passes_on_what_the_environment_says(tmp_path):
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    result = run_script(ROOT / "finetune.sh", path, DATA_DIR=str(tmp_path), MODEL_NAME="mine")
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert str(tmp_path / "finetuning_data") in result.stderr


def test_script_without_the_packages_says_so(tmp_path):
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")  # beside no .venv
    shutil.copy(ROOT / "finetune.sh", tmp_path)
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    result = run_script(tmp_path / "finetune.sh", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert result.returncode == 1
    assert result.stderr == (
        "error: python3 has not what requirements.txt lists; bash quickstart.sh makes .venv\n"
    )
