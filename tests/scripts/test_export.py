"""Exports predict what the pipelines predict, SavedModels in a process without this project."""

import dataclasses
import itertools
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import interpreter

import model as models
import pipelines
from common.errors import InputError
from data import ConvBertTokenizer
from data.tasks.examples import IGNORED
from data.tasks.tagging import entities
from data.tasks.tagging.features import make_tagging_features
from data.tokenizer.truncation import kept_lengths
from model.joint import JointModel
from pipelines import QuestionAnswerer, Tagger, TextClassifier
from scripts import export
from serving import formats, tags
from serving.answers import answer_graph
from serving.directory import Options
from serving.rows import ROWS_AT_ONCE, Network, cut_pair
from serving.texts import classifier_graph
from tests.support.files import write
from tests.support.random_models import NETWORK, assert_close, save

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


def padded(rows, missing):
    width = max(map(len, rows))
    return [[*row, *[missing] * (width - len(row))] for row in rows]


def classes(classifier):
    found = classifier.predict(TEXTS, OTHERS)
    return {"label": found.answers, "probabilities": found.probabilities}


def tagged(tagger):
    found = tagger.predict(TEXTS)
    return {
        "words": padded([sentence.words for sentence in found], ""),
        "tags": padded([sentence.tags for sentence in found], ""),
        "probabilities": padded([sentence.probabilities for sentence in found], 0.0),
        "num_words": [len(sentence.words) for sentence in found],
    }


def answers(answerer, questions=OTHERS, contexts=TEXTS):
    found = answerer.predict(questions, contexts)
    rows = [(a.start, a.end, a.probability) if a.text else (-1, -1, 0.0) for a in found]
    columns = dict(zip(("start", "end", "probability"), zip(*rows, strict=True), strict=True))
    columns = {name: list(column) for name, column in columns.items()}
    return columns | {"answer": [a.text for a in found], "null_odds": [a.null_odds for a in found]}


def choices(chooser):
    found = chooser.predict(TEXTS, CHOICES)
    return {"choice": found.answers, "probabilities": found.probabilities}


def masks(filler):
    found = filler.predict(MASKED, top_k=3)
    tokens = padded([[mask.tokens for mask in masks] for masks in found], [""] * 3)
    shares = padded([[mask.probabilities for mask in masks] for masks in found], [0.0] * 3)
    return {"tokens": tokens, "probabilities": shares, "num_masks": list(map(len, found))}


def vectors(extractor):
    return {"vector": extractor.encode(TEXTS)}


CLASS_FIELDS = {"seed": 2}  # with it, not all answers are alike
PAIRS = {"text": TEXTS, "text_pair": OTHERS}
QUESTIONS = {"question": OTHERS, "context": TEXTS}
# Pipeline, fields of the configuration, options, inputs, and expected outputs, by directory.
KINDS = {
    "classes": ("TextClassifier", CLASS_FIELDS, ["--pairs"], PAIRS, classes),
    "tags": ("Tagger", TAG_FIELDS, [], {"text": TEXTS}, tagged),
    "answers": ("QuestionAnswerer", ANSWER_FIELDS, [], QUESTIONS, answers),
    "choices": ("MultipleChoice", {}, [], {"context": TEXTS, "choices": CHOICES}, choices),
    "masks": ("FillMask", {}, ["--top-k", "3"], {"text": MASKED}, masks),
    "vectors": ("FeatureExtractor", {}, ["--pooling", "cls"], {"text": TEXTS}, vectors),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a model of each kind, its SavedModel, and the SavedModel's outputs."""
    folder = tmp_path_factory.mktemp("export")
    for name, (pipeline, fields, options, *_) in KINDS.items():
        source = folder / f"{name}_model"
        save(source, getattr(pipelines, pipeline).model_class, num_hidden_layers=1, **fields)
        export.main([str(source), str(folder / name), "--format", "savedmodel", *options])
    write(folder / "bert_model" / "config.json", {"architectures": ["BertModel"]})
    write(folder / "feeds.json", {name: feed for name, (*_, feed, _) in KINDS.items()})
    command = [sys.executable, "-c", READER, "feeds.json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def as_text(array):
    return np.vectorize(bytes.decode)(array) if array.dtype == object and array.size else array


def evaluate(graph, **feed):
    """A graph's outputs, without saving it."""
    found = graph(**{name: tf.constant(value) for name, value in feed.items()})
    return {name: as_text(array.numpy()) for name, array in found.items()}


@pytest.mark.parametrize("name", KINDS)
def test_savedmodels_predict_what_pipelines_do(exported, name):
    pipeline, _, options, _, expect = KINDS[name]
    vectors = {"pooling": "cls"} if "cls" in options else {}
    source = exported / f"{name}_model"
    expected = expect(getattr(pipelines, pipeline).from_pretrained(source, **vectors))
    found, empty = (
        {key: as_text(array) for key, array in np.load(path, allow_pickle=True).items()}
        for path in (exported / f"{name}_0.npz", exported / f"{name}_1.npz")
    )
    assert_close(found, expected)
    assert all(len(np.unique(array)) > 1 for array in found.values())
    if name == "tags":
        assert "I-X" in found["tags"] and "S-X" not in found["tags"]
    assert empty.keys() == found.keys()
    longest = name in ("tags", "masks")  # their second axis is that of the longest text
    for key, array in found.items():
        nothing = array[:0, :0] if longest and array.ndim > 1 else array[:0]
        assert empty[key].shape == nothing.shape


def classify(directory, texts, **fields):
    """What the graph and the pipeline of a random classifier predict."""
    save(directory, TextClassifier.model_class, num_hidden_layers=1, **fields)
    classifier = TextClassifier.from_pretrained(directory)
    graph = classifier_graph(classifier, OPTIONS)
    return evaluate(graph, text=texts), classifier.predict(texts)


def test_several_labels_of_more_texts_than_are_computed_at_once(tmp_path):
    texts = TEXTS * 5
    assert len(texts) > ROWS_AT_ONCE
    fields = {"num_labels": 4, "problem_type": "multi_label_classification"}
    found, expected = classify(tmp_path, texts, **fields)
    assert_close(found["probabilities"], expected.probabilities)
    labels = zip(found["labels"].tolist(), found["num_labels"], strict=True)
    assert [row[:count] for row, count in labels] == expected.answers


def test_scores_of_a_model_without_mask_padding(tmp_path):
    """Padding changes its outputs, so all rows have the maximum length."""
    fields = {"num_labels": 1, "problem_type": "regression", "score_range": (0.0, 5.0), "seed": 6}
    found, expected = classify(tmp_path, TEXTS[:5], mask_padding=False, **fields)
    assert_close(found["score"], expected.answers)
    assert len(set(expected.answers)) > 2


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


def test_answers_of_beams(exported):
    fields = NETWORK | {"num_hidden_layers": 1, "initializer_range": 0.2}
    model = models.ConvBertForQuestionAnswering(
        models.ConvBertConfig(**fields), joint_prediction=True, beam_size=5
    )
    tokenizer = ConvBertTokenizer.from_pretrained(exported / "answers_model")
    options = {"doc_stride": 9, "max_query_length": 8, "n_best_size": 6, "max_answer_length": 9}
    answerer = QuestionAnswerer(model, tokenizer, 40, **options)
    questions, contexts = [*OTHERS, "a"], [*TEXTS, "\u200b"]
    found = evaluate(answer_graph(answerer, OPTIONS), question=questions, context=contexts)
    expected = answers(answerer, questions, contexts)
    assert_close(found, expected)
    assert sum(text != "" for text in expected["answer"]) > 5
    assert expected["answer"][-1] == ""
    answerer = QuestionAnswerer(model, tokenizer, 10, max_query_length=8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="no room"):
        evaluate(answer_graph(answerer, OPTIONS), **QUESTIONS)


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
    config = models.ConvBertConfig(**(NETWORK | {"num_hidden_layers": 1, "linear_groups": 2}))
    encoder = models.ConvBertModel(config)
    heads = {
        "label": models.ConvBertForSequenceClassification(config, "mlp", convbert=encoder),
        "tags": models.ConvBertForTokenClassification(config, convbert=encoder),
        "words": models.ConvBertForMaskedLM(config, convbert=encoder),
        "spans": models.ConvBertForQuestionAnswering(config, convbert=encoder),
        "beams": models.ConvBertForQuestionAnswering(config, True, beam_size=4, convbert=encoder),
    }
    return {
        "heads": (JointModel(heads), [(1, 7), (3, 20), (2, 64), (5, 2)]),
        "choices": (models.ConvBertForMultipleChoice(config), [(1, 2, 7), (3, 4, 20)]),
    }


def load_onnx(path):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = {value.name: value.shape for value in session.get_inputs()}
    names = [output.name for output in session.get_outputs()]
    return inputs, names, lambda **batch: dict(zip(names, session.run(None, batch), strict=True))


def load_litert(path):
    run = interpreter.Interpreter(path).get_signature_runner()
    return None, sorted(run.get_output_details()), run


@pytest.mark.parametrize("kind", ("heads", "choices"))
@pytest.mark.parametrize(
    ("write", "load"), [(formats.save_onnx, load_onnx), (formats.save_litert, load_litert)]
)
def test_networks_compute_what_keras_does(networks, kind, write, load, tmp_path):
    model, shapes = networks[kind]
    options = dataclasses.replace(OPTIONS, transformers_inputs=kind == "choices")
    described = write(types.SimpleNamespace(model=model), options, str(tmp_path / "model"))
    inputs, names, run = load(str(tmp_path / "model"))
    axes = ["batch", "choices", "length"] if kind == "choices" else ["batch", "length"]
    theirs = {name: name for name in random_batch((1, 2))}
    if options.transformers_inputs:
        theirs |= {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
    dtype = "int64" if options.transformers_inputs else "int32"
    assert described["inputs"] == {n: {"dtype": dtype, "shape": axes} for n in theirs.values()}
    assert inputs in (None, dict.fromkeys(theirs.values(), axes))
    assert names == list(described["outputs"]) and len(names) == (1 if kind == "choices" else 10)
    for shape in shapes:
        batch = random_batch(shape)
        given = {theirs[name]: array.astype(dtype) for name, array in batch.items()}
        found, expected = run(**given), model(batch, training=False)
        expected = expected if isinstance(expected, dict) else {"logits": expected}
        for name, array in expected.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("kind", ("classes", "answers", "choices"))
def test_inputs_of_unequal_length(exported, kind):
    pipeline, _, _, feed, _ = KINDS[kind]
    loaded = getattr(pipelines, pipeline).from_pretrained(exported / f"{kind}_model")
    graph = formats.GRAPHS[pipeline](loaded, dataclasses.replace(OPTIONS, pairs=True))
    (one, first), (other, second) = ((name, tf.constant(texts)) for name, texts in feed.items())
    for count in (0, 2):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"`{one}` and `{other}`"):
            graph(**{one: first[:count], other: second[:3]})


def test_a_row_that_is_too_long_is_named(exported, tmp_path):
    source = str(exported / "classes_model")
    export.main([source, str(tmp_path / "out"), "--format", "onnx"])
    *_, run = load_onnx(str(tmp_path / "out" / "model.onnx"))
    with pytest.raises(Exception, match="at_most_64_tokens_per_row"):
        run(**random_batch((1, 65)))


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
    with pytest.raises(InputError, match=r"cannot write .*out: disk full"):
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
        ("bert", ["litert"], "BertModel"),
    ],
)
def test_wrong_options(exported, tmp_path, name, options, message):
    source, target = str(exported / f"{name}_model"), str(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        export.main([source, target, "--format", *options])
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_pairs_is_exported_for_pairs(tmp_path):
    fields = {"task_specific_params": {"classification": {"reads_pairs": True}}}
    save(tmp_path / "m", TextClassifier.model_class, num_hidden_layers=1, **fields)
    with pytest.raises(InputError, match=r"m was fine-tuned on pairs .* --pairs"):
        export.main([str(tmp_path / "m"), str(tmp_path / "out"), "--format", "savedmodel"])


def test_missing_packages(exported, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    source = str(exported / "classes_model")
    with pytest.raises(InputError, match=r"onnx and tf2onnx.*requirements\.txt"):
        export.main([source, str(tmp_path / "out"), "--format", "onnx"])
