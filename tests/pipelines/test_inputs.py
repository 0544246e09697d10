"""What all pipelines refuse: texts, directories and files that are wrong."""

import json

import numpy as np
import pytest

import pipelines
from common.errors import InputError
from tests.support.random_models import VOCAB, save

TEXTS, OTHERS = ["a [MASK]", "b [MASK]"], ["c", "d e"]
# Lists of texts that a pipeline takes, by the names of its arguments.
INPUTS = {
    "FeatureExtractor": {"texts": TEXTS, "text_pairs": OTHERS},
    "FillMask": {"texts": TEXTS},
    "MultipleChoice": {"contexts": TEXTS, "choices": [["c", "d"], ["e", "f"]]},
    "QuestionAnswerer": {"questions": TEXTS, "contexts": OTHERS},
    "Tagger": {"sentences": TEXTS},
    "TextClassifier": {"texts": TEXTS, "text_pairs": OTHERS},
}
FINE_TUNED = ("MultipleChoice", "QuestionAnswerer", "Tagger", "TextClassifier")


@pytest.mark.parametrize("name", INPUTS)
def test_wrong_texts(tmp_path, name):
    cls, inputs = getattr(pipelines, name), INPUTS[name]
    save(tmp_path, cls.model_class, num_hidden_layers=1)
    pipeline = cls.from_pretrained(tmp_path)
    predict = pipeline.encode if name == "FeatureExtractor" else pipeline.predict
    assert len(predict(*([] for _ in inputs))) == 0
    first, *second = inputs
    wrong = [
        (inputs | {first: "a"}, f"`{first}` must be a list"),
        (inputs | {"batch_size": 0}, "`batch_size`"),
    ]
    for argument, (good, other) in inputs.items():
        for bad, message in ((" ", "got none"), (None, "got null")):
            changed = [good, bad if isinstance(other, str) else [bad, "a"]]
            wrong.append((inputs | {argument: changed}, rf"{argument}\[1\].*{message}"))
    for argument in second:
        message = f"1 `{first}`, but 2 `{argument}`"
        wrong.append((inputs | {first: inputs[first][:1]}, message))
    for arguments, message in wrong:
        with pytest.raises(InputError, match=message):
            predict(**arguments)


@pytest.mark.parametrize("name", FINE_TUNED)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"config\.json.*finetuning_models"),
        (
            '{"architectures": ["ConvBertModel"]}',
            r'{0.what}: .* \["ConvBertModel"\], not {0.model_class.architecture}',
        ),
        ("[]", r"config\.json: expected a JSON object"),
    ],
)
def test_wrong_directory(tmp_path, name, content, message):
    cls = getattr(pipelines, name)
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=message.format(cls)):
        cls.from_pretrained(tmp_path)


def test_a_vocabulary_of_another_size(tmp_path):
    save(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, "more"]) + "\n")
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"vocab\.txt has 19 tokens.*`vocab_size` is 18"):
        pipelines.FillMask.from_pretrained(tmp_path)


@pytest.mark.parametrize("stated", [10**30, 999])  # no limit; more than there are positions
def test_the_stated_length_is_at_most_that_of_the_positions(tmp_path, stated):
    save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": stated}))
    assert pipelines.FeatureExtractor.from_pretrained(tmp_path).max_seq_length == 64


def test_outputs_that_are_not_finite(tmp_path):
    model = save(tmp_path)
    model.convbert.embeddings.norm.gamma.assign(np.full(16, np.nan))
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="not finite numbers"):
        pipelines.FeatureExtractor.from_pretrained(tmp_path).encode(["a"])
