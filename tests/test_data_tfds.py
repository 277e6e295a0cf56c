"""TFDS without TensorFlow: what is built from a file is read back bit for bit; sets of others by a mapping."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxmeta.core.checks import InputError
from jaxmeta.data.episodes import TextEpisodes
from jaxmeta.data.pair_episodes import PairEpisodes
from jaxmeta.data.read_table import read_table
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.table import SCHEMAS
from jaxmeta.data.tfds_builders import build_tfds, read_rows, read_tfds
from jaxmeta.data.tokenize import ByteTokenizer
from jaxmeta.data.tsv import read_tsv

PARTS = ("test", "train", "dev", "train")  # not in the order that TFDS keeps them in


def lines(kind):
    """A file of a schema in two languages, 16 rows."""
    columns = ("language", "split", "label", "text") if kind == "classification" else SCHEMAS[kind].columns
    yield "\t".join(columns)
    for code in ("aa", "bb"):
        for number in range(8):
            row = {column: f"{column} é{code} {number}" for column in columns}
            row |= {"language": code, "split": PARTS[number % 4], "src_lang": "en", "tgt_lang": code}
            row |= {"label": "yz"[number // 4], "score": f"{0.1 * number - 0.3:.4f}", "line": str(number)}
            row |= {"context": f"Die Größe {number} m.", "answer": f"{number} m", "answer_start": "10"}
            row |= {"english": f"word {number}"}
            yield "\t".join(row[column] for column in columns)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sets of every schema, built."""
    path = tmp_path_factory.mktemp("sets")
    for kind in ("classification", *SCHEMAS):
        (path / "from" / kind).mkdir(parents=True)
        (path / "from" / kind / f"{kind}.tsv").write_text("\n".join(lines(kind)) + "\n", encoding="utf-8")
        (path / "from" / kind / "README.md").write_text("Licence: CC0-1.0", encoding="utf-8")
        made = build_tfds(kind, path / "from", path / "to", parallel=kind == "classification")
        assert made == path / "to" / kind / "1.0.0"
        assert (made / "README.md").read_text("utf-8") == "Licence: CC0-1.0"
    return path


@pytest.mark.parametrize("kind", ["classification", *SCHEMAS])
def test_the_same_episodes_from_the_file_and_from_tfds(folder, kind):
    file = folder / "from" / kind / f"{kind}.tsv"
    split = LanguageSplit(("en-aa",), (), ("en-bb",)) if kind == "translation" else LanguageSplit(("aa",), (), ("bb",))
    if kind == "classification":
        origin, make = read_tsv(file, parallel=True), TextEpisodes
    else:
        origin, make = read_table(file), PairEpisodes
    for rows in (read_tfds(folder / "to" / kind), read_tfds(kind, data_dir=folder / "to")):
        assert type(rows) is type(origin)
        for name in ("language", "split", "sentence"):
            np.testing.assert_array_equal(getattr(rows, name), getattr(origin, name))
            assert getattr(rows, name).dtype == getattr(origin, name).dtype
        ours, theirs = (make(r, ByteTokenizer(24), split, shots=1, queries=1, seed=3) for r in (rows, origin))
        for index in range(4):
            for part in ("train", "test"):
                jax.tree.map(np.testing.assert_array_equal, ours(index, split=part), theirs(index, split=part))
        jax.tree.map(np.testing.assert_array_equal, ours.pool(), theirs.pool())
    assert rows.name == kind


def test_others_read_what_was_built(folder):
    import tensorflow_datasets as tfds

    source = tfds.data_source("scored_pairs", data_dir=folder / "to", split="dev")
    assert len(source) == 4
    assert source[1]["language"] == b"aa"
    assert source[1]["first"].decode() == "first éaa 6"
    builder = tfds.builder_from_directory(folder / "to" / "classification" / "1.0.0")
    assert builder.info.features["label"].names == ["y", "z"]


def test_no_tensorflow(folder, tmp_path):
    code = (
        "import sys\n"
        "from jaxmeta.data.tfds_builders import build_tfds, read_tfds\n"
        "assert 'tensorflow_datasets' not in sys.modules, 'it is slow to import'\n"
        f"made = build_tfds('retrieval', {str(folder / 'from')!r}, {str(tmp_path)!r})\n"
        "assert len(read_tfds(made)) == 16\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""


SENTENCES = {"columns": {"text": "sentence", "label": "verdict"}, "language": "eng"}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A set as others make them: other names, nested features, a label by number, no language."""
    import tensorflow_datasets as tfds

    class Reviews(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")
        name = "reviews"

        def _info(self):
            text = tfds.features.Text()
            features = {
                "sentence": text,
                "verdict": tfds.features.ClassLabel(names=["bad", "good"]),
                "both": {"en": text, "de": text},
                "words": tfds.features.Sequence(text),
                "verdicts": tfds.features.Sequence(tfds.features.ClassLabel(names=["bad", "good"])),
            }
            return tfds.core.DatasetInfo(builder=self, description="", features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(6), "validation": self._generate_examples(4)}

        def _generate_examples(self, count):
            for k in range(count):
                both = {"en": f"cat {k}", "de": f"Kätzchen {k}"}
                words = ["such", "a", "film"]
                yield k, {
                    "sentence": f"such a film {k}", "verdict": k % 2, "both": both, "words": words, "verdicts": [0, 1],
                }  # fmt: skip

    path = tmp_path_factory.mktemp("foreign")
    tfds.disable_progress_bar()
    Reviews(data_dir=path, file_format="array_record").download_and_prepare(download_dir=path / "downloads")
    return path


def test_sets_of_others_by_a_mapping(foreign):
    corpus = read_tfds("reviews", data_dir=foreign, columns={"text": "sentence", "label": "verdict"}, language="eng")
    assert corpus.labels == ("bad", "good")
    assert (len(corpus.rows("eng", "train")), len(corpus.rows("eng", "dev"))) == (6, 4)
    assert {text[:12] for text in corpus.text} == {"such a film "}
    assert all(corpus.label[row] == int(corpus.text[row][-1]) % 2 for row in range(10))
    table = read_tfds(
        foreign / "reviews", schema="translation", columns={"src": "both/en", "tgt": "both/de"}, language="eng-deu",
        splits={"validation": "test", "train": "train"},
    )  # fmt: skip
    assert table.languages() == ("eng-deu",)
    assert len(table.rows("eng-deu", "test")) == 4
    pairs = zip(table.texts("src"), table.texts("tgt"), strict=True)
    assert all(german == source.replace("cat", "Kätzchen") for source, german in pairs)
    parts = {"train[:50%]": "train", "train[50%:]": "test"}
    halves = read_tfds("reviews", data_dir=foreign, splits=parts, **SENTENCES)
    assert [len(halves.rows("eng", part)) for part in ("train", "test")] == [3, 3]
    lines_of = read_tfds(foreign / "reviews", columns={"text": "both/de"}, language="deu", schema="generation")
    assert lines_of.numbers("line").tolist() == list(range(1, 11))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nothing", {}, "no TFDS set nothing, neither as a folder nor by this name"),
        ("reviews", {}, "has the features both/de, both/en, sentence, verdict, verdicts, words; say in `columns`"),
        ("reviews", {"schema": "retrieval", "language": "a"}, "and lacks english, text; say in `columns`"),
        ("reviews", {"splits": {"test": "test"}}, "has the splits train, validation; say in `splits`"),
        ("reviews", {"columns": {"split": "verdict"}}, "has splits of its own; say in `splits` (`task.splits`) which"),
        ("reviews", {"splits": {"train": "learn"}}, "has the splits train, validation; say in `splits`"),
        (
            "reviews",
            {"splits": {"train": "train", "train[:50%]": "test"}, **SENTENCES},
            "reviews: the parts 'train' and 'train[:50%]' have examples in common; name parts that have none",
        ),
        (
            "reviews",
            {"schema": "generation", "columns": {"text": "words"}, "language": "eng"},
            "reviews, example 1: the text is a list in 'words'; name a feature that has one text",
        ),
        (
            "reviews",
            {"columns": {"text": "sentence", "label": "verdicts"}, "language": "eng"},
            "reviews, example 1: the label is a list in 'verdicts'; name a feature that has one text",
        ),
    ],
)
def test_what_cannot_be_read(foreign, source, options, message):
    with pytest.raises(InputError) as error:
        read_tfds(source, data_dir=foreign, **options)
    assert message in str(error.value)
    assert str(error.value).endswith(".")
    assert "\n" not in str(error.value)


def test_what_cannot_be_built(folder, tmp_path):
    with pytest.raises(InputError, match="is there already; remove it"):
        build_tfds("retrieval", folder / "from", folder / "to")
    with pytest.raises(InputError, match=r"no\.tsv does not exist"):
        build_tfds("no", folder / "from", tmp_path)
    (tmp_path / "Odd-Name.tsv").write_text("\n".join(lines("retrieval")), encoding="utf-8")
    with pytest.raises(InputError, match="cannot be called 'Odd-Name'; use small letters"):
        build_tfds("Odd-Name", tmp_path, tmp_path)
    (tmp_path / "odd.tsv").write_text("a\tb\n1\t2\n", encoding="utf-8")
    with pytest.raises(InputError, match="those of no kind of data"):
        read_rows(tmp_path / "odd.tsv")
    with pytest.raises(InputError, match="holds 7 TFDS sets; name the folder of one"):
        read_tfds(folder / "to")
