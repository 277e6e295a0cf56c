"""Word and character error rates of transcripts, by rapidfuzz, as sums that give an exact score over many batches."""

from collections.abc import Mapping, Sequence

from jaxmeta.core.checks import InputError, check_one_of

UNITS = ("word", "character")
COUNTS = ("sentences", "exact", "units", "substitutions", "deletions", "insertions")


def edit_counts(references: Sequence[str], hypotheses: Sequence[str], *, unit: str = "word") -> dict[str, int]:
    """Counts the edits of a best alignment of each hypothesis with its reference; such counts may be summed.

    Args:
      references: what was said.
      hypotheses: what was read, in the same order.
      unit: "word", separated by white space, or "character", white space as one space.

    Returns:
      "sentences"; "exact", those without an edit; "units" of the references; "substitutions", "deletions" (said and
      not read) and "insertions" (read and not said). Their sum is the edit distance; where several alignments are as
      good, how it splits into the three is rapidfuzz's choice.

    Raises:
      ValueError: `unit` is unknown, or the two are not equally many.
      InputError: rapidfuzz is not installed.
    """
    check_one_of("unit", unit, UNITS)
    if len(references) != len(hypotheses):
        raise ValueError(f"`hypotheses` must be as many as `references`, got {len(hypotheses)} and {len(references)}")
    levenshtein = _levenshtein()
    counts: dict[str, int] = dict.fromkeys(COUNTS, 0)
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        said, read = _units(reference, unit), _units(hypothesis, unit)
        edits = [edit.tag for edit in levenshtein.editops(said, read)]
        counts["sentences"] += 1
        counts["exact"] += not edits
        counts["units"] += len(said)
        counts["substitutions"] += edits.count("replace")
        counts["deletions"] += edits.count("delete")
        counts["insertions"] += edits.count("insert")
    return counts


def edit_scores(counts: Mapping[str, int]) -> dict[str, float]:
    """Turns a sum of `edit_counts` into "error_rate", edits for each unit that was said, and "exact".

    The error rate is that of words or of characters, as they were counted, and may exceed one. Both are NaN where
    nothing was said.
    """
    edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
    return {
        "error_rate": edits / counts["units"] if counts["units"] else float("nan"),
        "exact": counts["exact"] / counts["sentences"] if counts["sentences"] else float("nan"),
    }


def _units(text: str, unit: str) -> list[str]:
    words = text.split()
    return words if unit == "word" else list(" ".join(words))


def _levenshtein():
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError:
        raise InputError(
            'Error rates of transcripts need rapidfuzz, which is not installed; run `pip install "jaxmeta[eval]"`.'
        ) from None
    return Levenshtein
