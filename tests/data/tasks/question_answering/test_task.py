import dataclasses
import json

import numpy as np
import pytest

from common.errors import InputError
from configure_finetuning import FinetuningConfig
from data.tasks.batching import evaluation_batches
from data.tasks.question_answering.answers import find_answers
from data.tasks.question_answering.files import Question, QuestionExamples
from data.tasks.question_answering.task import TASKS, task_from_fields
from data.tasks.question_answering.windows import make_features
from data.tokenizer.tokenizer import SPECIAL_TOKENS, ConvBertTokenizer

WORDS = ["w" + chr(ord("a") + i) for i in range(26)]
CONTEXT = " ".join(WORDS)  # word i is the characters 3i and 3i + 1


@pytest.fixture(scope="module")
def tokenizer():
    return ConvBertTokenizer([*SPECIAL_TOKENS, *WORDS, "?", "cafe", "##s", "!"])


def options(**changed):
    fields = {"max_seq_length": 14, "doc_stride": 5, "max_query_length": 3, "n_best_size": 4}
    return dataclasses.replace(FinetuningConfig(), **fields | {"max_answer_length": 3} | changed)


def featured(tokenizer, *questions, contexts=(CONTEXT,), training=False, **changed):
    """Examples of these questions, and their features."""
    examples = QuestionExamples("squad.json", "", list(contexts), list(questions))
    return examples, make_features(tokenizer, examples, options(**changed), training)


def spans_of(features):
    """The targets of each row: positions of the first and the last token of the answer."""
    sides = (features.targets[f"{side}_logits"].tolist() for side in ("start", "end"))
    return list(map(list, zip(*sides, strict=True)))


def test_windows_are_the_originals(tokenizer):
    """Windows of 8 tokens, the last of 6; an answer counts in the windows that hold all of it."""
    asked = Question("q", "wa wb wc wd we", 0, span=(6 * 3, 7 * 3 + 2))
    _, features = featured(tokenizer, asked, training=True)
    for row, first in enumerate((0, 5, 10, 15, 20)):
        tokens, length = slice(*features.row_splits[row : row + 2]), min(8, 26 - first)
        ids = [2, 5, 6, 7, 3, *range(5 + first, 5 + first + length), 3]
        assert features.input_ids[tokens].tolist() == ids
        assert features.segment_ids[tokens].tolist() == [0] * 5 + [1] * (length + 1)
    assert spans_of(features) == [[5 + 6, 5 + 7], [5 + 1, 5 + 2], [0, 0], [0, 0], [0, 0]]
    assert features.questions.tolist() == [0] * 5
    assert features.firsts.tolist() == [0, 5, 10, 15, 20]
    assert features.targets["answerable_logits"].tolist() == [0.0] * 5
    assert features.inputs["start_positions"].tolist() == [11, 6, 0, 0, 0]
    ((inputs, targets),), order = evaluation_batches(features, batch_size=8)
    assert inputs["input_ids"].shape == (5, 14)
    assert inputs["start_positions"].tolist() == [[11, 6, 0, 0, 0][row] for row in order]
    assert set(targets) == {"start_logits", "end_logits", "answerable_logits"}


def test_the_target_of_questions_without_an_answer_is_cls(tokenizer):
    asked = [Question("a", "wa", 0), Question("b", "wb", 0, span=(0, 2))]
    _, features = featured(tokenizer, *asked, training=True, max_seq_length=40)
    assert spans_of(features) == [[0, 0], [3, 3]]
    assert features.targets["answerable_logits"].tolist() == [1.0, 0.0]
    _, features = featured(tokenizer, *asked, training=True, joint_prediction=False)
    assert (set(features.targets), features.inputs) == ({"start_logits", "end_logits"}, {})
    _, features = featured(tokenizer, *asked)
    assert features.inputs == {} and features.targets["start_logits"].max() == 0


@pytest.mark.parametrize(
    ("span", "tokens"),
    [
        ((0, 4), [0, 0]),
        ((1, 3), [0, 0]),
        ((0, 6), [0, 1]),
        ((5, 6), [1, 1]),
        ((6, 7), [-3, -3]),  # no token: the target is position 0
        ((6, 8), [2, 2]),
        ((4, 8), [0, 2]),
        ((0, 8), [0, 2]),
    ],
)
def test_answers_are_the_tokens_with_their_characters(tokenizer, span, tokens):
    asked = Question("q", "?", 0, span=span)
    _, features = featured(tokenizer, asked, contexts=["Cafe\u0301s !"], training=True)
    assert spans_of(features) == [[3 + token for token in tokens]]


def test_a_question_that_leaves_no_room_is_an_error(tokenizer):
    asked = Question("q7", "wa wb wc", 0)
    featured(tokenizer, asked, max_seq_length=7)
    with pytest.raises(InputError, match=r'squad\.json, question "q7": .*`max_seq_length`'):
        featured(tokenizer, asked, max_seq_length=6)


def simple_outputs(features, start, end, null=0.0):
    """Start and end logits: low, except for those given by (row, token)."""
    outputs = {}
    for side, logits in (("start", start), ("end", end)):
        outputs[f"{side}_logits"] = np.full(len(features.input_ids), -9.0)
        outputs[f"{side}_logits"][features.row_splits[:-1]] = null / 2
        for (row, token), logit in logits.items():
            outputs[f"{side}_logits"][features.row_splits[row] + token] = logit
    return outputs


def test_the_best_answers_of_the_simple_head(tokenizer):
    asked = Question("q", "wa", 0, ("wc wd",))
    given = featured(tokenizer, asked, joint_prediction=False, max_seq_length=40)
    start, end = {(0, 5): 5.0, (0, 0): 9.0}, {(0, 6): 4.0, (0, 12): 8.0, (0, 1): 9.0}
    (answer,) = find_answers(*given, simple_outputs(given[1], start, end))
    # The best end is too far away, and the question contains no answers.
    assert answer.candidates[0] == ("wc wd", 5.0, 4.0, 6, 11)
    assert len(answer.candidates) == 4
    assert answer.null_odds == (9.0 + 0.0) - (5.0 + 4.0)


def test_the_window_with_the_most_context_counts(tokenizer):
    given = featured(tokenizer, Question("q", "wa wb wc", 0), joint_prediction=False)
    # Word 6 has one word before it in window 1, and one after it in window 0: the first counts.
    # Word 10 has two after it in window 1, and none before it in window 2.
    logits = {(1, 5 + 1): 9.0, (0, 5 + 6): 2.0, (2, 5): 7.0, (1, 5 + 5): 3.0}
    outputs = simple_outputs(given[1], logits, logits, null=4.0)
    outputs["start_logits"][given[1].row_splits[3]] = -1.0  # the lowest score of "no answer"
    (answer,) = find_answers(*given, outputs)
    expected = [(WORDS[10], 3.0, 3.0, 30, 32), (WORDS[6], 2.0, 2.0, 18, 20)]
    assert answer.candidates[:2] == expected
    assert answer.null_odds == (-1.0 + 2.0) - (3.0 + 3.0)


def test_all_spans_are_tried(tokenizer):
    """Against plain loops over windows, starts and ends."""
    rng, asked = np.random.default_rng(5), [Question(f"q{i}", "wa", 0) for i in range(6)]
    examples, features = featured(tokenizer, *asked, joint_prediction=False, n_best_size=7)
    outputs = {name: rng.normal(size=len(features.input_ids)) for name in features.targets}
    counts, firsts = features.counts, features.firsts
    for question, answer in enumerate(find_answers(examples, features, outputs)):
        found = {}
        rows = np.flatnonzero(features.questions == question)
        for token in range(26):
            margins = {
                row: min(token - firsts[row], firsts[row] + counts[row] - 1 - token)
                + 0.01 * counts[row]
                for row in rows
                if 0 <= token - firsts[row] < counts[row]
            }
            row = max(margins, key=margins.get)
            position = features.row_splits[row] + 3 + token - firsts[row]
            for more in range(min(3, firsts[row] + counts[row] - token)):
                score = outputs["start_logits"][position] + outputs["end_logits"][position + more]
                found[" ".join(WORDS[token : token + more + 1])] = score
        expected = sorted(found, key=found.get, reverse=True)[:7]
        assert [candidate.text for candidate in answer.candidates] == expected


def joint_outputs(beams, answerable):
    """Outputs for one row: starts with log probabilities, and their ends with theirs."""
    return {
        "start_indices": np.array([[start for start, _, _ in beams]]),
        "start_log_probs": np.array([[score for _, score, _ in beams]]),
        "end_indices": np.array([[[end for end, _ in ends] for _, _, ends in beams]]),
        "end_log_probs": np.array([[[score for _, score in ends] for _, _, ends in beams]]),
        "answerable_logits": np.array([answerable]),
    }


def test_the_best_answers_of_the_joint_head(tokenizer):
    given = featured(tokenizer, Question("q", "wa", 0), max_seq_length=40)
    beams = [
        (0, -0.1, [(0, -0.1), (3, -0.2)]),  # [CLS]
        (5, -1.0, [(4, -0.1), (7, -3.0)]),  # an end before the start
        (4, -2.0, [(7, -0.1), (5, -1.5)]),  # too long
        (28, -2.5, [(29, -0.1), (28, -2.0)]),  # the last [SEP]
    ]
    (answer,) = find_answers(*given, joint_outputs(beams, answerable=-1.5))
    best, *others = answer.candidates
    assert best == ("wb wc", -2.0, -1.5, 3, 8)
    assert others == [("wc wd we", -1.0, -3.0, 6, 14), ("wz", -2.5, -2.0, 75, 77)]
    assert answer.null_odds == -1.5
    nothing = joint_outputs([(0, -0.1, [(0, -0.1)])], answerable=0.5)
    assert find_answers(*given, nothing)[0].candidates == [("", 0.0, 0.0, 0, 0)]


def test_answers_are_the_contexts_own_characters(tokenizer):
    asked = Question("a", "?", 0), Question("b", "?", 1)
    contexts = ["  A\u00a0Cafe\u0301S\u2003! ", "\u200b"]
    given = featured(tokenizer, *asked, contexts=contexts, joint_prediction=False)
    assert np.diff(given[1].row_splits).tolist() == [8, 4]  # the second context has no tokens
    found = find_answers(*given, simple_outputs(given[1], {(0, 4): 5.0}, {(0, 6): 5.0}))
    assert found[0].candidates[0].text == "Cafe\u0301S\u2003!"
    assert found[1].candidates == [("", 0.0, 0.0, 0, 0)]


def task_and_outputs(tokenizer, unanswerable):
    task = task_from_fields("mine.json", {"unanswerable": unanswerable})
    second = Question("q2", "wb", 0, () if unanswerable else ("wf",))
    asked = Question("q1", "wa", 0, ("wc wd",)), second
    changed = {"joint_prediction": False, "max_seq_length": 40, "qa_na_threshold": -4.0}
    examples, features = featured(tokenizer, *asked, **changed)
    start, end = {(0, 5): 5.0, (1, 5): 1.0}, {(0, 6): 4.0, (1, 5): 1.0}
    return task, examples, features, simple_outputs(features, start, end)


def test_scores(tokenizer):
    task, *rest = task_and_outputs(tokenizer, unanswerable=False)
    assert task.score(*rest) == {"exact_match": 50.0, "f1": 50.0}
    task, *rest = task_and_outputs(tokenizer, unanswerable=True)
    scores = task.score(*rest)  # the odds are -9 and -2
    assert (scores["exact"], scores["HasAns_f1"], scores["NoAns_f1"]) == (100.0, 100.0, 100.0)
    assert (scores["best_exact"], scores["best_exact_thresh"]) == (100.0, -9.0)
    assert set(task.metrics) <= set(scores)


@pytest.mark.parametrize("unanswerable", [False, True])
def test_prediction_files(tokenizer, tmp_path, unanswerable):
    task, *rest = task_and_outputs(tokenizer, unanswerable)
    task.write_predictions(*rest, str(tmp_path / "mine_test_1.tsv"))
    second = "" if unanswerable else "wc"
    written = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    table = written.pop("mine_test_1.tsv")
    assert table == f"index\tid\tprediction\n0\tq1\twc wd\n1\tq2\t{second}\n"
    content = {name: json.loads(text) for name, text in written.items()}
    assert content.pop("mine_test_1_predictions.json") == {"q1": "wc wd", "q2": second}
    best = content.pop("mine_test_1_nbest.json")["q2"]
    assert best[0]["text"] == "wc" and best[0]["start_score"] == 1.0
    assert sum(candidate["probability"] for candidate in best) == pytest.approx(1, abs=1e-5)
    odds = {"mine_test_1_null_odds.json": {"q1": -9.0, "q2": -2.0}}
    assert content == (odds if unanswerable else {})


def test_tasks():
    assert list(TASKS) == ["squadv1", "squad", "newsqa", "naturalqs", "triviaqa", "searchqa"]
    endings = (".json", ".jsonl", ".jsonl.gz")
    assert TASKS["newsqa"].paths("D", "dev") == [f"D/newsqa/dev{ending}" for ending in endings]
    assert [task.name for task in TASKS.values() if task.unanswerable] == ["squad"]
    assert TASKS["squad"].test_splits == ("test",) and TASKS["squadv1"].test_splits == ()
    changed = {"beam_size": 7, "answerable_weight": 0.25}
    assert TASKS["squad"].model_options(options(**changed)) == changed | {"joint_prediction": True}
