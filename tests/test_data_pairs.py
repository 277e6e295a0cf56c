"""Episodes of pairs, questions and plain text: pure in their number, exact in their bytes, honest in their windows."""

import jax
import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.cldr import cldr
from jaxmeta.data.episodes import TextEpisodes
from jaxmeta.data.pair_episodes import PairEpisodes
from jaxmeta.data.read_table import read_table
from jaxmeta.data.sequences import count_bytes, decode_sequence, ended, previous, specials, with_length
from jaxmeta.data.span_features import ASKED, QUESTION_FEATURES, WORD_FEATURES, describe, word_places
from jaxmeta.data.spans import (
    Question,
    best_answers,
    encode_windows,
    learning_windows,
    likely_windows,
    strided_windows,
)
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.table import SCHEMAS, Table, link_sentences
from jaxmeta.data.tokenize import ByteTokenizer, SentencePieceTokenizer
from jaxmeta.data.weighting import tempered, unimax

SPLIT = LanguageSplit(("aa", "bb"), ("cc",), ("dd",))
LENGTH = 48


def table_of(kind, per_split=12, languages="aa bb cc dd"):
    """Rows whose texts say where they are from: language, split and place."""
    schema, rows = SCHEMAS[kind], []
    for code in languages.split():
        for split in ("train", "dev", "test"):
            rows += [(code, split, place) for place in range(per_split)]
    texts = {column: tuple(f"{column}é {c} {s} {k}" for c, s, k in rows) for column in schema.texts}
    columns = {**texts, "line": np.arange(len(rows)), "score": np.linspace(-1, 1, len(rows)).astype(np.float32)}
    if kind == "question_answering":
        columns["answer"] = tuple(f"Ж{k}" for _, _, k in rows)
        columns["context"] = tuple(
            f"é{c}{s} ist {a} hier" for (c, s, _), a in zip(rows, columns["answer"], strict=True)
        )
        columns["answer_start"] = np.array([text.index("Ж") for text in columns["context"]])
    language, split = (np.array([row[i] for row in rows]) for i in (0, 1))
    if kind == "translation":
        columns |= {"src_lang": tuple("en" for _ in rows), "tgt_lang": tuple(language.tolist())}
    numbers = link_sentences(schema, {**columns, "language": language.tolist()}, np.arange(len(rows)))
    return Table("made-up", schema, language, split, columns, numbers)


@pytest.fixture(scope="module")
def episodes():
    return {
        kind: PairEpisodes(table_of(kind), ByteTokenizer(LENGTH), SPLIT, shots=3, queries=5, target_length=32, seed=7)
        for kind in SCHEMAS
    }


def decoded(tokens):
    return decode_sequence(ByteTokenizer(LENGTH), tokens)


def questions_of(table, batch):
    """Returns the questions of a batch, by the hashes of their words."""
    by_hash = {
        tuple(describe(question, context).asked.tolist()): question
        for question, context in zip(table.texts("question"), table.texts("context"), strict=True)
    }
    return [by_hash[tuple(row)] for row in batch["inputs"]["asked"].tolist()]


SHAPES = {
    "translation": {"inputs": {"source": LENGTH, "previous": 32}, "targets": 32},
    "summaries": {"inputs": {"source": LENGTH, "previous": 32}, "targets": 32},
    "generation": {"inputs": {"previous": 32}, "targets": 32, "bytes": 0},
    "retrieval": {"inputs": {"left": LENGTH, "right": LENGTH}, "group": 0},
    "scored_pairs": {"inputs": {"left": LENGTH, "right": LENGTH}, "targets": 0},
    "question_answering": {
        "inputs": {
            "words": (LENGTH, WORD_FEATURES),
            "sentence": LENGTH,
            "question": QUESTION_FEATURES,
            "asked": ASKED,
        },
        "targets": {"start": 0, "end": 0},
    },
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_shapes_types_languages_and_rows(episodes, kind):
    for split, role in (("train", "aa bb"), ("dev", "cc"), ("test", "dd")):
        seen = set()
        for index in range(8):
            episode = episodes[kind](index, split=split)
            texts = []
            for batch, size, part in zip(episode, (3, 5), ("train", split), strict=True):
                expected = jax.tree.map(
                    lambda width, size=size: (size, *np.atleast_1d(width)) if width else (size,), SHAPES[kind],
                    is_leaf=lambda width: isinstance(width, tuple),
                )  # fmt: skip
                assert jax.tree.map(np.shape, batch) == {**expected, "mask": (size,)}
                dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves({k: v for k, v in batch.items() if k != "mask"})}
                numbers = kind in ("scored_pairs", "question_answering")
                assert dtypes == ({"int32", "float32"} if numbers else {"int32"})
                assert batch["mask"].all()
                first = {**batch["inputs"], "targets": batch.get("targets")}
                if kind == "question_answering":
                    found = questions_of(episodes[kind].corpus, batch)
                else:
                    found = decoded(next(first[name] for name in ("source", "left", "targets") if name in first))
                codes = {text.split()[1] for text in found}
                assert {text.split()[2] for text in found} == {part}
                texts += found
                seen |= codes
                assert len(codes) == 1
            assert len(set(texts)) == 8, "support and query share no row"
        assert seen == set(role.split())


def test_pure_in_seed_split_and_index_and_nested_in_shots(episodes):
    table = table_of("translation")
    first = episodes["translation"]
    twin, other = (
        PairEpisodes(table, ByteTokenizer(LENGTH), SPLIT, shots=3, queries=5, target_length=32, seed=s) for s in (7, 8)
    )
    jax.tree.map(np.testing.assert_array_equal, first(5, split="test"), twin(5, split="test"))
    assert (first(5).support["targets"] != other(5).support["targets"]).any()
    few, many = (first.evaluation_episode("dd", shots=shots, draw=1) for shots in (2, 6))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), few.support, many.support)
    assert len(few.query["targets"]) == 12
    support, query = first.evaluation_rows("dd", shots=2, draw=1, max_queries=4)
    assert decoded(few.support["targets"]) == table.texts("tgt", support)
    assert set(query.tolist()) < set(table.rows("dd", "test").tolist())
    assert len(first.pool()["targets"]) == 24
    assert len(first.pool(size=9)["targets"]) == 9


def test_a_decoder_reads_what_was_written_before(episodes):
    batch = episodes["translation"](0).support
    bos, eos, size = specials(ByteTokenizer(LENGTH))
    assert (bos, eos, size) == (257, 258, 259)
    for before, target in zip(batch["inputs"]["previous"], batch["targets"], strict=True):
        length = int(np.flatnonzero(target == eos)[0]) + 1
        assert before[:length].tolist() == [bos, *target[: length - 1].tolist()]
        assert not before[length:].any()
        assert not target[length:].any()
    cut = ended(ByteTokenizer(4), ["abcd", "abc", ""])
    assert cut.tolist() == [[98, 99, 100, 101], [98, 99, 100, eos], [eos, 0, 0, 0]]
    assert previous(cut, bos).tolist() == [[bos, 98, 99, 100], [bos, 98, 99, 100], [bos, 0, 0, 0]]
    assert decode_sequence(ByteTokenizer(4), cut) == ["abcd", "abc", ""]


def test_bytes_are_those_that_the_tokens_stand_for(episodes):
    batch = episodes["generation"](0).query
    assert batch["bytes"].tolist() == [len(text.encode()) for text in decoded(batch["targets"])]
    assert count_bytes(ByteTokenizer(3), ["é", "éé", ""]).tolist() == [2, 3, 0]
    texts = [f"Wort {k} und noch eins" for k in range(40)]
    pieces = SentencePieceTokenizer.train(texts, 300, 64)
    assert count_bytes(pieces, texts).tolist() == [len(text) for text in texts]
    assert (count_bytes(with_length(pieces, 3), texts) < 12).all()
    assert decode_sequence(pieces, ended(pieces, texts)) == texts


def test_groups_and_scores(episodes):
    table = episodes["retrieval"].corpus
    rows = table.rows("aa", "train")
    assert episodes["retrieval"].batch(rows)["group"].tolist() == table.sentence[rows].tolist()
    scores = episodes["scored_pairs"].corpus.numbers("score")
    np.testing.assert_array_equal(episodes["scored_pairs"].batch(rows)["targets"], scores[rows])


def words_between(question, windows, row, first, last):
    """Returns what the context has from one word of a window to another."""
    return question.context[windows.places[row, first, 0] : windows.places[row, last, 1]]


def long_questions(count=40):
    filler = "Ἀρχὴ ἥμισυ παντός. "
    out = []
    for k in range(count):
        context = filler * (k % 7 + 1) + f"Der Schlüssel liegt in Raum {k}é. " + filler * (9 - k % 5)
        answer = f"Raum {k}é"
        out.append(Question(context, "Wo liegt der Schlüssel?", answer, context.index(answer)))
    return out


def test_windows_to_learn_from_hold_the_answer_anywhere():
    questions = long_questions()
    starts = learning_windows(questions, 16)
    found = encode_windows(questions, starts, 16)
    assert (found.start >= 0).all()
    for row, question in enumerate(questions):
        assert words_between(question, found, row, found.start[row], found.end[row]) == question.answer
        np.testing.assert_array_equal(found.inputs["sentence"][row] > 0, found.places[row, :, 1] > 0)
    assert len(set(found.start.tolist())) > 8, "not always at one place of the window"
    again = learning_windows(questions, 16)
    np.testing.assert_array_equal(starts, again)
    long = Question("x " * 17, "?", "x " * 16 + "x", 0)
    assert learning_windows([long], 16).tolist() == [-1], "no window is long enough"


def test_windows_to_be_judged_on_do_not_depend_on_the_answer():
    questions = long_questions()
    starts = likely_windows(questions, 16)
    blind = [Question(question.context, question.question) for question in questions]
    np.testing.assert_array_equal(likely_windows(blind, 16), starts)
    held = encode_windows(questions, starts, 16).start >= 0
    assert held.mean() > 0.9, "the words of the question are near its answer here"
    missed = encode_windows(questions, np.zeros(len(questions), np.int64), 16)
    assert (missed.start == -1).any()
    assert ((missed.start == -1) == (missed.end == -1)).all()


def test_all_windows_cover_the_context_and_the_best_span_wins():
    questions = long_questions(9)
    windows = strided_windows(questions, 16)
    assert windows.group.tolist() == sorted(windows.group.tolist())
    for number, question in enumerate(questions):
        rows = windows.places[windows.group == number]
        seen = {tuple(place) for place in rows.reshape(-1, 2).tolist() if place[1]}
        assert seen == {tuple(place) for place in word_places(question.context).tolist()}
    assert set(windows.group[windows.start >= 0].tolist()) == set(range(9)), "some window holds each answer"
    # A reader who knows: what it says of the answer is higher in one window than in another.
    rows, rng = np.arange(len(windows.group)), np.random.default_rng(0)
    score = np.where(windows.start >= 0, 50 + rows, rng.normal(size=len(rows)))
    contexts = [question.context for question in questions]
    spans = [values[:, None] for values in (np.maximum(windows.start, 0), np.maximum(windows.end, 0), score)]
    found = best_answers(windows, contexts, spans)
    assert [best.text for (best,) in found] == [question.answer for question in questions]
    # Rows that fill up a batch are not looked at.
    filled = [np.append(values, [[10_000]], axis=0) for values in spans]
    assert best_answers(windows, contexts, filled) == found
    # The first word of each window besides: the best answers are texts that differ, by their scores.
    several = [np.concatenate([values, np.zeros_like(values)], axis=1) for values in spans]
    for best, (first,) in zip(best_answers(windows, contexts, several, 3), found, strict=True):
        assert best[0] == first
        assert len({answer.text for answer in best}) == len(best) <= 3
        assert [answer.score for answer in best] == sorted((answer.score for answer in best), reverse=True)


def features_of(question, context):
    return describe(question, context).words.astype(np.float32)


def test_words_are_described_by_what_they_share_with_the_question():
    context = "Zwei Brücken stehen dort. Die Burg wurde 1402 (von Anna) erbaut."
    found = describe("Wann wurde die Burg gebaut?", context)
    assert [context[start:end] for start, end in found.places] == context.replace(".", "").replace("(", "").replace(
        ")", ""
    ).split()
    assert found.sentence.tolist() == [1] * 4 + [2] * 7
    assert found.words.shape == (11, WORD_FEATURES)
    assert found.words[[5, 6], 0].tolist() == [1, 1]
    assert 0.5 <= found.words[10, 0] < 1, "erbaut is like gebaut"
    assert found.words[[0, 1, 7, 9], 0].tolist() == [0] * 4
    assert not describe("", context).words[:, :6].any()
    assert describe("Wann?", "").words.shape == describe("Wann?", "...").words.shape == (0, WORD_FEATURES)
    assert describe("Wo 3?", "").question[0] == 1
    assert describe("Wann WANN", "").asked[:3].tolist() == [describe("wann", "").asked[0]] * 2 + [0]


def test_what_is_described_does_not_depend_on_the_letters():
    """A language written in other letters is described as the first one is, but for what hashes say."""
    context, question = (
        "Am Abend kam der Bote. Er trug (1402) eine Krone, und die Krone war alt.",
        "Was trug er im Jahr?",
    )
    # Letters of another script in their place; capitals stay capitals.
    table = {ord(c): chr(0x430 + i) for i, c in enumerate("abcdefghijklmnopqrstuvwxyz")}
    table |= {ord(chr(c).upper()): chr(new).upper() for c, new in ((c, ord(v)) for c, v in table.items())}
    np.testing.assert_array_equal(
        features_of(question, context), features_of(question.translate(table), context.translate(table))
    )


def test_answers_too_long_are_left_out_of_training_alone():
    table = table_of("question_answering", per_split=4)
    rows = [int(table.rows(code, split)[0]) for code in ("aa", "dd") for split in ("train", "test")]
    for column in ("context", "answer"):
        text = "y " * 60 + "y"
        table.columns[column] = tuple(text if k in rows else old for k, old in enumerate(table.columns[column]))
    table.columns["answer_start"][rows] = 0
    episodes = PairEpisodes(table, ByteTokenizer(LENGTH), SPLIT, shots=1, queries=2)
    assert episodes.left_out == 2
    assert len(episodes.rows("aa", "train")) == 3
    query = episodes.evaluation_episode("dd", shots=1, draw=0).query
    assert query["targets"]["start"].tolist()[0] == -1
    assert len(query["mask"]) == 4, "what is judged stays, and counts as wrong"
    assert len(episodes.windows(table.rows("dd", "test")).group) > 4


def test_wrong_arguments():
    table = table_of("question_answering", per_split=2)
    pieces = SentencePieceTokenizer.train([f"Wort {k} und eins" for k in range(40)], 300, 16)
    with pytest.raises(ValueError, match="`target_length` must be positive"):
        PairEpisodes(table_of("translation"), pieces, SPLIT, shots=1, queries=1, target_length=0)
    with pytest.raises(InputError, match="test language xx of made-up has no train rows"):
        PairEpisodes(table, ByteTokenizer(LENGTH), LanguageSplit((), (), ("xx",)), shots=1, queries=1)


def slow_unimax(counts, budget, epochs):
    """Fills all languages evenly, a little at a time, each until it is full."""
    shares, step = np.zeros(len(counts)), min(budget, epochs * sum(counts)) / 20_000
    while shares.sum() < budget - step / 2:
        free = shares < np.array(counts) * epochs - step / 1e6
        if not free.any():
            break
        shares[free] += step / free.sum()
    return shares / shares.sum()


@pytest.mark.parametrize(("budget", "epochs"), [(30, 1.0), (300, 2.0), (5000, 3.0), (10**6, 2.0)])
def test_unimax_is_even_up_to_its_ceiling(budget, epochs):
    counts = np.array([500.0, 10.0, 90.0, 10.0, 1000.0])
    weights = unimax(budget, epochs)(counts)
    np.testing.assert_allclose(weights, slow_unimax(counts, budget, epochs), atol=1e-3)
    assert weights.sum() == pytest.approx(1.0)


def test_weightings_in_episodes_of_text_and_of_pairs():
    corpus = cldr("weekday", languages=("de", "fr"), train=4, dev=1, test=1)
    keep = np.concatenate([corpus.rows("de", "train"), corpus.rows("fr", "train")[:4]])
    split = LanguageSplit(("de", "fr"), (), ())
    small = corpus.take(keep)
    for weighting, expected in ((unimax(24, 2.0), [2 / 3, 1 / 3]), (tempered(np.inf), [0.5, 0.5])):
        episodes = TextEpisodes(small, ByteTokenizer(8), split, shots=1, queries=1, weighting=weighting)
        np.testing.assert_allclose(episodes.weights("train"), expected)
    pairs = table_of("retrieval", per_split=4, languages="aa bb")
    pairs = pairs.take(np.delete(np.arange(len(pairs)), pairs.rows("bb", "train")[1:]))
    options = {"shots": 1, "queries": 1}
    episodes = PairEpisodes(pairs, ByteTokenizer(8), LanguageSplit(("aa", "bb"), (), ()), temperature=1.0, **options)
    np.testing.assert_allclose(episodes.weights("train"), [0.8, 0.2])
    with pytest.raises(ValueError, match="`budget` must be positive"):
        unimax(0, 1)


def test_real_answers_are_found(data_folder):
    table = read_table(data_folder("xquad"), parallel=True)
    kept = table.take(np.concatenate([table.rows(c, s)[:60] for c in ("ar", "zh", "de") for s in ("train", "test")]))
    split = LanguageSplit(("ar", "de"), (), ("zh",))
    episodes = PairEpisodes(kept, ByteTokenizer(128), split, shots=2, queries=2)
    for code in ("ar", "de", "zh"):
        rows = episodes.rows(code, "train")
        texts = (kept.texts(column, rows) for column in ("context", "question", "answer"))
        questions = [Question(*q) for q in zip(*texts, kept.numbers("answer_start")[rows].tolist(), strict=True)]
        found = encode_windows(questions, learning_windows(questions, 128), 128)
        batch = episodes.batch(rows)
        jax.tree.map(np.testing.assert_array_equal, batch["inputs"], found.inputs)
        assert (batch["targets"]["start"] >= 0).all()
        for row, question in enumerate(questions):
            answer = words_between(question, found, row, found.start[row], found.end[row])
            # Signs around words are no part of them, and the Arabic article and others may be written with a word.
            assert question.answer.strip("$€£%\"'.,()-–“”« »") in answer
            assert len(answer) < len(question.answer) + 12
    assert episodes.left_out == 0
    judged = episodes.batch(kept.rows("zh", "test"))["targets"]["start"]
    assert (judged >= 0).mean() > 0.5
