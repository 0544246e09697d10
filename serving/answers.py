"""The graph of a question answerer: questions and contexts in; answers and their positions out.

`data.tasks.question_answering` computes answers one by one with NumPy; this graph computes the same
for all questions at once. Axes: Q questions; R rows, which are the windows in the order of their
questions; L tokens of the longest window; C candidates, which are possible answers in the order of
their rows.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from pipelines import QuestionAnswerer
from serving.rows import Network, cut, function_of, same_length

EXCLUDED = -float("inf")  # the score of anything that cannot be an answer


class Windows(NamedTuple):
    """The windows of all contexts, int64 [R] each."""

    question: tf.Tensor  # the question's number
    first: tf.Tensor  # the first token of the window, in its context
    count: tf.Tensor  # the number of the window's tokens
    offset: tf.Tensor  # the position of the first token in its row
    base: tf.Tensor  # the number of the context's first token among those of all contexts


def answer_graph(answerer: QuestionAnswerer, _: Any) -> Any:
    """`question` and `context`, strings [B] → the answers of `QuestionAnswerer`.

    Outputs, [B] each: `answer`; `start` and `end`, int32, its characters in the context; its
    `probability` among the best; `null_odds`. Without an answer, the first four are "", -1, -1
    and 0.
    """
    network, tokenizer, options = Network(answerer), answerer.tokenizer, answerer.options

    @function_of(question=[None], context=[None])
    def answer(question, context):
        # Counting characters needs valid UTF-8.
        with same_length(question=question, context=context):
            context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8", errors="ignore")
        longest = tf.fill(tf.shape(question), tf.constant(options.max_query_length, tf.int64))
        queries = cut(tokenizer.tokenize(question), longest)
        tokens, starts, ends = tokenizer.tokenize_with_ragged_offsets(context)
        windows = make_windows(queries.row_lengths(), tokens, options)
        begins = windows.base + windows.first
        inside = tf.ragged.range(begins, begins + windows.count)
        inside = inside.with_values(tf.gather(tokens.flat_values, inside.flat_values))
        rows = network.rows_of_tokens(tf.gather(queries, windows.question), inside)
        outputs = network(rows)
        is_own = own_tokens(windows, tf.size(tokens.flat_values, tf.int64))
        is_joint = "start_log_probs" in outputs
        search = search_beams if is_joint else search_all
        *candidates, null_scores = search(windows, outputs, is_own, options)
        characters = starts.flat_values, ends.flat_values
        best = best_texts(candidates, windows, characters, context, options.n_best_size)
        null_odds = tf.math.segment_min(null_scores, windows.question)
        score = best.pop("score")
        null_odds -= 0.0 if is_joint else score
        has_answer = best["answer"] != ""
        if answerer.task.unanswerable:
            has_answer &= null_odds <= options.qa_na_threshold
        missing = {"answer": "", "start": -1, "end": -1, "probability": 0.0}
        best = {name: tf.where(has_answer, best[name], missing[name]) for name in missing}
        return best | {"null_odds": null_odds}

    return answer


def make_windows(query_lengths: tf.Tensor, tokens: tf.RaggedTensor, options: Any) -> Windows:
    """The same windows as `windows.make_features`; a question that leaves no room is an error."""
    room = options.max_seq_length - query_lengths - 3
    message = "a question leaves no room for its context"
    with tf.control_dependencies([tf.debugging.assert_positive(room, message)]):
        room = tf.identity(room)
    step = tf.minimum(room, options.doc_stride)
    counts = tokens.row_lengths()
    more = tf.maximum(counts - room, 0)
    number = tf.ragged.range(1 + (more + step - 1) // step)  # of each window, in its context
    question = number.value_rowids()
    first = number.flat_values * tf.gather(step, question)
    count = tf.minimum(tf.gather(counts, question) - first, tf.gather(room, question))
    offset = tf.gather(query_lengths, question) + 2
    return Windows(question, first, count, offset, tf.gather(tokens.row_starts(), question))


def own_tokens(windows: Windows, num_tokens: tf.Tensor) -> tf.Tensor:
    """Whether each token of a window has its most context in that window: bool [R, L].

    See `data.tasks.question_answering.answers._owners`.
    """
    positions = tf.range(tf.maximum(tf.reduce_max(windows.count), 1))  # [L]
    count = windows.count[:, None]
    is_token = positions < count
    margins = tf.cast(tf.minimum(positions, count - 1 - positions), tf.float64)
    margins += 0.01 * tf.cast(count, tf.float64)
    token = windows.base[:, None] + windows.first[:, None] + positions
    row = tf.broadcast_to(tf.range(tf.size(count))[:, None], tf.shape(token))
    token, row, margins = (tf.boolean_mask(array, is_token) for array in (token, row, margins))
    widest = tf.math.unsorted_segment_max(margins, token, num_tokens)
    is_widest = margins == tf.gather(widest, token)
    owner = tf.math.unsorted_segment_min(
        tf.boolean_mask(row, is_widest), tf.boolean_mask(token, is_widest), num_tokens
    )
    is_owner = row == tf.gather(owner, token)
    return tf.scatter_nd(tf.where(is_token), is_owner, tf.shape(is_token, tf.int64))


def search_all(windows: Windows, outputs: dict, is_own: tf.Tensor, options: Any):
    """The best answers in each window by Hugging Face's head, as in `answers._search_all`.

    Returns:
        The candidates' rows, and their first and last tokens there, int64 [C]; the scores of these
        tokens, float32 [C]; and each window's score for "no answer", float32 [R].
    """
    longest, number = options.max_answer_length, options.n_best_size
    width = tf.shape(is_own)[1]
    positions = tf.range(tf.cast(width, tf.int64))
    last_position = tf.shape(outputs["start_logits"], tf.int64)[1] - 1
    in_row = tf.minimum(windows.offset[:, None] + positions, last_position)
    start, end = (
        tf.gather(outputs[name], in_row, batch_dims=1) for name in ("start_logits", "end_logits")
    )
    own_start = tf.where(is_own, start, EXCLUDED)
    end = tf.where(positions < windows.count[:, None], end, EXCLUDED)
    padded = tf.pad(end, [[0, 0], [0, longest]], constant_values=EXCLUDED)
    lasts = tf.range(width)[:, None] + tf.range(longest)
    scores = own_start[:, :, None] + tf.gather(padded, lasts, axis=1)  # [R, L, longest]
    flat = tf.reshape(scores, [tf.shape(scores)[0], width * longest])
    flat = tf.pad(flat, [[0, 0], [0, number]], constant_values=EXCLUDED)
    best, index = tf.math.top_k(flat, number)
    is_found = tf.math.is_finite(best)
    row, index = tf.where(is_found)[:, 0], tf.boolean_mask(index, is_found)
    first = tf.cast(index // longest, tf.int64)
    last = first + tf.cast(index % longest, tf.int64)
    start_score = tf.gather_nd(start, tf.stack([row, first], axis=1))
    end_score = tf.gather_nd(end, tf.stack([row, last], axis=1))
    null_scores = outputs["start_logits"][:, 0] + outputs["end_logits"][:, 0]
    return row, first, last, start_score, end_score, null_scores


def search_beams(windows: Windows, outputs: dict, is_own: tf.Tensor, options: Any):
    """The beams of the joint head that are answers; see `search_all`."""
    offset = windows.offset[:, None, None]
    lasts = tf.cast(outputs["end_indices"], tf.int64) - offset  # [R, S, S]
    starts = tf.cast(outputs["start_indices"], tf.int64)[:, :, None] - offset
    starts = tf.broadcast_to(starts, tf.shape(lasts))
    lengths = lasts - starts + 1
    is_answer = (starts >= 0) & (lasts < windows.count[:, None, None]) & (lengths > 0)
    is_answer &= lengths <= options.max_answer_length
    inside = tf.clip_by_value(starts, 0, tf.shape(is_own, tf.int64)[1] - 1)
    is_answer &= tf.gather(is_own, inside, batch_dims=1)
    start_scores = tf.broadcast_to(outputs["start_log_probs"][:, :, None], tf.shape(lasts))
    columns = starts, lasts, start_scores, outputs["end_log_probs"]
    columns = (tf.boolean_mask(column, is_answer) for column in columns)
    return tf.where(is_answer)[:, 0], *columns, outputs["answerable_logits"]


def best_texts(candidates, windows: Windows, characters, contexts, n_best_size: int) -> dict:
    """The best answer to each question, as in `data.tasks.question_answering.answers._best_texts`.

    `candidates` are the first five results of `search_all`. `characters` are the first character
    and the end of each token of all `contexts`, strings [Q]. Probabilities add up to 1 over the
    `n_best_size` best different texts. Returns `answer`, `start`, `end`, `probability` and `score`,
    [Q] each. Without candidates they are "", -1, -1, undefined and 0.
    """
    row, first, last, start_score, end_score = candidates
    question = tf.gather(windows.question, row)
    base = tf.gather(windows.base + windows.first, row)
    start, end = tf.gather(characters[0], base + first), tf.gather(characters[1], base + last)
    score = start_score + end_score
    # By question, best first; equal scores stay in the order of windows.
    order = tf.argsort(-score, stable=True)
    order = tf.gather(order, tf.argsort(tf.gather(question, order), stable=True))
    columns = [tf.gather(column, order) for column in (question, start, end, score)]
    question, start, end, _ = columns
    text = tf.strings.substr(
        tf.gather(contexts, question),
        tf.cast(start, tf.int32),
        tf.cast(end - start, tf.int32),
        unit="UTF8_CHAR",
    )
    # Of equal texts, only the first is kept.
    _, same = tf.unique(tf.strings.join([tf.strings.as_string(question), text], " "))
    number = tf.range(tf.size(same))
    is_first = number == tf.gather(tf.math.unsorted_segment_min(number, same, tf.size(same)), same)
    question, *columns = (tf.boolean_mask(column, is_first) for column in (*columns, text))

    def by_question(values, missing):
        """[Q, n_best_size]"""
        ragged = tf.RaggedTensor.from_value_rowids(
            values, question, tf.size(contexts, tf.int64), validate=False
        )
        return ragged.to_tensor(missing, shape=[None, n_best_size])

    start, end, score, text = columns
    scores = by_question(score, EXCLUDED)
    shares = tf.exp(scores - scores[:, :1])
    return {
        "answer": by_question(text, "")[:, 0],
        "start": by_question(tf.cast(start, tf.int32), -1)[:, 0],
        "end": by_question(tf.cast(end, tf.int32), -1)[:, 0],
        "probability": 1.0 / tf.cumsum(shares, axis=1)[:, -1],
        "score": by_question(score, 0.0)[:, 0],
    }
