import pytest

from data.tasks.question_answering.evaluation import (
    evaluate,
    evaluate_with_unanswerable,
    f1,
    normalize,
)

# Right answers, an answer, and what the official scripts say of it: exact match and F1 in percent,
# of SQuAD 1.1 (and MRQA) and of SQuAD 2.0. None: version 1.1 has no such questions.
CASES = [
    (["Denver Broncos", "Broncos"], "the Broncos!", (100.0, 100.0), (100.0, 100.0)),
    (["Denver Broncos"], "Broncos of Denver", (0.0, 80.0), (0.0, 80.0)),
    (["Denver Broncos"], "denver\u00a0broncos", (100.0, 100.0), (100.0, 100.0)),
    (["Denver Broncos"], "Seattle", (0.0, 0.0), (0.0, 0.0)),
    (["a b a b"], "b b b", (0.0, 80.0), (0.0, 80.0)),  # "a" is an article: two of three words
    (["$5.00"], "500", (100.0, 100.0), (100.0, 100.0)),
    (["Beyoncé"], "Beyonce", (0.0, 0.0), (0.0, 0.0)),
    (["BEYONCÉ"], "beyoncé's", (0.0, 0.0), (0.0, 0.0)),
    (["“gold”"], "gold", (0.0, 0.0), (0.0, 0.0)),  # only ASCII punctuation is dropped
    (["a_b"], "ab", (100.0, 100.0), (100.0, 100.0)),
    (["the"], "a", (100.0, 0.0), (100.0, 100.0)),
    (["the"], "Norman", (0.0, 0.0), (0.0, 0.0)),
    (["the", "Rome"], "", (100.0, 0.0), (0.0, 0.0)),
    (["the—x"], "x", (0.0, 0.0), (0.0, 0.0)),  # an article beside a dash becomes a space
    ([], "", None, (100.0, 100.0)),
    ([], "...", None, (100.0, 100.0)),
    ([], "Norman", None, (0.0, 0.0)),
]


@pytest.mark.parametrize(("rights", "answer", "first", "second"), CASES)
def test_single_answers_score_as_in_the_official_scripts(rights, answer, first, second):
    if first is not None:
        found = evaluate({"q": rights}, {"q": answer})
        assert (found["exact_match"], found["f1"]) == pytest.approx(first, abs=1e-12)
    found = evaluate_with_unanswerable({"q": rights}, {"q": answer}, {"q": 0.0}, 1.0)
    assert (found["exact"], found["f1"]) == pytest.approx(second, abs=1e-12)


def test_normalized_answers():
    assert normalize("  The  (A.)\tcat\u2003and an-the THEory ") == "cat and anthe theory"
    assert f1("a b c", "c d") == pytest.approx(0.4)


def test_a_missing_prediction_scores_zero():
    assert evaluate({"a": ["x"], "b": ["y"]}, {"a": "x"}) == {"exact_match": 50.0, "f1": 50.0}


def test_the_breakdown_and_the_best_threshold():
    rights = {"a": ["x"], "b": ["y z"], "c": [], "d": [], "e": ["w"]}
    answers = {"a": "x", "b": "y", "c": "v", "d": "v", "e": "u"}
    odds = {"a": -5.0, "b": -1.0, "c": -2.0, "d": 3.0, "e": 1.0}
    found = evaluate_with_unanswerable(rights, answers, odds, -1.5)
    assert found == pytest.approx(
        {
            "exact": 40.0,  # a is right, b and e are not answered, c is answered, d is not
            "f1": 40.0,
            "HasAns_exact": 100 / 3,
            "HasAns_f1": 100 / 3,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
            "best_exact": 60.0,  # a is answered alone
            "best_exact_thresh": -5.0,
            "best_f1": 60.0,
            "best_f1_thresh": -5.0,
        }
    )


def test_files_with_one_kind_of_questions():
    found = evaluate_with_unanswerable({"a": ["x"]}, {"a": "x"}, {"a": 0.0}, 0.0)
    assert set(found) & {"HasAns_exact", "NoAns_exact"} == {"HasAns_exact"}
    assert (found["exact"], found["best_exact"], found["best_exact_thresh"]) == (100.0, 100.0, 0.0)
    found = evaluate_with_unanswerable({"a": []}, {"a": "x"}, {"a": 1.0}, 0.0)
    assert set(found) & {"HasAns_exact", "NoAns_exact"} == {"NoAns_exact"}
    assert (found["exact"], found["best_exact"]) == (100.0, 100.0)
