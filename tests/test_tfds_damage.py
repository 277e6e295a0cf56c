"""Prepared sets that are damaged: one sentence for each, in memory and on disk."""

import shutil

import pytest

from jaxmeta import data
from jaxmeta.core.checks import InputError
from jaxmeta.data.tfds_sets import Contents, library, write_set


def read_all(folder, streamed):
    if streamed:
        rows = data.StreamedRows(data.TfdsRows(folder, "classification"), name="rows")
        return list(rows.read())
    return data.read_tfds(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets")
    rows = [f"{c}\t{s}\t{'ny'[n % 2]}\t{c} größer {s} {n}" for c in ("aa", "bb") for s in data.SPLITS for n in range(9)]
    (path / "rows.tsv").write_text("\n".join(["language\tsplit\tlabel\ttext", *rows]), encoding="utf-8")
    return data.build_tfds("rows", path, path / "to")


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:256] + bytes(255 - byte for byte in content[256:4096]) + content[4096:])


STORED = "rows-train.array_record-00000-of-00001"
DAMAGE = {
    "cut": (STORED, lambda path: cut(path, 0.9), "cannot be read, as if it were damaged (RuntimeError: Corrupted"),
    "cut in half": (STORED, lambda path: cut(path, 0.5), "is missing, as if the set were damaged"),
    "empty": (STORED, lambda path: path.write_bytes(b""), "cannot be read, as if it were damaged (RuntimeError"),
    "flipped": (STORED, flip, "cannot be read, as if it were damaged (RuntimeError: Corrupted"),
    "missing": (STORED, lambda path: path.unlink(), f"/{STORED}); copy or build it again"),
    "no facts": ("dataset_info.json", lambda path: path.write_bytes(b""), "as if it were damaged (ParseError"),
    "facts cut": ("dataset_info.json", lambda path: cut(path, 0.5), "as if it were damaged (ParseError"),
    "features cut": ("features.json", lambda path: cut(path, 0.5), "as if it were damaged (JSONDecodeError"),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_one_sentence(made, name, streamed, tmp_path):
    file, damage, says = DAMAGE[name]
    folder = shutil.copytree(made, tmp_path / "rows")
    assert len(read_all(folder, streamed)) == 54
    damage(folder / file)
    with pytest.raises(InputError) as error:
        read_all(folder, streamed)
    text = str(error.value)
    assert str(folder) in text
    assert says in text
    assert text.endswith("copy or build it again.")
    assert "\n" not in text
    assert ". " not in text


@pytest.mark.parametrize("streamed", [False, True])
def test_text_that_is_not_utf_8_is_one_sentence(streamed, tmp_path):
    tfds = library()
    features = {"text": tfds.features.Text(), "language": tfds.features.Text(), "label": tfds.features.Text()}
    texts = ("größer".encode(), "größer".encode("latin-1"))
    rows = [{"text": text, "language": "deu", "label": "y"} for text in texts]
    folder = write_set("odd", tmp_path, Contents(features, {"train": rows}, "Odd."), tmp_path / "README.md")
    with pytest.raises(InputError) as error:
        read_all(folder, streamed)
    assert str(error.value) == (
        f"{folder}, example 2: the text is not UTF-8; store it as UTF-8, or leave such examples out."
    )


def test_what_a_set_needs_is_named(monkeypatch):
    def builder(name, **options):
        raise ImportError("Failed to import what is not named.")

    monkeypatch.setattr(library(), "builder", builder)
    with pytest.raises(InputError, match="speech_commands needs tensorflow to be read; install it"):
        data.read_tfds("speech_commands")
