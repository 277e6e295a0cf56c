"""Lexicons of a few translations: what is learned, what a pair may not say of itself, and what stays as it is."""

import jax
import numpy as np
import pytest

from jaxmeta.config.answering import answers, read_support
from jaxmeta.config.read import load
from jaxmeta.data import LanguageSplit, PairEpisodes, exchange_words, learn_lexicon, read_table
from jaxmeta.data.tokenize import ByteTokenizer

WORDS = {"saya": "titiang", "makan": "ngajeng", "nasi": "nasi", "ayam": "ayam", "besar": "ageng"}
TEXTS = ["Saya makan nasi", "Saya makan ayam besar", "ayam besar makan nasi", "saya besar", "nasi besar, ayam"]


def translated(text):
    return exchange_words(text, {word: other for word, other in WORDS.items() if word != other})


def test_a_word_for_word_translation_is_learned_and_what_is_alike_stays():
    found = learn_lexicon(TEXTS, [translated(text) for text in TEXTS])
    assert found.words == {word: other for word, other in WORDS.items() if word != other}
    assert exchange_words("Saya (makan) roti!", found.words) == "Titiang (ngajeng) roti!"


def test_what_a_pair_is_read_with_was_learned_from_the_others():
    sources = [*TEXTS, "burung makan"]
    targets = [*map(translated, TEXTS), "kedis ngajeng"]
    found = learn_lexicon(sources, targets)
    assert found.words["burung"] == "kedis"
    assert found.without[-1] == {"makan": "ngajeng"}, "the only pair with the word"
    alone = learn_lexicon(sources[:-1], targets[:-1])
    assert {word: alone.words[word] for word in found.without[-1]} == found.without[-1]


def test_nothing_to_learn_from():
    assert learn_lexicon([], []).words == {}
    assert learn_lexicon(["...", "a"], ["!", ""]) == ({}, [{}, {}])
    assert learn_lexicon(["a b"], ["a b"]).words == {}
    assert exchange_words("", {"a": "b"}) == ""


def test_words_of_any_script_are_whole():
    assert learn_lexicon(["name"] * 3, ["नाम।"] * 3).words == {"name": "नाम"}


def test_episodes_read_what_the_support_says(tmp_path):
    rows = ["src_lang\ttgt_lang\tsplit\tsrc\ttgt"]
    for number, text in enumerate(TEXTS * 2):
        split = "train" if number < len(TEXTS) else "test"
        rows.append(f"ind\tban\t{split}\t{text if split == 'train' else text + ' roti'}\t{translated(text)}")
    path = tmp_path / "rows.tsv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    table, tokenizer = read_table(path), ByteTokenizer(40)
    split = LanguageSplit(train=("ind-ban",), dev=(), test=("ind-ban",))
    plain, reading = (
        PairEpisodes(table, tokenizer, split, shots=5, queries=2, lexicon=lexicon) for lexicon in (False, True)
    )
    episode, before = (of.evaluation_episode("ind-ban", shots=5, draw=0) for of in (reading, plain))
    want = [f"{translated(text)} roti" for text in TEXTS]
    assert tokenizer.decode(episode.query["inputs"]["source"]) == want
    np.testing.assert_array_equal(episode.query["targets"], before.query["targets"])
    support, _ = reading.evaluation_rows("ind-ban", shots=5, draw=0)
    found = learn_lexicon(table.texts("src", support), table.texts("tgt", support)).without
    want = [exchange_words(*pair) for pair in zip(table.texts("src", support), found, strict=True)]
    assert tokenizer.decode(episode.support["inputs"]["source"]) == want
    alone = reading.support("ind-ban", shots=5, draw=0)
    jax.tree.map(np.testing.assert_array_equal, alone, episode.support)
    few = PairEpisodes(table, tokenizer, split, shots=3, queries=2, lexicon=True)(0)
    assert few.support["inputs"]["source"].shape == (3, 40)


def test_only_translations_have_a_lexicon(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text("language\tsplit\ttext\tline\na\ttrain\tone\t1\na\ttest\ttwo\t2\n", encoding="utf-8")
    split = LanguageSplit(train=("a",), dev=(), test=("a",))
    with pytest.raises(ValueError, match="`lexicon` must be false for generation"):
        PairEpisodes(read_table(path), ByteTokenizer(8), split, shots=1, queries=1, lexicon=True)


def test_a_user_s_language_is_read_with_the_words_of_its_examples(tmp_path):
    config = load(changes={"task.kind": "translation", "task.lexicon": True})
    path, tokenizer = tmp_path / "mine.tsv", ByteTokenizer(40)
    path.write_text("\n".join(["src\ttgt", *(f"{text}\t{translated(text)}" for text in TEXTS)]), encoding="utf-8")
    support = read_support(config, tokenizer, str(path))
    assert support.words == learn_lexicon(TEXTS, list(map(translated, TEXTS))).words
    without = learn_lexicon(TEXTS, list(map(translated, TEXTS))).without
    want = [exchange_words(*pair) for pair in zip(TEXTS, without, strict=True)]
    assert tokenizer.decode(support.batch["inputs"]["source"]) == want
    # A model that writes what it reads.
    found = answers(config, tokenizer, lambda inputs: inputs["source"], ["saya makan roti"], "lines", support.words)
    assert found == ["titiang ngajeng roti"]
