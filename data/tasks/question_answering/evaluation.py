"""Exact match and F1 of answers, bit for bit as the official scripts compute them.

They are SQuAD's evaluate-v1.1.py and evaluate-v2.0.py, and MRQA 2019's mrqa_official_eval.py.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

Answers = Mapping[str, Sequence[str]]


def normalize(answer: str) -> str:
    """An answer in lower case without ASCII punctuation, English articles and extra spaces."""
    words = _ARTICLES.sub(" ", answer.lower().translate(_WITHOUT_PUNCTUATION))
    return " ".join(words.split())


def f1(right: str, answer: str) -> float:
    """The F1 of the words of a normalized answer; 1 if neither it nor the right one has words."""
    right_words, words = right.split(), answer.split()
    if not right_words or not words:
        return float(right_words == words)
    common = sum((Counter(right_words) & Counter(words)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(right_words)
    return 2 * precision * recall / (precision + recall)


def evaluate(right_answers: Answers, predictions: Mapping[str, str]) -> dict[str, float]:
    """`exact_match` and `f1` in percent, as in SQuAD 1.1 and MRQA.

    A question without a prediction scores 0.
    """
    exact, overlap = [], []
    for question, rights in right_answers.items():
        if question in predictions:
            answer = normalize(predictions[question])
            normal = [normalize(right) for right in rights]
            exact.append(answer in normal)
            # Unlike SQuAD 2.0's, these scripts give two answers without words an F1 of 0.
            overlap.append(max(f1(right, answer) if right else 0.0 for right in normal))
    total = len(right_answers)
    return {"exact_match": 100.0 * sum(exact) / total, "f1": 100.0 * sum(overlap) / total}


def evaluate_with_unanswerable(
    right_answers: Answers,
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
    threshold: float,
) -> dict[str, float]:
    """The scores of SQuAD 2.0, in percent, with the official script's names.

    Args:
        right_answers: by question; empty if it has no answer.
        predictions: by question, its answer if it has one.
        null_odds: by question; the higher, the less likely it has an answer.
        threshold: the answer to a question with higher odds is "".

    Returns:
        `exact` and `f1`; the same with the prefix `HasAns_` or `NoAns_` for questions with or
        without an answer; and `best_exact` and `best_f1`, the scores at the best thresholds, which
        are `best_exact_thresh` and `best_f1_thresh`.
    """
    raw = {"exact": {}, "f1": {}}
    for question, rights in right_answers.items():
        answer = normalize(predictions[question])
        normal = [words for right in rights if (words := normalize(right))] or [""]
        raw["exact"][question] = float(answer in normal)
        raw["f1"][question] = max(f1(right, answer) for right in normal)
    has_answer = {question: bool(rights) for question, rights in right_answers.items()}
    scores = {}
    for prefix, kinds in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
        questions = [question for question, kind in has_answer.items() if kind in kinds]
        for name, values in raw.items() if questions else ():
            total = sum(
                float(not has_answer[q]) if null_odds[q] > threshold else values[q]
                for q in questions
            )
            scores[prefix + name] = 100.0 * total / len(questions)
    for name, values in raw.items():
        best, at = _best_threshold(values, predictions, null_odds, has_answer)
        scores[f"best_{name}"], scores[f"best_{name}_thresh"] = best, at
    return scores


def _best_threshold(values, predictions, null_odds, has_answer):
    """The best score in percent of any threshold on the odds, and that threshold."""
    # Start with no question answered, and answer one more at a time.
    score = best = sum(not kind for kind in has_answer.values())
    threshold = 0.0
    for question in sorted(null_odds, key=null_odds.get):
        if has_answer[question]:
            score += values[question]
        elif predictions[question]:
            score -= 1
        if score > best:
            best, threshold = score, null_odds[question]
    return 100.0 * best / len(values), threshold
