import hashlib
import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import ModelCard, constants

from common.errors import InputError
from data import ConvBertTokenizer
from jobs import model_card
from model import ConvBertConfig, ConvBertForSequenceClassification
from scripts import upload_model
from tests.support import finetuning, hub_server
from tests.support.huggingface import edit_config

NAME = "me/small"


@pytest.fixture
def directory(tmp_path):
    """A saved model with its tokenizer, a hidden file, and a folder."""
    directory = tmp_path / "model"
    (tmp_path / "vocab.txt").write_text("\n".join(finetuning.VOCAB) + "\n")
    config = ConvBertConfig(**finetuning.NETWORK)
    model = ConvBertForSequenceClassification(config, classifier_head="mlp")
    model.save_pretrained(directory)
    ConvBertTokenizer(tmp_path / "vocab.txt").save_pretrained(directory)
    model_card.write(directory, model_card.plain_card(directory))
    (directory / ".secret").write_text("x")
    (directory / "checkpoints").mkdir()
    (directory / "checkpoints" / "state").write_text("x")
    return directory


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A hub, and a user who is logged in."""
    with hub_server.serve() as server:
        hub_server.connect(monkeypatch, server.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


def upload(directory, *arguments, name=NAME, license_id="mit"):
    options = ["--license", license_id] if license_id else []
    upload_model.main([str(directory), name, *options, *arguments])


def test_it_is_shown_and_not_sent_without_yes(directory, server, capsys):
    upload(directory, "--language", "da", "--public")
    shown = capsys.readouterr().out
    assert server.requests == []
    assert f"{server.url}/{NAME} (public)" in shown and "--yes" in shown
    size = (directory / "model.safetensors").stat().st_size
    assert f"{size:,} bytes  model.safetensors" in shown
    assert "\nlicense: mit\n" in shown and "secret" not in shown and "checkpoints" not in shown


@pytest.mark.parametrize("has_large_files", [False, True])
def test_what_was_sent_opens_by_name(directory, server, monkeypatch, has_large_files):
    if has_large_files:  # without hf_xet, which the server does not speak
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        server.has_large_files = True
    before = (directory / "README.md").read_bytes()
    upload(directory, "--language", "da", "sv", "--yes")
    assert (directory / "README.md").read_bytes() == before
    assert server.private == {NAME} and server.large == {}
    sent = server.files[NAME]["main"]
    there = {path.name for path in directory.iterdir()} - {".secret", "checkpoints"}
    assert set(sent) == there
    for name in there - {"README.md"}:
        assert sent[name] == (directory / name).read_bytes()
    card = ModelCard(sent["README.md"].decode())
    assert (card.data.license, card.data.language) == ("mit", ["da", "sv"])
    assert f'from_pretrained("{NAME}")' in card.text and "OWNER" not in str(card)
    assert not model_card.is_edited_text(sent["README.md"].decode())

    inputs = ConvBertTokenizer.from_pretrained(NAME)(["the dog", "good"])
    ours, theirs = map(ConvBertForSequenceClassification.from_pretrained, (str(directory), NAME))
    np.testing.assert_array_equal(ours(inputs), theirs(inputs))


def test_a_card_that_was_edited_on_the_hub_stays(directory, server, capsys):
    upload(directory, "--yes")
    files = server.files[NAME]["main"]
    files["README.md"] = mine = files["README.md"].replace(b"# me", b"# My")
    server.commits["main"] = hashlib.sha1(mine).hexdigest()
    upload(directory, "--yes")
    assert files["README.md"] == mine
    assert "README.md of me/small was edited on the hub" in capsys.readouterr().out
    (directory / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Local\n")
    upload(directory, "--yes", license_id=None)
    assert files["README.md"] == (directory / "README.md").read_bytes()


def test_a_model_that_no_job_wrote_has_a_card(directory, server):
    (directory / "README.md").unlink()
    upload(directory, "--yes")
    card = ModelCard(server.files[NAME]["main"]["README.md"].decode())
    assert card.data.pipeline_tag == "text-classification" and f"# {NAME}" in card.text
    assert not (directory / "README.md").exists()


def test_a_model_that_transformers_wrote(directory, server):
    """Other weights; and a class that there is not."""
    (directory / "README.md").unlink()
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    upload(directory, "--yes")
    assert "pytorch_model.bin" in server.files[NAME]["main"]
    edit_config(directory, architectures=["BertModel"])
    with pytest.raises(InputError, match=r"config\.json: `architectures` is .*BertModel"):
        upload(directory, "--yes")


def test_the_license_is_asked_for(directory, server, monkeypatch):
    with pytest.raises(InputError, match="--license"):
        upload(directory, license_id=None)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    monkeypatch.setattr("builtins.input", lambda question: " apache-2.0 ")
    upload(directory, "--yes", license_id=None)
    assert b"\nlicense: apache-2.0\n" in server.files[NAME]["main"]["README.md"]
    monkeypatch.setattr("builtins.input", lambda question: "")
    with pytest.raises(InputError, match="license"):
        upload(directory, license_id=None)


def test_what_the_hub_refuses(directory, server, monkeypatch):
    server.files["me/public"] = {"main": {}}
    with pytest.raises(InputError, match="me/public exists on the hub and is public"):
        upload(directory, "--yes", name="me/public")
    assert server.files["me/public"] == {"main": {}}
    upload(directory, "--yes", "--public", name="me/public")
    assert "config.json" in server.files["me/public"]["main"]
    with pytest.raises(InputError, match='"license" must be one of'):
        upload(directory, "--yes", license_id="none")
    with pytest.raises(InputError, match="not a valid name"):
        upload(directory, "--yes", name="me/sm all")
    with pytest.raises(InputError, match="owner/model"):
        upload(directory, name="small")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "missing")
    with pytest.raises(InputError, match="hf auth login"):
        upload(directory, "--yes")
    assert NAME not in server.files
    hub_server.connect(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot upload me/small: .* to http://127\.0\.0\.1:9"):
        upload(directory, "--yes")


def test_what_cannot_be_opened_is_not_sent(directory, server, tmp_path):
    with pytest.raises(InputError, match=r"config\.json not found"):
        upload(tmp_path, "--yes")
    weights = directory / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        upload(directory, "--yes")
    weights.unlink()
    with pytest.raises(InputError, match=r"has none of model\.safetensors"):
        upload(directory, "--yes")
    weights.write_bytes(content)
    (directory / "README.md").write_text("---\na: [\n---\n")
    with pytest.raises(InputError, match=r"README\.md"):
        upload(directory, "--yes")
    assert server.requests == []


LOAD = """
import sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    print(model(**tokenizer(["the dog sat on a mat"], return_tensors="pt")).logits.tolist()[0])
"""


@pytest.mark.peers
def test_transformers_opens_it_by_name(directory, server, tmp_path):
    upload(directory, "--yes")
    environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_TOKEN": "hf_test"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, NAME],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    tokenizer = ConvBertTokenizer.from_pretrained(directory)
    model = ConvBertForSequenceClassification.from_pretrained(directory)
    expected = np.asarray(model(tokenizer(["the dog sat on a mat"])))[0]
    found = [float(number) for number in done.stdout.strip("[]\n").split(",")]
    np.testing.assert_allclose(found, expected, atol=5e-5)
