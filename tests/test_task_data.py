"""What a config says of data: columns of other names, one language for all rows, how often each is drawn."""

import numpy as np
import pytest
from tiny_run import LANGUAGES, jaxmeta, toy_lines, train, write_lines

from jaxmeta import data
from jaxmeta.config import build, load
from jaxmeta.config.pair_tasks import PairTasks
from jaxmeta.config.speech_tasks import SpeechTasks
from jaxmeta.config.tasks import TextTasks
from jaxmeta.core.checks import InputError

OTHER = {"language": "lang", "split": "part", "label": "verdict", "text": "sentence"}
ROLES = {"task.test_languages": ("aa",), "task.dev_languages": ("bb",)}


def renamed(lines):
    """The lines of a file with other words in its header."""
    return ["\t".join(OTHER[column] for column in lines[0].split("\t")), *lines[1:]]


def inline(columns):
    """What `--task.columns` is given."""
    return tuple(word for pair in columns.items() for word in pair)


# --- Files with other headers.


def test_a_file_of_other_columns_is_the_same_corpus(tmp_path):
    write_lines(tmp_path / "mine.tsv", toy_lines())
    write_lines(tmp_path / "theirs.tsv", renamed(toy_lines()))
    mine, theirs = (data.read_tsv(tmp_path / name, columns=columns, name="rows") for name, columns in (
        ("mine.tsv", None), ("theirs.tsv", OTHER)
    ))  # fmt: skip
    assert (mine.text, mine.labels) == (theirs.text, theirs.labels)
    for column in ("language", "split", "label", "sentence"):
        np.testing.assert_array_equal(getattr(mine, column), getattr(theirs, column))
    changes = {"task.source": "tsv", "task.path": str(tmp_path / "theirs.tsv"), "task.columns": OTHER} | ROLES
    assert TextTasks(load(changes=changes)).corpus.text == mine.text


def test_a_language_for_all_rows_stands_where_no_column_does(tmp_path):
    lines = ["split\tlabel\ttext", "train\ta\tone", "test\tb\ttwo"]
    write_lines(tmp_path / "rows.tsv", lines)
    assert data.read_tsv(tmp_path / "rows.tsv", language="eng").languages() == ("eng",)
    with pytest.raises(InputError, match="line 1: there is no column 'language' among 'split', 'label', 'text'"):
        data.read_tsv(tmp_path / "rows.tsv")
    write_lines(tmp_path / "rows.tsv", [f"language\t{lines[0]}", *(f"deu\t{line}" for line in lines[1:])])
    assert data.read_tsv(tmp_path / "rows.tsv", language="eng").languages() == ("deu",)


@pytest.mark.parametrize(("language", "pairs"), [("eng-", ("eng-aa", "eng-bb")), ("xx-yy", ("xx-aa", "xx-bb"))])
def test_one_side_of_a_pair_is_the_same_in_all_rows(tmp_path, language, pairs):
    write_lines(
        tmp_path / "rows.tsv", ["lang\tsplit\tenglish\ttext", *(f"{c}\ttrain\tone {c}\tuno {c}" for c in ("aa", "bb"))]
    )
    columns = {"src": "english", "tgt": "text", "tgt_lang": "lang"}
    table = data.read_table(tmp_path / "rows.tsv", "translation", columns=columns, language=language)
    assert table.languages() == pairs
    assert (table.texts("src"), table.texts("tgt")) == (["one aa", "one bb"], ["uno aa", "uno bb"])
    with pytest.raises(InputError, match="line 1: there is no column 'src_lang' among 'lang', 'split'"):
        data.read_table(tmp_path / "rows.tsv", "translation", columns=columns)


def test_languages_that_are_not_used_need_not_be_parallel(tmp_path):
    lines = [line for line in toy_lines() if line != "ff\ttrain\tbad\tffbbb ff 0"]
    write_lines(tmp_path / "rows.tsv", lines)
    changes = {"task.source": "tsv", "task.path": str(tmp_path / "rows.tsv"), "task.parallel": True, **ROLES}
    with pytest.raises(InputError, match="not parallel: ff has 11 train rows"):
        TextTasks(load(changes=changes))
    tasks = TextTasks(load(changes=changes | {"task.train_languages": ("cc", "dd")}))
    assert tasks.split == (("cc", "dd"), ("bb",), ("aa",))
    assert tasks.corpus.languages() == ("aa", "bb", "cc", "dd")
    np.testing.assert_array_equal(*(tasks.corpus.sentence[tasks.corpus.rows(code, "train")] for code in ("aa", "cc")))


@pytest.mark.parametrize("kind", ["classification", "retrieval"])
def test_pieces_are_learned_from_the_train_rows_of_train_languages(tmp_path, kind):
    """Not from what is judged, nor from the shots: the tokenizer would have seen the new language."""
    rows = [line.split("\t") for line in toy_lines()[1:]]

    def marked(row, held_out, trained):
        code, split, label, text = row
        text = f"{text} {trained if code not in ('aa', 'bb') and split == 'train' else held_out}".strip()
        return (code, split, label, text) if kind == "classification" else (code, split, text, f"english {text[3:]}")

    def state(held_out, trained):
        header = ("language", "split", *(("label", "text") if kind == "classification" else ("text", "english")))
        table = [header, *(marked(row, held_out, trained) for row in rows)]
        write_lines(tmp_path / "rows.tsv", ["\t".join(row) for row in table])
        tasks_of = TextTasks if kind == "classification" else PairTasks
        changes = {"task.source": "tsv", "task.path": str(tmp_path / "rows.tsv"), "task.kind": kind, **ROLES}
        pieces = {"tokenizer.kind": "sentencepiece", "tokenizer.vocab_size": 290}
        return tasks_of(load(changes=changes | pieces | {"evaluate.shot_curve": ()})).tokenizer.state()

    before = state("", "")
    assert state("ωψχφ", "") == before
    assert state("", "ωψχφ") != before


# --- Prepared sets of others.


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A set in a schema of its own: other names, a label by number, pairs inside another feature."""
    pytest.importorskip("array_record")
    import tensorflow_datasets as tfds

    class Reviews(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        name = "reviews"

        def _info(self):
            text = tfds.features.Text()
            features = {
                "sentence": text,
                "verdict": tfds.features.ClassLabel(names=["bad", "good"]),
                "lang": text,
                "both": {"en": text, "other": text},
            }
            return tfds.core.DatasetInfo(builder=self, description="", features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

        def _generate_examples(self, split):
            for language in LANGUAGES:
                for k in range(6):
                    text = f"{language} {split} {k}"
                    both = {"en": f"english {text}", "other": text}
                    yield f"{language}{k}", {"sentence": text, "verdict": k % 2, "lang": language, "both": both}

    path = tmp_path_factory.mktemp("foreign")
    tfds.disable_progress_bar()
    Reviews(data_dir=path, file_format="array_record").download_and_prepare(download_dir=path / "downloads")
    return path / "reviews" / "1.0.0"


def test_a_prepared_set_of_others_is_named_in_a_config(foreign):
    changes = {"task.source": "tfds", "task.path": str(foreign), "task.shots": 1, "task.queries": 1, **ROLES}
    columns = {"text": "sentence", "label": "verdict", "language": "lang"}
    tasks = TextTasks(load(changes=changes | {"task.columns": columns}))
    assert tasks.corpus.labels == ("bad", "good")
    assert tasks.corpus.languages() == LANGUAGES
    assert [len(tasks.corpus.rows("aa", split)) for split in data.SPLITS] == [6, 6, 6]
    assert all(tasks.corpus.label[row] == int(text[-1]) % 2 for row, text in enumerate(tasks.corpus.text))
    columns = {"src": "both/en", "tgt": "both/other", "tgt_lang": "lang"}
    pairs = PairTasks(
        load(changes=changes | {"task.kind": "translation", "task.columns": columns, "task.language": "en-"})
    )
    assert pairs.split.test == ("en-aa",)
    assert pairs.table.texts("src") == [f"english {text}" for text in pairs.table.texts("tgt")]


def test_a_prepared_set_is_named_as_tfds_knows_it_and_its_splits_as_they_are(foreign):
    import tensorflow_datasets as tfds

    tfds.core.add_data_dir(foreign.parents[1])
    columns = {"text": "sentence", "label": "verdict", "language": "lang"}
    splits = {"train": "train", "test": "dev", "validation": "test"}
    changes = {"task.source": "tfds", "task.path": "reviews", "task.shots": 1, "task.queries": 1, **ROLES}
    corpus = TextTasks(load(changes=changes | {"task.columns": columns, "task.splits": splits})).corpus
    assert {(split, text.split()[1]) for split, text in zip(corpus.split, corpus.text, strict=True)} == {
        (role, name) for name, role in splits.items()
    }
    with pytest.raises(InputError, match="reviews has the splits train, validation, test; say in `splits` which"):
        TextTasks(load(changes=changes | {"task.columns": columns, "task.splits": {"all": "train"}}))
    with pytest.raises(InputError, match=r"task.splits. is about the splits of a prepared set"):
        build(load(changes={"task.splits": splits}))


@pytest.mark.slow
def test_a_prepared_set_of_others_is_trained_on_from_the_command_line(foreign, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jaxmeta.config.commands.write_report", lambda run: run)
    columns = {"text": "sentence", "label": "verdict", "language": "lang"}
    changes = {"task.source": "tfds", "task.path": str(foreign), "task.columns": inline(columns)}
    assert jaxmeta(*train("run", changes | {"train.steps": 2})) == 0
    assert load(tmp_path / "run" / "config.toml").task.columns == columns
    assert jaxmeta(*train("run", changes | {"train.steps": 2, "task.columns": inline({"text": "sentence"})})) == 2
    assert "task.columns.label: 'verdict' against None" in capsys.readouterr().err


# --- What is refused.

REFUSED = {
    "a column of no kind": (
        {"task.columns": ("txt", "sentence")},
        "there is no column 'txt' in classification, which has language, split, label, text",
    ),
    "not in the file": (
        {"task.columns": inline(OTHER | {"text": "sentense"})},
        "line 1: there is no column 'sentense' among 'lang', 'part'",
    ),
    "no mapping": ({}, "line 1: there is no column 'language' among 'lang'"),
    "a column without its name": ({"task.columns": ("text",)}, "task.columns"),
    "of another kind": (
        {"task.columns": inline(OTHER), "task.kind": "summaries"},
        "there is no column 'label' in summaries",
    ),
    "columns of the CLDR": (
        {"task.source": "cldr", "task.columns": inline(OTHER)},
        "`task.columns` is about a file or a prepared set; leave it out with",
    ),
    "language of the CLDR": ({"task.source": "cldr", "task.language": "eng"}, "`task.language` is about a file"),
    "no such sampling": ({"task.sampling": "uniform"}, "--task.sampling"),
    "no epochs": ({"task.sampling": "unimax", "task.epochs": 0}, "`task.epochs`"),
    "no such train language": (
        {"task.columns": inline(OTHER), "task.train-languages": ("zz",)},
        "The train languages zz are not in the data",
    ),
    "trained and judged": (
        {"task.columns": inline(OTHER), "task.train-languages": ("aa", "cc"), "task.test-languages": ("aa",)},
        "aa cannot be a test and a train language at once",
    ),
    "waves in languages": (
        {"task.source": "sinusoid", "model.kind": "mlp", "evaluate.metric": "mse", "task.train-languages": ("aa",)},
        "`task.train_languages` is about languages, and waves have none",
    ),
    "waves drawn by size": (
        {"task.source": "sinusoid", "model.kind": "mlp", "evaluate.metric": "mse", "task.sampling": "unimax"},
        "`task.sampling` is about languages",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_data_have_not_is_one_sentence(tmp_path, monkeypatch, capsys, name):
    changes, says = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAXMETA_DATA", raising=False)
    write_lines(tmp_path / "toy.tsv", renamed(toy_lines()))
    assert jaxmeta(*train("new", changes)) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("jaxmeta: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"task.columns": {"text": "sentense"}},
            "has no feature 'sentense', which is to be the text, among both/en, both/other, lang",
        ),
        ({"task.columns": {"text": "sentence", "label": "verdict"}}, "and lacks language; say in `columns`"),
        ({"task.columns": {"src": "both/en"}}, "there is no column 'src' in classification"),
        (
            {
                "task.kind": "translation",
                "task.columns": {"src": "both/en", "tgt": "both/other"},
                "task.language": "en-",
            },
            "and lacks tgt_lang",
        ),
    ],
)
def test_features_that_a_prepared_set_has_not_are_one_sentence(foreign, changes, says):
    changes = {"task.source": "tfds", "task.path": str(foreign), **ROLES, **changes}
    with pytest.raises(InputError) as error:
        (TextTasks if "task.kind" not in changes else PairTasks)(load(changes=changes))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


# --- How often each language is drawn.

SIZES = {"aa": 40, "bb": 40, "cc": 2, "dd": 8, "ee": 200}


def drawn(tasks):
    """The share of episodes of each train language, and what is said to be drawn."""
    episodes = tasks._episodes(1)
    return dict(zip(tasks.split.train, episodes.weights("train"), strict=True))


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    """A file of each schema, in languages of different sizes."""
    folder = tmp_path_factory.mktemp("sized")
    rows = [
        (c, s, k) for c, size in SIZES.items() for s, n in (("train", size), ("dev", 4), ("test", 4)) for k in range(n)
    ]
    write_lines(
        folder / "labels.tsv",
        ["language\tsplit\tlabel\ttext", *(f"{c}\t{s}\t{'ab'[k % 2]}\t{c} {s} {k}" for c, s, k in rows)],
    )
    write_lines(
        folder / "texts.tsv", ["language\tsplit\tline\ttext", *(f"{c}\t{s}\t{k}\t{c} {s} {k}" for c, s, k in rows)]
    )
    return folder


SAMPLING = [
    ({"task.temperature": 1.0}, {"cc": 2 / 210, "dd": 8 / 210, "ee": 200 / 210}),
    ({"task.temperature": float("inf")}, {"cc": 1 / 3, "dd": 1 / 3, "ee": 1 / 3}),
    # 120 rows are drawn: two languages have 4 and 16 of them at most, which leaves 100 to the large one.
    ({"task.sampling": "unimax", "task.epochs": 2.0}, {"cc": 4 / 120, "dd": 16 / 120, "ee": 100 / 120}),
    ({"task.sampling": "unimax", "task.epochs": 100.0}, {"cc": 1 / 3, "dd": 1 / 3, "ee": 1 / 3}),
    # Temperature is not read where sampling is UniMax.
    ({"task.sampling": "unimax", "task.epochs": 2.0, "task.temperature": 9.0}, {"cc": 4 / 120, "ee": 100 / 120}),
]


@pytest.mark.parametrize(("changes", "shares"), SAMPLING)
@pytest.mark.parametrize("kind", ["classification", "generation"])
def test_languages_are_drawn_as_a_config_says(sized, kind, changes, shares):
    classes = 2 if kind == "classification" else 1
    # Ten steps of three tasks with four rows each: of a class two, where there are two.
    changes = {
        "task.kind": kind, "task.source": "tsv", "task.shots": 2 // classes, "task.queries": 2 // classes,
        "task.tasks_per_step": 3, "train.steps": 10, **ROLES, **changes,
        "task.path": str(sized / ("labels.tsv" if classes == 2 else "texts.tsv")),
    }  # fmt: skip
    found = drawn((TextTasks if classes == 2 else PairTasks)(load(changes=changes)))
    for language, share in shares.items():
        assert found[language] == pytest.approx(share), language
    assert sum(found.values()) == pytest.approx(1.0)


def test_speakers_are_drawn_as_a_config_says():
    changes = {"task.source": "synthetic_digits", "task.speakers": 6, "task.test_languages": 1, "task.dev_languages": 1}
    tasks = SpeechTasks(load(changes=changes))
    sizes = {name: len(tasks.recordings.rows(name, "train")) for name in tasks.split.train}
    total = sum(sizes.values())
    assert drawn(tasks) == {name: pytest.approx(size / total) for name, size in sizes.items()}
    capped = SpeechTasks(
        load(changes=changes | {"task.sampling": "unimax", "task.train_languages": tasks.split.train[:2]})
    )
    assert drawn(capped) == {name: pytest.approx(0.5) for name in tasks.split.train[:2]}
