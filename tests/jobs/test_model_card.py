import json
import re

import pytest
from huggingface_hub import ModelCard

import finetune
from common import files
from data.tasks import registry
from jobs import model_card
from model import ConvBertConfig, ConvBertForQuestionAnswering, ConvBertForSequenceClassification
from tests.support import finetuning, pretraining
from tests.support.eager import eagerly

TEXT = "---\nlicense: mit\n---\n\n# A model\n"


def test_a_card_is_written_again_until_it_is_edited(tmp_path):
    path = tmp_path / "README.md"
    assert not model_card.is_edited(path)
    for text in (TEXT, TEXT.replace("mit", "cc0-1.0")):
        model_card.write(tmp_path, text)
        assert path.read_text().startswith(text) and not model_card.is_edited(path)
    edited = path.read_text().replace("A model", "My model")
    path.write_text(edited)
    model_card.write(tmp_path, TEXT)
    assert model_card.is_edited(path) and path.read_text() == edited


@pytest.mark.parametrize("content", [b"", b"# mine\n", b"\xff", TEXT.encode()])
def test_a_file_without_the_mark_is_somebody_elses(tmp_path, content):
    (tmp_path / "README.md").write_bytes(content)
    model_card.write(tmp_path, TEXT)
    (tmp_path / "new").mkdir()
    model_card.keep_edited(tmp_path, tmp_path / "new")
    assert (tmp_path / "new" / "README.md").read_bytes() == content


def test_line_ends_of_another_system_are_an_edit(tmp_path):
    model_card.write(tmp_path, TEXT)
    path = tmp_path / "README.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert model_card.is_edited(path)


def facts(card):
    """The rows of a card's tables that have two columns."""
    rows = re.findall(r"^\| ([^|]*?) +\| ([^|]*?) +\|$", card.text, re.MULTILINE)
    return dict(rows)


def hparams(card):
    """The hyper-parameters that a card lists."""
    return json.loads(re.search(r"```json\n(.*?)```", card.text, re.DOTALL)[1])


@eagerly()
def test_pretrained(tmp_path):
    data_dir = pretraining.build_data_dir(tmp_path / "data")
    records = str(data_dir / "pretrain_tfrecords")
    metadata_file = data_dir / "pretrain_tfrecords" / "metadata.json"
    metadata = json.loads(metadata_file.read_text())
    address = "hf://datasets/me/texts/*.parquet"
    metadata["options"] |= {"corpus": address, "corpus_revision": "c0ffee"}
    metadata_file.write_text(json.dumps(metadata))
    options = {"num_train_steps": 3, "do_eval": True, "num_eval_steps": 1, "eval_batch_size": 2}
    run = pretraining.run(data_dir, **options, pretrain_tfrecords=records)
    cards = {
        name: ModelCard.load(run / name / "README.md") for name in ("discriminator", "generator")
    }

    data = cards["discriminator"].data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "feature-extraction")
    assert data.license is None and data.language is None  # they are asked for
    data = cards["generator"].data
    assert data.pipeline_tag == "fill-mask"
    (sample,) = data.widget
    assert sample["text"].split().count("[MASK]") == 1 and len(sample["text"].split()) > 3

    scores = json.loads((run / "results" / "pretrain_results.json").read_text())
    for card in cards.values():
        found = facts(card)
        assert card.data.datasets == ["me/texts"] and found["corpus"] == address
        assert found["revision of the corpus"] == "c0ffee" and found["steps"] == "3 of 3"
        assert found["vocabulary (SHA-256)"] == metadata["vocab_sha256"]
        assert found["documents"] == str(metadata["totals"]["documents"])
        assert found["records' metadata.json (SHA-256)"] == files.sha256_of(metadata_file)
        assert found["eval_loss"] == str(scores["eval_loss"])
        assert hparams(card)["train_batch_size"] == 4
        assert hparams(card)["pretrain_tfrecords"] == "pretrain_tfrecords"
        assert str(tmp_path) not in str(card)

    path = run / "discriminator" / "README.md"
    path.write_text("# mine\n")
    pretraining.run(data_dir, **options | {"num_train_steps": 4}, pretrain_tfrecords=records)
    assert path.read_text() == "# mine\n"
    assert facts(ModelCard.load(run / "generator" / "README.md"))["steps"] == "4 of 4"


@eagerly()
def test_finetuned(tmp_path):
    data_dir = finetuning.build_data_dir(tmp_path)
    options = {"num_train_epochs": 1.0, "num_trials": 2, "keep_all_models": True, "seed": 5}
    options |= {"classifier_head": "mlp", "n_writes_test": 0}
    command = finetuning.arguments(data_dir, "small_one", finetuning.HPARAMS | options, "mrpc")
    finetune.main(command)

    model_dir = data_dir / "models" / "small_one"
    results = finetuning.read_results(model_dir, "mrpc")
    directories = [model_dir / "finetuning_models" / f"mrpc_{trial}" for trial in (1, 2)]
    for directory, result in zip(directories, results, strict=True):
        card = ModelCard.load(directory / "README.md")
        assert card.data.pipeline_tag == "text-classification"
        assert card.data.widget[0].keys() == {"text", "text_pair"}
        assert {each.metric_type: each.metric_value for each in card.data.eval_results} == (
            result["metrics"]
        )
        assert f"It is trial {result['trial']}, with seed {result['seed']}." in card.text
        for each in results:  # the scores of all seeds
            star = r" \*" if each is result else ""
            scores = " +".join(rf"\| +{value:.2f}" for value in each["metrics"].values())
            assert re.search(
                rf"^\| {each['trial']}{star} +\| +{each['seed']} +{scores} \|$", card.text, re.M
            )
        assert re.search(r"^\| mean +\|", card.text, re.MULTILINE)
        train = data_dir / "finetuning_data" / "MRPC" / "train.tsv"
        assert facts(card)["training file (SHA-256)"] == files.sha256_of(train)
        assert hparams(card)["num_train_epochs"] == 1.0
        assert 'AutoModelForSequenceClassification.from_pretrained("OWNER/NAME")' in card.text

    edited = directories[1] / "README.md"
    edited.write_text("# mine\n")
    (directories[0] / "README.md").unlink()
    finetune.main(command)
    assert edited.read_text() == "# mine\n"
    assert (directories[0] / "README.md").exists()
    finetune.main([*command, "--overwrite"])
    assert edited.read_text() == "# mine\n"


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (ConvBertForSequenceClassification, "linear"),
        (ConvBertForQuestionAnswering, "joint"),
    ],
)
def test_heads_that_transformers_lacks(tmp_path, model, head):
    options = {"joint_prediction": True} if head == "joint" else {}
    model(ConvBertConfig(**finetuning.NETWORK), **options).save_pretrained(tmp_path)
    assert head in model_card._described(tmp_path)[-1]


def test_all_kinds_of_tasks_have_a_kind_of_model():
    kinds = {registry.get_task(name).architecture for name in ("cola", "squad", "chunk")}
    assert kinds < model_card.KINDS.keys()
