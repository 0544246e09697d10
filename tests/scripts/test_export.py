"""Exports predict what the pipelines predict, SavedModels in a process without this project."""

import itertools
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter

from common.errors import InputError
from data import ConvBertTokenizer
from data.tasks.examples import IGNORED
from data.tasks.tagging import entities
from data.tasks.tagging.features import make_tagging_features
from data.tokenizer.truncation import kept_lengths
from model import (
    ConvBertConfig,
    ConvBertForMaskedLM,
    ConvBertForMultipleChoice,
    ConvBertForQuestionAnswering,
    ConvBertForSequenceClassification,
    ConvBertForTokenClassification,
    ConvBertModel,
)
from model.joint import JointModel
from pipelines import (
    FeatureExtractor,
    FillMask,
    MultipleChoice,
    QuestionAnswerer,
    Tagger,
    TextClassifier,
)
from scripts import export
from serving import formats, tags
from serving.answers import answer_graph
from serving.directory import Options
from serving.rows import ROWS_AT_ONCE, Network, cut_pair
from serving.texts import classifier_graph
from tests.support.random_models import NETWORK, save

OPTIONS = Options("savedmodel")

# Runs in the other process: each SavedModel's outputs for its texts, and for none.
READER = """
import json, sys
import numpy as np, tensorflow as tf, tensorflow_text
for name, feeds in json.load(open(sys.argv[1])).items():
    serve = tf.saved_model.load(f"{name}/saved_model").signatures["serving_default"]
    for number, feed in enumerate((feeds, {key: value[:0] for key, value in feeds.items()})):
        shapes = {key: np.shape(feeds[key]) for key in feeds}
        inputs = {key: tf.constant(value, tf.string, [len(value), *shapes[key][1:]])
                  for key, value in feed.items()}
        found = {key: value.numpy() for key, value in serve(**inputs).items()}
        np.savez(f"{name}_{number}.npz", **found)
assert not {"data", "model", "pipelines", "scripts"} & set(sys.modules)
"""


def texts_of(seed, lengths):
    """Texts of so many words each, of the random models' vocabulary and beyond it."""
    words = [*"abcdefgh", "ax", "H", "zz", "É", "e\u0301", "\u200b", "[MASK]"]
    random = np.random.default_rng(seed)
    return [" ".join(["a", *random.choice(words[:-1], length)]) for length in lengths]


# The longest are cut, or read in windows: rows have 64 tokens at most.
TEXTS = texts_of(0, (3, 20, 7, 1, 90, 61, 62, 63, 150))
OTHERS = texts_of(1, (30, 2, 90, 1, 70, 3, 2, 5, 5))
LABELS = ("O", "B-X", "I-X", "E-X", "S-X", "B-Y", "I-Y", "E-Y", "S-Y")
CHOICES = [texts_of(2 + i, (3, 9, 50)) for i in range(len(TEXTS))]
MASKED = [f"{text[:9]}[MASK]{text[9:]}[MASK] a [MASK]" for text in TEXTS] + ["[MASK]"]
TAG_FIELDS = {
    "num_labels": 9,
    "id2label": LABELS,
    "task_specific_params": {"tagging": {"scheme": "BIO"}},
    "seed": 1,  # with it, some tags do not fit together
}
WINDOWS = {
    "max_query_length": 40,
    "doc_stride": 7,
    "max_answer_length": 9,
    "unanswerable": True,
    "qa_na_threshold": -2.0,
}
ANSWER_FIELDS = {"task_specific_params": {"question_answering": WINDOWS}}
# Class, fields of the configuration, options, and inputs, by name of the directory.
KINDS = {
    "classes": (
        ConvBertForSequenceClassification,
        {},
        ["--pairs"],
        {"text": TEXTS, "text_pair": OTHERS},
    ),
    "tags": (ConvBertForTokenClassification, TAG_FIELDS, [], {"text": TEXTS}),
    "answers": (
        ConvBertForQuestionAnswering,
        ANSWER_FIELDS,
        [],
        {"question": OTHERS, "context": TEXTS},
    ),
    "choices": (ConvBertForMultipleChoice, {}, [], {"context": TEXTS, "choices": CHOICES}),
    "masks": (ConvBertForMaskedLM, {}, ["--top-k", "3"], {"text": MASKED}),
    "vectors": (ConvBertModel, {}, ["--pooling", "cls"], {"text": TEXTS}),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a model of each kind, its SavedModel, and the SavedModel's outputs."""
    folder = tmp_path_factory.mktemp("export")
    for name, (kind, fields, options, _) in KINDS.items():
        source = folder / f"{name}_model"
        source.mkdir()
        save(source, kind, num_hidden_layers=1, **fields)
        export.main([str(source), str(folder / name), "--format", "savedmodel", *options])
    (folder / "feeds.json").write_text(json.dumps({n: feed for n, (*_, feed) in KINDS.items()}))
    command = [sys.executable, "-c", READER, "feeds.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def outputs(folder, name):
    """The SavedModel's outputs, strings as `str`; and the shapes of its outputs for no texts."""
    with np.load(folder / f"{name}_0.npz", allow_pickle=True) as arrays:
        found = {key: as_text(array) for key, array in arrays.items()}
    with np.load(folder / f"{name}_1.npz", allow_pickle=True) as arrays:
        empty = {key: array.shape for key, array in arrays.items()}
    return found, empty


def as_text(array):
    return np.vectorize(bytes.decode)(array) if array.dtype == object and array.size else array


def evaluate(graph, **feed):
    """A graph's outputs, without saving it."""
    found = graph(**{name: tf.constant(value) for name, value in feed.items()})
    return {name: as_text(array.numpy()) for name, array in found.items()}


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_classes(exported):
    found, empty = outputs(exported, "classes")
    expected = TextClassifier.from_pretrained(exported / "classes_model").predict(TEXTS, OTHERS)
    assert found["label"].tolist() == expected.answers and len(set(expected.answers)) == 2
    close(found["probabilities"], expected.probabilities)
    assert empty == {"label": (0,), "probabilities": (0, 2)}


def test_several_labels_of_more_texts_than_are_computed_at_once(tmp_path):
    texts = TEXTS * 5
    assert len(texts) > ROWS_AT_ONCE
    fields = {"num_labels": 4, "problem_type": "multi_label_classification"}
    save(tmp_path, ConvBertForSequenceClassification, num_hidden_layers=1, **fields)
    classifier = TextClassifier.from_pretrained(tmp_path)
    found = evaluate(classifier_graph(classifier, OPTIONS), text=texts)
    expected = classifier.predict(texts)
    close(found["probabilities"], expected.probabilities)
    labels = zip(found["labels"].tolist(), found["num_labels"], strict=True)
    assert [row[:count] for row, count in labels] == expected.answers


def test_scores_of_a_model_without_mask_padding(tmp_path):
    """Padding changes its outputs, so all rows have the maximum length."""
    fields = {"num_labels": 1, "problem_type": "regression", "score_range": (0.0, 5.0)}
    fields |= {"mask_padding": False, "num_hidden_layers": 1}
    save(tmp_path, ConvBertForSequenceClassification, **fields)
    classifier = TextClassifier.from_pretrained(tmp_path)
    found = evaluate(classifier_graph(classifier, OPTIONS), text=TEXTS[:5])
    expected = classifier.predict(TEXTS[:5]).answers
    close(found["score"], expected)
    assert len(set(expected)) > 2


def test_tags(exported):
    found, empty = outputs(exported, "tags")
    sentences = Tagger.from_pretrained(exported / "tags_model").predict(TEXTS)
    assert found["num_words"].tolist() == [len(sentence.words) for sentence in sentences]
    for row, sentence in enumerate(sentences):
        count = len(sentence.words)
        assert found["words"][row, :count].tolist() == sentence.words
        assert found["tags"][row, :count].tolist() == sentence.tags
        assert set(found["tags"][row, count:].tolist()) <= {""}
        close(found["probabilities"][row, :count], sentence.probabilities)
    assert "I-X" in found["tags"] and "S-X" not in found["tags"]
    assert empty == dict.fromkeys(("words", "tags", "probabilities"), (0, 0)) | {"num_words": (0,)}


def test_words_are_split_as_by_python():
    points = (point for point in range(0x110000) if not 0xD800 <= point < 0xE000)
    spaces = [chr(point) for point in points if chr(point).isspace()]
    assert len(spaces) == 29
    texts = ["".join(f"a{space}" for space in spaces), " \t", "", "\u200ba b\ufeff"]
    found = tags.split_words(tf.constant(texts)).to_list()
    assert [[word.decode() for word in row] for row in found] == [text.split() for text in texts]


@pytest.mark.parametrize("max_seq_length", (4, 5, 9, 20))
def test_windows_of_sentences_are_those_of_the_features(exported, max_seq_length):
    tagger = Tagger.from_pretrained(exported / "tags_model")
    tagger.max_seq_length = max_seq_length
    random = np.random.default_rng(max_seq_length)
    words = [["a" + "x" * n for n in random.integers(0, 5, size)] for size in (1, 30, 3, 60)]
    starts = np.cumsum([0, *map(len, words)])
    flat = list(itertools.chain.from_iterable(words))
    expected = make_tagging_features(
        tagger.tokenizer, flat, starts, np.full(len(flat), IGNORED), max_seq_length
    )
    found = tags.sentence_rows(Network(tagger), tf.ragged.constant(words))
    inputs, word_rows, positions = tf.nest.map_structure(lambda array: array.numpy(), found)
    assert inputs["input_ids"][inputs["input_mask"] == 1].tolist() == expected.input_ids.tolist()
    positions += expected.row_splits[word_rows]
    assert positions.tolist() == expected.word_positions.tolist()


@pytest.mark.parametrize("scheme", entities.SCHEMES)
def test_tags_that_do_not_fit_together_become_entities(scheme):
    numbers = np.random.default_rng(0).integers(0, len(LABELS), 400)
    starts = np.cumsum([0, 1, 2, 3, 94, 300])
    sentences = np.repeat(np.arange(5), np.diff(starts))
    found = tags.convert_tags(LABELS, tf.constant(numbers), tf.constant(sentences), scheme)
    expected = entities.convert_tags([LABELS[number] for number in numbers], starts, scheme)
    assert [tag.decode() for tag in found.numpy()] == expected


def check_answers(found, expected):
    missing = {"text": "", "start": -1, "end": -1, "probability": 0.0}
    for row, answer in enumerate(expected):
        values = [getattr(answer, name) for name in missing]
        if answer.start is None:
            values = list(missing.values())
        assert [found[name][row] for name in ("answer", "start", "end")] == values[:3]
        close(found["probability"][row], values[3])
        close(found["null_odds"][row], answer.null_odds)


def test_answers(exported):
    found, empty = outputs(exported, "answers")
    answerer = QuestionAnswerer.from_pretrained(exported / "answers_model")
    expected = answerer.predict(OTHERS, TEXTS)
    check_answers(found, expected)
    assert 0 < sum(answer.text != "" for answer in expected) < len(TEXTS)
    names = ("answer", "start", "end", "probability", "null_odds")
    assert empty == dict.fromkeys(names, (0,))


def test_answers_of_beams(exported):
    fields = NETWORK | {"num_hidden_layers": 1, "initializer_range": 0.2}
    model = ConvBertForQuestionAnswering(
        ConvBertConfig(**fields), joint_prediction=True, beam_size=5
    )
    tokenizer = ConvBertTokenizer.from_pretrained(exported / "answers_model")
    options = {"doc_stride": 9, "max_query_length": 8, "n_best_size": 6, "max_answer_length": 9}
    answerer = QuestionAnswerer(model, tokenizer, 40, **options)
    questions, contexts = [*OTHERS, "a"], [*TEXTS, "\u200b"]
    found = evaluate(answer_graph(answerer, OPTIONS), question=questions, context=contexts)
    expected = answerer.predict(questions, contexts)
    check_answers(found, expected)
    assert sum(answer.text != "" for answer in expected) > 5
    assert expected[-1].text == ""
    answerer = QuestionAnswerer(model, tokenizer, 10, max_query_length=8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no room"):
        evaluate(answer_graph(answerer, OPTIONS), question=OTHERS, context=TEXTS)


def test_choices(exported):
    found, empty = outputs(exported, "choices")
    expected = MultipleChoice.from_pretrained(exported / "choices_model").predict(TEXTS, CHOICES)
    assert found["choice"].tolist() == expected.answers and len(set(expected.answers)) > 1
    close(found["probabilities"], expected.probabilities)
    assert empty == {"choice": (0,), "probabilities": (0, 3)}


def test_masks(exported):
    found, empty = outputs(exported, "masks")
    expected = FillMask.from_pretrained(exported / "masks_model").predict(MASKED, top_k=3)
    assert found["num_masks"].tolist() == [len(masks) for masks in expected]
    for row, masks in enumerate(expected):
        for place, mask in enumerate(masks):
            assert found["tokens"][row, place].tolist() == mask.tokens
            close(found["probabilities"][row, place], mask.probabilities)
    assert empty == {"tokens": (0, 0, 3), "probabilities": (0, 0, 3), "num_masks": (0,)}


def test_vectors(exported):
    found, empty = outputs(exported, "vectors")
    extractor = FeatureExtractor.from_pretrained(exported / "vectors_model", pooling="cls")
    close(found["vector"], extractor.encode(TEXTS))
    assert empty == {"vector": (0, 16)}


def test_pairs_are_cut_as_the_tokenizer_cuts_them():
    lengths = np.array(list(itertools.product(range(12), repeat=2)))
    firsts, seconds = (
        tf.RaggedTensor.from_row_lengths(tf.range(column.sum()), column) for column in lengths.T
    )
    for room in (1, 6, 7, 30):
        found = [ragged.row_lengths().numpy() for ragged in cut_pair(firsts, seconds, room)]
        expected = [kept_lengths(*map(int, pair), room) for pair in lengths]
        assert list(zip(*found, strict=True)) == expected


def random_batch(shape, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(2, shape[-1] + 1, shape[:-1])[..., None]
    mask = (np.arange(shape[-1]) < lengths).astype(np.int32)
    return {
        "input_ids": random.integers(5, NETWORK["vocab_size"], shape).astype(np.int32) * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(shape[-1]) >= lengths // 2).astype(np.int32) * mask,
    }


@pytest.fixture(scope="module")
def networks():
    """Two models, with the shapes of batches for them: all heads on one encoder, and choices."""
    config = ConvBertConfig(**(NETWORK | {"num_hidden_layers": 1, "linear_groups": 2}))
    encoder = ConvBertModel(config)
    heads = {
        "label": ConvBertForSequenceClassification(config, "mlp", convbert=encoder),
        "tags": ConvBertForTokenClassification(config, convbert=encoder),
        "words": ConvBertForMaskedLM(config, convbert=encoder),
        "spans": ConvBertForQuestionAnswering(config, convbert=encoder),
        "beams": ConvBertForQuestionAnswering(config, True, beam_size=4, convbert=encoder),
    }
    return {
        "heads": (JointModel(heads), [(1, 7), (3, 20), (2, 64), (5, 2)]),
        "choices": (ConvBertForMultipleChoice(config), [(1, 2, 7), (3, 4, 20)]),
    }


@pytest.mark.parametrize("kind", ("heads", "choices"))
def test_onnx_computes_what_keras_does(networks, kind, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, shapes = networks[kind]
    path = str(tmp_path / "model.onnx")
    described = formats.save_onnx(types.SimpleNamespace(model=model), OPTIONS, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    axes = ["batch", "choices", "length"] if kind == "choices" else ["batch", "length"]
    inputs = {value.name: value.shape for value in session.get_inputs()}
    assert inputs == dict.fromkeys(random_batch((1, 2)), axes)
    names = [output.name for output in session.get_outputs()]
    assert names == list(described["outputs"]) and len(names) == (1 if kind == "choices" else 10)
    for shape in shapes:
        batch = random_batch(shape)
        check_network(model, batch, dict(zip(names, session.run(None, batch), strict=True)))


@pytest.mark.parametrize("kind", ("heads", "choices"))
def test_litert_computes_what_keras_does(networks, kind, tmp_path):
    model, shapes = networks[kind]
    path = str(tmp_path / "model.tflite")
    described = formats.save_litert(types.SimpleNamespace(model=model), OPTIONS, path)
    run = interpreter.Interpreter(path).get_signature_runner()
    assert sorted(run.get_output_details()) == list(described["outputs"])
    for shape in shapes:
        batch = random_batch(shape)
        check_network(model, batch, run(**batch))


def check_network(model, batch, found):
    expected = model(batch, training=False)
    for name, array in (expected if isinstance(expected, dict) else {"logits": expected}).items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4, err_msg=name)


def test_8_bit_weights_are_near(exported, tmp_path):
    source, target = exported / "classes_model", tmp_path / "out"
    export.main([str(source), str(target), "--format", "litert", "--int8"])
    fields = json.loads((target / "export.json").read_text())
    assert fields["int8"] and fields["outputs"] == {
        "logits": {"dtype": "float32", "shape": ["batch", 2]}
    }
    run = interpreter.Interpreter(str(target / "model.tflite")).get_signature_runner()
    classifier = TextClassifier.from_pretrained(source)
    batch = classifier.tokenizer(TEXTS, OTHERS, classifier.max_seq_length)
    difference = np.abs(run(**batch)["logits"] - np.asarray(classifier.model(batch))).max()
    assert 0 < difference < 0.1


def test_files_beside_the_model(exported):
    directory = exported / "classes"
    tokenizer = {"special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"}
    names = {path.name for path in directory.iterdir()}
    assert names == {"export.json", "saved_model"} | tokenizer
    fields = json.loads((directory / "export.json").read_text())
    assert fields["model"] == "saved_model" and fields["pipeline"] == "TextClassifier"
    assert fields["inputs"]["text_pair"] == {"dtype": "string", "shape": [None]}
    assert fields["outputs"]["probabilities"] == {"dtype": "float32", "shape": [None, 2]}
    assert fields["labels"] == ["LABEL_0", "LABEL_1"] and fields["max_seq_length"] == 64


def test_an_export_is_whole_or_not_there(exported, tmp_path, monkeypatch):
    target = tmp_path / "out"
    arguments = [str(exported / "classes_model"), str(target), "--format", "litert"]

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(formats, "save_litert", fail)
    with pytest.raises(OSError, match="disk full"):
        export.main(arguments)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(formats, "save_litert", lambda *_: {"inputs": {}, "outputs": {}})
    export.main(arguments)
    with pytest.raises(InputError, match=r"out exists already.*--overwrite"):
        export.main(arguments)
    (target / "old").touch()
    export.main([*arguments, "--overwrite"])
    assert not (target / "old").exists()
    (target / "export.json").unlink()
    with pytest.raises(InputError, match=r"out is not overwritten.* export\.json"):
        export.main([*arguments, "--overwrite"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("classes", ["onnx", "--pairs"], "--pairs"),
        ("tags", ["savedmodel", "--pairs"], "--pairs"),
        ("tags", ["onnx", "--int8"], "--int8"),
        ("tags", ["savedmodel", "--top-k", "2"], "--top-k"),
        ("tags", ["onnx", "--layer", "1"], "--pooling and --layer"),
        ("masks", ["savedmodel", "--top-k", "0"], "`--top-k` .* 18 tokens"),
        ("nothing", ["onnx"], r"nothing_model"),
    ],
)
def test_wrong_options(exported, tmp_path, name, options, message):
    source, target = str(exported / f"{name}_model"), str(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        export.main([source, target, "--format", *options])
    assert list(tmp_path.iterdir()) == []


def test_missing_packages(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = str(exported / "classes_model")
    with pytest.raises(InputError, match=r"onnx and tf2onnx.*requirements\.txt"):
        export.main([source, str(tmp_path / "out"), "--format", "onnx"])


def test_other_models(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(InputError, match="BertModel"):
        export.main([str(tmp_path), str(tmp_path / "out"), "--format", "litert"])
