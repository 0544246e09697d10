import numpy as np
import pytest

from common.errors import InputError
from data.tasks.batching import (
    Features,
    epoch_order,
    evaluation_batches,
    gather_outputs,
    join_features,
    make_features,
    padded_length,
    training_batches,
)
from data.tasks.examples import IGNORED, TextExamples
from data.tokenizer.tokenizer import ConvBertTokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "##x"]
CLS, SEP, A, B, C, D = 2, 3, 5, 6, 7, 8


@pytest.fixture(scope="module")
def tokenizer():
    return ConvBertTokenizer(VOCAB)


def examples(texts, pairs=None, labels=None):
    return TextExamples("made-up.tsv", "", list(texts), pairs and list(pairs), labels)


def numbered(tokenizer, count, longest=40):
    """Examples 0 … count-1 of many lengths, whose label is their number."""
    texts = ["a " * (1 + (7 * i) % longest) for i in range(count)]
    return make_features(tokenizer, examples(texts, labels=np.arange(count, dtype=np.int32)), 128)


def rows(batch):
    """The unpadded rows of a batch as (ids, segments)."""
    names = ("input_ids", "segment_ids", "input_mask")
    columns = (np.asarray(batch[0][name]) for name in names)
    return [
        (ids[mask == 1].tolist(), segments[mask == 1].tolist())
        for ids, segments, mask in zip(*columns, strict=True)
    ]


def test_single_texts(tokenizer):
    features = make_features(tokenizer, examples(["A b", "c " * 9]), 6)
    (batch,), order = evaluation_batches(features, 2)
    assert order.tolist() == [0, 1]
    assert rows(batch) == [([CLS, A, B, SEP], [0] * 4), ([CLS, C, C, C, C, SEP], [0] * 6)]
    assert batch[0]["input_ids"].shape == (2, 6)  # never longer than the model may take


def test_targets(tokenizer):
    classes = make_features(tokenizer, examples("ab", labels=np.array([1, 0], np.int32)), 8)
    np.testing.assert_array_equal(classes.targets, [1, 0])
    rated = TextExamples("", "", ["a", "b"], None, np.array([5, 3.8], np.float32), (0.0, 5.0))
    scores = make_features(tokenizer, rated, 8)
    np.testing.assert_allclose(scores.targets, [[1.0], [0.76]], rtol=1e-6)
    assert scores.targets.dtype == np.float32
    several = np.array([[0, 1, 1], [0, 0, 0]], np.int32)
    targets = make_features(tokenizer, examples("ab", labels=several), 8).targets
    np.testing.assert_array_equal(targets, several)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(make_features(tokenizer, examples("ab"), 8).targets, [0, 0])


@pytest.mark.parametrize("batch_size", [1, 8, 10, 31, 64])
def test_evaluation_has_every_example_once(tokenizer, batch_size):
    features = numbered(tokenizer, 31)
    batches, order = evaluation_batches(features, batch_size)
    seen = np.concatenate([targets for _, targets in batches])
    assert sorted(seen.tolist()) == list(range(31))
    np.testing.assert_array_equal(seen, order)
    assert len(batches) == -(-31 // batch_size)


def test_batches_are_as_long_as_their_longest_example_needs(tokenizer):
    features = numbered(tokenizer, 40)
    for inputs, targets in evaluation_batches(features, 4)[0]:
        longest = features.lengths[targets].max()
        assert longest <= inputs["input_ids"].shape[1] <= longest * 9 / 8
    for inputs, _ in evaluation_batches(features, 4, pad_to_max=True)[0]:
        assert inputs["input_ids"].shape == (4, 128)


def test_padded_lengths():
    lengths = range(1, 129)
    for most, expected in ((128, {32, 64, 128}), (40, {16, 32, 40})):
        assert {padded_length(n, most, few=True) for n in range(1, most + 1)} == expected
    more = [padded_length(length, 128, few=False) for length in lengths]
    assert more[:17] == [*range(1, 17), 18] and more[24] == 26 and more[127] == 128
    assert len(set(more)) == 8 + 8 * 4
    padding = [1 - length / padded for length, padded in zip(lengths, more, strict=True)]
    assert min(padding) == 0 and max(padding) < 1 / 9


def test_padding_is_zero_and_masked(tokenizer):
    inputs, _ = next(iter(evaluation_batches(numbered(tokenizer, 3), 3)[0]))
    padding = np.asarray(inputs["input_mask"]) == 0
    assert padding.any()
    for value in inputs.values():
        assert not np.asarray(value)[padding].any()


@pytest.mark.parametrize("epochs", [1, 3])
def test_training_has_every_example_once_an_epoch(tokenizer, epochs):
    features = numbered(tokenizer, 23)
    batches = training_batches(features, 8, epochs, seed=3)
    sizes = [len(targets) for _, targets in batches]
    assert sizes == [8] * (23 * epochs // 8) + [23 * epochs % 8]
    assert len(sizes) == len(batches) == int(batches.dataset().cardinality())
    seen = np.concatenate([np.asarray(targets) for _, targets in batches])
    for epoch in range(epochs):
        passed = seen[23 * epoch : 23 * (epoch + 1)]
        assert sorted(passed.tolist()) == list(range(23))
    drawn = [epoch_order(23, 3, epoch) for epoch in range(epochs)]
    fixed = training_batches(features, 8, epochs, seed=3, pad_to_max=True)
    seen = np.concatenate([np.asarray(targets) for _, targets in fixed])
    np.testing.assert_array_equal(seen, np.concatenate(drawn))


def test_training_batches_are_of_like_length_in_random_order(tokenizer):
    features = numbered(tokenizer, 400)
    batches = [np.asarray(targets) for _, targets in training_batches(features, 8, 2, seed=3)]
    assert [len(batch) for batch in batches] == [8] * 100
    lengths = [features.lengths[batch] for batch in batches]
    assert max(np.ptp(each) for each in lengths) <= 1  # ten examples of each length
    means = np.array([each.mean() for each in lengths])
    assert abs(np.corrcoef(means[:50], np.arange(50))[0, 1]) < 0.4
    assert (means[:50] != means[50:]).any()
    again = [np.asarray(targets) for _, targets in training_batches(features, 8, 2, seed=3)]
    np.testing.assert_array_equal(again, batches)


def test_an_epoch_smaller_than_a_batch(tokenizer):
    batches = training_batches(numbered(tokenizer, 3), 8, 5, seed=0)
    seen = [np.asarray(targets).tolist() for _, targets in batches]
    assert [len(batch) for batch in seen] == [8, 7]
    stream = [*seen[0], *seen[1]]
    assert [sorted(stream[i : i + 3]) for i in range(0, 15, 3)] == [[0, 1, 2]] * 5


def test_training_rows_belong_to_their_targets(tokenizer):
    features = numbered(tokenizer, 23)
    for batch in training_batches(features, 8, 1, seed=0):
        for (ids, _), target in zip(rows(batch), np.asarray(batch[1]), strict=True):
            assert len(ids) == 3 + (7 * target) % 40


def test_order_is_a_function_of_seed_and_epoch():
    first = epoch_order(100, 1, 0)
    np.testing.assert_array_equal(first, epoch_order(100, 1, 0))
    assert (first != epoch_order(100, 1, 1)).any()
    assert (first != epoch_order(100, 2, 0)).any()
    assert (epoch_order(100, 0, 1) != epoch_order(100, 1, 0)).any()


def test_fractions_of_an_epoch(tokenizer):
    features = numbered(tokenizer, 20)
    for epochs, sizes in ((0.001, [1]), (0.5, [8, 2]), (1.25, [8, 8, 8, 1])):
        batches = training_batches(features, 8, epochs, seed=0)
        assert [len(targets) for _, targets in batches] == sizes


def made_up(lengths, targets, **fields):
    """Rows of the given lengths, whose tokens are numbered from 1 on."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(1, starts[-1] + 1, dtype=np.int32)
    return Features(ids, ids % 2, starts, targets, 16, **fields)


def test_targets_of_tokens_are_padded_as_ignored():
    features = made_up([2, 3], {"tags": np.arange(5, dtype=np.int32)})
    ((inputs, targets),) = training_batches(features, 2, 1, seed=0)
    order = np.argsort(inputs["input_mask"].sum(axis=1))
    expected = [[0, 1, IGNORED], [2, 3, 4]]
    assert targets["tags"][order].tolist() == expected
    assert inputs["input_ids"][order].tolist() == [[1, 2, 0], [3, 4, 5]]


def test_examples_of_several_rows():
    targets = np.array([1, 0], np.int32)
    features = made_up([2, 3, 4, 2], targets, rows_per_example=2)
    assert len(features) == 2 and features.lengths.tolist() == [3, 4]
    batches, order = evaluation_batches(features, 2)
    ((inputs, found),) = batches
    assert order.tolist() == [0, 1] and found.tolist() == [1, 0]
    rows = [[[1, 2, 0, 0], [3, 4, 5, 0]], [[6, 7, 8, 9], [10, 11, 0, 0]]]
    assert inputs["input_ids"].tolist() == rows
    assert inputs["input_mask"].sum(axis=2).tolist() == [[2, 3], [4, 2]]


@pytest.mark.parametrize("options", [{}, {"pad_to_max": True}, {"few_shapes": True}])
def test_outputs_are_gathered_in_the_examples_order(options):
    features = made_up([4, 2, 3, 6, 2], np.zeros(5, np.int32))

    def predict(inputs):
        return {"first": inputs["input_ids"][:, 0], "twice": 2.0 * inputs["input_ids"]}

    def num_tokens(inputs):
        return inputs["input_mask"].sum(axis=1)

    outputs = gather_outputs(features, predict, ("twice",), 2, **options)
    assert outputs["first"].tolist() == [1, 5, 7, 10, 16]
    assert outputs["twice"].tolist() == [2.0 * i for i in range(1, 18)]
    for num_threads in (1, 3):
        one = gather_outputs(features, num_tokens, (), 1, num_threads=num_threads)
        assert one.tolist() == [4, 2, 3, 6, 2]


def test_joined_examples_count_for_their_own_task():
    tags = np.array([7, 8, 9, 6, 5], np.int32)
    parts = {
        "a": made_up([2, 3], np.array([1, 2], np.int32)),
        "b": made_up([3, 2], tags),
        "c": made_up([4], {"x": np.array([[0.5]], np.float32)}, inputs={"at": np.array([3])}),
    }
    joined = join_features(parts)
    assert joined.lengths.tolist() == [2, 3, 3, 2, 4]
    assert joined.input_ids.tolist() == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert joined.targets["a"].tolist() == [1, 2, 0, 0, 0]
    assert joined.targets["b"].tolist() == [IGNORED] * 5 + tags.tolist() + [IGNORED] * 4
    assert joined.targets["c.x"].tolist() == [[0], [0], [0], [0], [0.5]]
    assert joined.inputs["at"].tolist() == [0, 0, 0, 0, 3]
    weights = {name: weights.tolist() for name, weights in joined.weights.items()}
    assert weights == {"a": [1, 1, 0, 0, 0], "b": [0, 0, 1, 1, 0], "c.x": [0, 0, 0, 0, 1]}
    ((_, targets, weights),) = evaluation_batches(joined, 5)[0]
    assert targets["b"].shape[0] == weights["b"].shape[0] == 5
    batches, order = evaluation_batches(joined, 3, few_shapes=True)
    found = [(inputs["input_ids"].shape, weights["b"].tolist()) for inputs, _, weights in batches]
    is_own = [float(example in (2, 3)) for example in order]
    assert found == [((3, 16), is_own[:3]), ((3, 16), [*is_own[3:], 0.0])]
    with pytest.raises(InputError, match=r"task m .*several rows"):
        join_features({"m": made_up([2, 2], np.zeros(1, np.int32), rows_per_example=2)})
