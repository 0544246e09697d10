"""The graph of a question answerer: questions and contexts in; answers, and where they are, out.

What `data.tasks.question_answering.windows` does with NumPy question by question is done here
for all questions at once.
Axes: Q questions, R rows, which are windows, in the questions' order, L most pieces of a window.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from data.tokenizer.graph_offsets import tokenize_with_places
from pipelines import QuestionAnswerer
from serving.graph import STRINGS, Network, TextGraph
from serving.rows import cut

NOWHERE = -float("inf")


class Windows(NamedTuple):
    """The windows of all contexts, int64 [R] each.

    Args:
        question: whose.
        first: the piece of the context that it begins with.
        count: its pieces.
        offset: where in its row it begins.
        base: the number of the context's first piece among those of all contexts.
    """

    question: tf.Tensor
    first: tf.Tensor
    count: tf.Tensor
    offset: tf.Tensor
    base: tf.Tensor


class Found(NamedTuple):
    """C possible answers, window by window.

    Args:
        row: int64 [C], the window.
        start, last: int64 [C], pieces of the window.
        start_score, end_score: float32 [C].
    """

    row: tf.Tensor
    start: tf.Tensor
    last: tf.Tensor
    start_score: tf.Tensor
    end_score: tf.Tensor


def answer_graph(answerer: QuestionAnswerer) -> TextGraph:
    """`question` and `context`, strings [B] → what `QuestionAnswerer` finds.

    Outputs, [B] each: `answer`; the characters [`start`, `end`) of the context, int32; its
    `probability` among the best; `null_odds`. Without an answer they are "", -1, -1 and 0.
    """
    options = answerer.options
    network = Network(answerer, options.max_seq_length)

    def answer(question, context):
        # Characters are counted, and there must be nothing else.
        context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8", errors="ignore")
        queries = answerer.tokenizer.tokenize(question)
        queries = cut(queries, tf.fill(tf.shape(question), _int64(options.max_query_length)))
        pieces, starts, ends = tokenize_with_places(answerer.tokenizer, context)
        windows = make_windows(queries.row_lengths(), pieces, options)
        inside = tf.ragged.range(
            windows.base + windows.first, windows.base + windows.first + windows.count
        )
        outputs = network(
            network.rows.of_pieces(
                tf.gather(queries, windows.question),
                inside.with_values(tf.gather(pieces.flat_values, inside.flat_values)),
            )
        )
        is_own = own_pieces(windows, tf.size(pieces.flat_values, tf.int64))
        is_joint = "start_log_probs" in outputs
        search = search_beams if is_joint else search_all
        found, null_scores = search(windows, outputs, is_own, options)
        best = best_texts(found, windows, starts.flat_values, ends.flat_values, context, options)
        null_odds = tf.math.segment_min(null_scores, windows.question)
        if not is_joint:
            null_odds -= best.pop("score")
        best.pop("score", None)
        has_answer = best["answer"] != ""
        if answerer.task.unanswerable:
            has_answer &= null_odds <= options.qa_na_threshold
        missing = {"answer": "", "start": -1, "end": -1, "probability": 0.0}
        best = {name: tf.where(has_answer, best[name], missing[name]) for name in missing}
        return best | {"null_odds": null_odds}

    inputs = {"question": STRINGS, "context": STRINGS}
    return TextGraph(answer, inputs, answerer.model)


def _int64(number):
    return tf.constant(number, tf.int64)


def make_windows(query_lengths: tf.Tensor, pieces: tf.RaggedTensor, options: Any) -> Windows:
    """The windows of `make_features`; a question that leaves no room is an error."""
    room = options.max_seq_length - query_lengths - 3
    message = "a question leaves no room for its context"
    with tf.control_dependencies([tf.debugging.assert_positive(room, message)]):
        room = tf.identity(room)
    step = tf.minimum(room, options.doc_stride)
    counts = pieces.row_lengths()
    more = tf.maximum(counts - room, 0)
    number = tf.ragged.range(1 + (more + step - 1) // step)  # of each window, in its context
    question = number.value_rowids()
    first = number.flat_values * tf.gather(step, question)
    count = tf.minimum(tf.gather(counts, question) - first, tf.gather(room, question))
    offset = tf.gather(query_lengths, question) + 2
    return Windows(question, first, count, offset, tf.gather(pieces.row_starts(), question))


def own_pieces(windows: Windows, num_pieces: tf.Tensor) -> tf.Tensor:
    """Which pieces of each window have the most context around them there: bool [R, L].

    See `data.tasks.question_answering.answers._owners`.
    """
    places = tf.range(tf.maximum(tf.reduce_max(windows.count), 1))  # [L]
    count = windows.count[:, None]
    is_piece = places < count
    margins = tf.cast(tf.minimum(places, count - 1 - places), tf.float64)
    margins += 0.01 * tf.cast(count, tf.float64)
    piece = windows.base[:, None] + windows.first[:, None] + places
    row = tf.broadcast_to(tf.range(tf.size(count))[:, None], tf.shape(piece))
    flat_piece, flat_row = tf.boolean_mask(piece, is_piece), tf.boolean_mask(row, is_piece)
    flat_margins = tf.boolean_mask(margins, is_piece)
    widest = tf.math.unsorted_segment_max(flat_margins, flat_piece, num_pieces)
    is_widest = flat_margins == tf.gather(widest, flat_piece)
    owner = tf.math.unsorted_segment_min(
        tf.boolean_mask(flat_row, is_widest), tf.boolean_mask(flat_piece, is_widest), num_pieces
    )
    is_owner = flat_row == tf.gather(owner, flat_piece)
    return tf.scatter_nd(tf.where(is_piece), is_owner, tf.shape(is_piece, tf.int64))


def search_all(windows: Windows, outputs: dict, is_own: tf.Tensor, options: Any):
    """The best answers of each window by Hugging Face's head: `windows._search_all`.

    Returns:
        `Found`, and each window's score of having no answer, float32 [R].
    """
    longest, number = options.max_answer_length, options.n_best_size
    width = tf.shape(is_own)[1]
    places = tf.range(tf.cast(width, tf.int64))
    is_piece = places < windows.count[:, None]
    last_place = tf.shape(outputs["start_logits"], tf.int64)[1] - 1
    in_row = tf.minimum(windows.offset[:, None] + places, last_place)
    start, end = (
        tf.gather(outputs[name], in_row, batch_dims=1) for name in ("start_logits", "end_logits")
    )
    own_start = tf.where(is_own, start, NOWHERE)
    end = tf.where(is_piece, end, NOWHERE)
    padded = tf.pad(end, [[0, 0], [0, longest]], constant_values=NOWHERE)
    lasts = tf.range(width)[:, None] + tf.range(longest)
    scores = own_start[:, :, None] + tf.gather(padded, lasts, axis=1)  # [R, L, longest]
    flat = tf.reshape(scores, [tf.shape(scores)[0], width * longest])
    flat = tf.pad(flat, [[0, 0], [0, number]], constant_values=NOWHERE)
    best, index = tf.math.top_k(flat, number)
    row = tf.broadcast_to(tf.range(tf.shape(best, tf.int64)[0])[:, None], tf.shape(best))
    is_found = tf.math.is_finite(best)
    row, index = tf.boolean_mask(row, is_found), tf.boolean_mask(index, is_found)
    first = tf.cast(index // longest, tf.int64)
    last = first + tf.cast(index % longest, tf.int64)
    start_score = tf.gather_nd(start, tf.stack([row, first], axis=1))
    end_score = tf.gather_nd(end, tf.stack([row, last], axis=1))
    null_scores = outputs["start_logits"][:, 0] + outputs["end_logits"][:, 0]
    return Found(row, first, last, start_score, end_score), null_scores


def search_beams(windows: Windows, outputs: dict, is_own: tf.Tensor, options: Any):
    """Those of the joint head's beams that are answers; see `search_all`."""
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
    found = Found(tf.where(is_answer)[:, 0], *(tf.boolean_mask(c, is_answer) for c in columns))
    return found, outputs["answerable_logits"]


def best_texts(
    found: Found, windows: Windows, starts: tf.Tensor, ends: tf.Tensor, contexts: tf.Tensor,
    options: Any,
) -> dict[str, tf.Tensor]:  # fmt: skip
    """The best answer to each question: `data.tasks.question_answering.answers._best_texts`.

    Args:
        found: all there are.
        windows: they are in.
        starts, ends: the characters of all contexts' pieces.
        contexts: strings [Q].
        options: with `n_best_size`.

    Returns:
        `answer`, `start`, `end`, `probability` among the best different texts, and `score`, [Q].
    """
    question, start, end, score, text = _different_texts(found, windows, starts, ends, contexts)
    num_questions = tf.size(contexts, tf.int64)
    counts = tf.math.bincount(
        tf.cast(question, tf.int32), minlength=tf.cast(num_questions, tf.int32)
    )
    rank = tf.ragged.range(counts).flat_values
    is_best = rank < options.n_best_size
    top = tf.math.unsorted_segment_max(score, question, num_questions)
    shares = tf.where(is_best, tf.exp(score - tf.gather(top, question)), 0.0)
    total = tf.math.unsorted_segment_sum(shares, question, num_questions)
    winner = tf.where(rank == 0)[:, 0]
    place = tf.gather(question, winner)[:, None]

    def of_questions(values, missing):
        empty = tf.fill([num_questions], tf.constant(missing, values.dtype))
        return tf.tensor_scatter_nd_update(empty, place, tf.gather(values, winner))

    return {
        "answer": of_questions(text, ""),
        "start": of_questions(tf.cast(start, tf.int32), -1),
        "end": of_questions(tf.cast(end, tf.int32), -1),
        "probability": tf.where(total > 0, 1.0 / total, 0.0),
        "score": of_questions(score, 0.0),
    }


def _different_texts(found, windows, starts, ends, contexts):
    """Question, start, end, score and text of each answer, but for those of equal text.

    They are in the questions' order, and of a question the best is first; equally good ones are
    in the windows' order, as a stable sort leaves them. Of equal texts the best stays.
    """
    question = tf.gather(windows.question, found.row)
    base = tf.gather(windows.base + windows.first, found.row)
    start, end = tf.gather(starts, base + found.start), tf.gather(ends, base + found.last)
    score = found.start_score + found.end_score
    order = tf.argsort(-score, stable=True)
    order = tf.gather(order, tf.argsort(tf.gather(question, order), stable=True))
    question, start, end, score = (
        tf.gather(array, order) for array in (question, start, end, score)
    )
    text = tf.strings.substr(
        tf.gather(contexts, question),
        tf.cast(start, tf.int32),
        tf.cast(end - start, tf.int32),
        unit="UTF8_CHAR",
    )
    _, same = tf.unique(tf.strings.join([tf.strings.as_string(question), text], " "))
    number = tf.range(tf.size(same))
    is_first = number == tf.gather(tf.math.unsorted_segment_min(number, same, tf.size(same)), same)
    columns = (question, start, end, score, text)
    return tuple(tf.boolean_mask(column, is_first) for column in columns)
