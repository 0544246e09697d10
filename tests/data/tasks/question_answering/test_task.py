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
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join([*SPECIAL_TOKENS, *WORDS, "?", "cafe", "##s", "!"]) + "\n")
    return ConvBertTokenizer(path)


def options(**changed):
    fields = {"max_seq_length": 14, "doc_stride": 5, "max_query_length": 3, "n_best_size": 4}
    return dataclasses.replace(FinetuningConfig(), **fields | {"max_answer_length": 3} | changed)


def examples(*questions, contexts=(CONTEXT,)):
    return QuestionExamples("squad.json", "", list(contexts), list(questions))


def windows_of(features):
    """Per row: the question, its tokens, its segments, its targets."""
    rows = []
    for row, question in enumerate(features.questions):
        tokens = slice(*features.row_splits[row : row + 2])
        aim = [int(features.targets[f"{side}_logits"][row]) for side in ("start", "end")]
        ids, segments = features.input_ids[tokens].tolist(), features.segment_ids[tokens].tolist()
        rows.append((int(question), ids, segments, aim))
    return rows


def test_windows_are_the_originals(tokenizer):
    """Windows of 8 tokens, the last of 6; an answer counts in the windows that hold all of it."""
    asked = Question("q", "wa wb wc wd we", 0, span=(6 * 3, 7 * 3 + 2))
    features = make_features(tokenizer, examples(asked), options(), training=True)
    rows = windows_of(features)
    firsts = [5 + first for first in (0, 5, 10, 15, 20)]
    aims = [[5 + 6, 5 + 7], [5 + 1, 5 + 2], [0, 0], [0, 0], [0, 0]]
    for (question, ids, segments, aim), first, wanted in zip(rows, firsts, aims, strict=True):
        length = min(8, 5 + 26 - first)
        assert ids == [2, 5, 6, 7, 3, *range(first, first + length), 3]
        assert (question, segments, aim) == (0, [0] * 5 + [1] * (length + 1), wanted)
    assert features.firsts.tolist() == [0, 5, 10, 15, 20]
    assert features.targets["answerable_logits"].tolist() == [0.0] * 5
    assert features.inputs["start_positions"].tolist() == [11, 6, 0, 0, 0]


def test_questions_without_an_answer_aim_at_cls(tokenizer):
    asked = [Question("a", "wa", 0), Question("b", "wb", 0, span=(0, 2))]
    features = make_features(tokenizer, examples(*asked), options(max_seq_length=40), True)
    assert [aim for *_, aim in windows_of(features)] == [[0, 0], [3, 3]]
    assert features.targets["answerable_logits"].tolist() == [1.0, 0.0]
    simple = options(joint_prediction=False)
    features = make_features(tokenizer, examples(*asked), simple, True)
    assert (set(features.targets), features.inputs) == ({"start_logits", "end_logits"}, {})
    features = make_features(tokenizer, examples(*asked), options(), training=False)
    assert features.inputs == {} and features.targets["start_logits"].max() == 0


@pytest.mark.parametrize(
    ("span", "pieces"),
    [((0, 4), (0, 0)), ((1, 3), (0, 0)), ((0, 6), (0, 1)), ((5, 6), (1, 1)), ((6, 7), None),
     ((6, 8), (2, 2)), ((4, 8), (0, 2)), ((0, 8), (0, 2))],
)  # fmt: skip
def test_answers_are_the_pieces_with_their_characters(tokenizer, span, pieces):
    asked, context = Question("q", "?", 0, span=span), "Cafe\u0301s !"
    features = make_features(tokenizer, examples(asked, contexts=[context]), options(), True)
    wanted = [0, 0] if pieces is None else [3 + piece for piece in pieces]
    assert [aim for *_, aim in windows_of(features)] == [wanted]


def test_a_question_that_leaves_no_room_is_an_error(tokenizer):
    asked = Question("q7", "wa wb wc", 0)
    make_features(tokenizer, examples(asked), options(max_seq_length=7), False)
    with pytest.raises(InputError, match=r'squad.json, question "q7": its 3 tokens leave no room'):
        make_features(tokenizer, examples(asked), options(max_seq_length=6), False)


def simple_outputs(features, best, null=0.0):
    """Start and end logits, low but for those of `best`: (row, token, start or end, logit)."""
    outputs = {name: np.full(len(features.input_ids), -9.0) for name in features.targets}
    for array in outputs.values():
        array[features.row_splits[:-1]] = null / 2
    for row, token, side, logit in best:
        outputs[f"{side}_logits"][features.row_splits[row] + token] = logit
    return outputs


def test_the_best_answers_of_the_simple_head(tokenizer):
    asked = Question("q", "wa", 0, ("wc wd",))
    changed = options(joint_prediction=False, max_seq_length=40)
    features = make_features(tokenizer, examples(asked), changed, False)
    best = [(0, 3 + 2, "start", 5.0), (0, 3 + 3, "end", 4.0), (0, 3 + 9, "end", 8.0),
            (0, 0, "start", 9.0), (0, 1, "end", 9.0)]  # fmt: skip
    (answer,) = find_answers(examples(asked), features, simple_outputs(features, best))
    # To the best end it is too far, and there is no answer in the question.
    assert answer.candidates[0] == ("wc wd", 5.0, 4.0, 6, 11)
    assert len(answer.candidates) == 4
    assert answer.null_odds == (9.0 + 0.0) - (5.0 + 4.0)


def test_of_windows_the_one_with_most_context_counts(tokenizer):
    asked = Question("q", "wa wb wc", 0)
    features = make_features(tokenizer, examples(asked), options(joint_prediction=False), False)
    # Word 6 has one word before it in window 1, and one after it in window 0: the first counts.
    # Word 10 has two after it in window 1, and none before it in window 2.
    best = [(1, 5 + 1, "start", 9.0), (1, 5 + 1, "end", 9.0), (0, 5 + 6, "start", 2.0),
            (0, 5 + 6, "end", 2.0), (2, 5, "start", 7.0), (2, 5, "end", 7.0),
            (1, 5 + 5, "start", 3.0), (1, 5 + 5, "end", 3.0)]  # fmt: skip
    outputs = simple_outputs(features, best, null=4.0)
    outputs["start_logits"][features.row_splits[3]] = -1.0  # no answer is least likely in window 3
    (answer,) = find_answers(examples(asked), features, outputs)
    assert answer.candidates[:2] == [
        (WORDS[10], 3.0, 3.0, 30, 32), (WORDS[6], 2.0, 2.0, 18, 20),
    ]  # fmt: skip
    assert answer.null_odds == (-1.0 + 2.0) - (3.0 + 3.0)


def test_all_ranges_are_tried(tokenizer):
    """Against plain loops over windows, starts and ends."""
    rng, asked = np.random.default_rng(5), [Question(f"q{i}", "wa", 0) for i in range(6)]
    changed = options(joint_prediction=False, n_best_size=7)
    features = make_features(tokenizer, examples(*asked), changed, False)
    outputs = {name: rng.normal(size=len(features.input_ids)) for name in features.targets}
    counts = features.counts
    for question, answer in enumerate(find_answers(examples(*asked), features, outputs)):
        found = {}
        rows = np.flatnonzero(features.questions == question)
        for piece in range(26):
            inside = [r for r in rows if 0 <= piece - features.firsts[r] < counts[r]]
            first, count = features.firsts, counts
            margin = {
                r: min(piece - first[r], first[r] + count[r] - 1 - piece) + 0.01 * count[r]
                for r in inside
            }
            row = max(inside, key=margin.get)
            place = features.row_splits[row] + 3 + piece - first[row]
            for more in range(min(3, first[row] + count[row] - piece)):
                score = outputs["start_logits"][place] + outputs["end_logits"][place + more]
                found[" ".join(WORDS[piece : piece + more + 1])] = score
        wanted = sorted(found, key=found.get, reverse=True)[:7]
        assert [candidate.text for candidate in answer.candidates] == wanted


def joint_outputs(beams, answerable):
    """Of one row: starts with their log probability and their ends with theirs."""
    return {
        "start_indices": np.array([[start for start, _, _ in beams]]),
        "start_log_probs": np.array([[score for _, score, _ in beams]]),
        "end_indices": np.array([[[end for end, _ in ends] for _, _, ends in beams]]),
        "end_log_probs": np.array([[[score for _, score in ends] for _, _, ends in beams]]),
        "answerable_logits": np.array([answerable]),
    }


def test_the_best_answers_of_the_joint_head(tokenizer):
    asked = Question("q", "wa", 0)
    features = make_features(tokenizer, examples(asked), options(max_seq_length=40), False)
    outputs = joint_outputs(
        [
            (0, -0.1, [(0, -0.1), (3, -0.2)]),  # [CLS]
            (5, -1.0, [(4, -0.1), (7, -3.0)]),  # an end before the start
            (4, -2.0, [(7, -0.1), (5, -1.5)]),  # too long
            (28, -2.5, [(29, -0.1), (28, -2.0)]),  # the last [SEP]
        ],
        answerable=-1.5,
    )
    (answer,) = find_answers(examples(asked), features, outputs)
    texts = [("wb wc", -2.0, -1.5, 3, 8), ("wc wd we", -1.0, -3.0, 6, 14),
             ("wz", -2.5, -2.0, 75, 77)]  # fmt: skip
    assert answer.candidates == texts
    assert answer.null_odds == -1.5
    nothing = joint_outputs([(0, -0.1, [(0, -0.1)])], answerable=0.5)
    (answer,) = find_answers(examples(asked), features, nothing)
    assert answer.candidates == [("", 0.0, 0.0, 0, 0)]


def test_answers_are_the_contexts_own_characters(tokenizer):
    context, asked = "  A\u00a0Cafe\u0301S\u2003! ", [Question("a", "?", 0), Question("b", "?", 1)]
    given = examples(*asked, contexts=[context, "\u200b"])
    features = make_features(tokenizer, given, options(joint_prediction=False), False)
    assert np.diff(features.row_splits).tolist() == [8, 4]  # the second context has no tokens
    best = [(0, 4, "start", 5.0), (0, 6, "end", 5.0)]
    found = find_answers(given, features, simple_outputs(features, best))
    assert found[0].candidates[0].text == "Cafe\u0301S\u2003!"
    assert found[1].candidates == [("", 0.0, 0.0, 0, 0)]


def task_and_outputs(tokenizer, unanswerable):
    task = task_from_fields("mine.json", {"unanswerable": unanswerable})
    asked = [Question("q1", "wa", 0, ("wc wd",)), Question("q2", "wb", 0, ("wf",))]
    if unanswerable:
        asked[1] = dataclasses.replace(asked[1], answers=())
    given = examples(*asked)
    changed = options(joint_prediction=False, max_seq_length=40, qa_na_threshold=-4.0)
    features = task.make_features(tokenizer, given, changed, False)
    best = [(0, 5, "start", 5.0), (0, 6, "end", 4.0), (1, 5, "start", 1.0), (1, 5, "end", 1.0)]
    return task, given, features, simple_outputs(features, best, null=0.0)


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
    mine = task_from_fields(
        "D/mine.json", {"unanswerable": True, "files": {"train": "t.json", "blind": "b.json"}}
    )
    assert (mine.test_splits, mine.metrics) == (("blind",), ("exact", "f1"))
    assert mine.paths("D", "blind")[0].endswith("D/b.json")
    assert mine.paths("D", "dev")[0] == "D/mine/dev.json"
    changed = options(beam_size=7, answerable_weight=0.25)
    wanted = {"joint_prediction": True, "beam_size": 7, "answerable_weight": 0.25}
    assert mine.model_options(changed) == wanted


def test_batches_have_what_the_joint_head_needs(tokenizer):
    asked = Question("q", "wa wb wc", 0, span=(6 * 3, 7 * 3 + 2))
    features = make_features(tokenizer, examples(asked), options(), training=True)
    batches, order = evaluation_batches(features, batch_size=8)
    ((inputs, targets),) = batches
    assert inputs["input_ids"].shape == (5, 14)
    assert inputs["start_positions"].tolist() == [[11, 6, 0, 0, 0][row] for row in order]
    assert set(targets) == {"start_logits", "end_logits", "answerable_logits"}
