"""What other languages are worth: gains and losses of made-up grids, and the sentences about them."""

import numpy as np
import pytest

from jaxmeta.run.leave_out import leave_one_out
from jaxmeta.run.statistics import paired_difference
from jaxmeta.run.transfer import transfer

LANGUAGES = ["ta", "tb", "tc"]
NEAREST = {"ta": [("sa", 0.9), ("sb", 0.1)], "tb": [("sb", 0.8), ("sa", 0.3)], "tc": [("sc", 0.7)]}


def judged(grids, higher=True, best="maml"):
    """Returns an evaluation of methods by their grids `[3, R]`; only `target_only` has trained on nothing."""
    return {
        "languages": LANGUAGES, "metric": "accuracy", "higher_is_better": higher, "best_meta_learner": best,
        "training_seeds": [0],
        "methods": {
            name: {
                "mean": float(np.mean(grid)),
                "repetitions": dict(zip(LANGUAGES, grid, strict=True)),
                "compute": {"gradient_examples": 0.0 if name == "target_only" else 9.0, "seconds": 0.0},
                "adaptation": {"dev_score": float(np.mean(grid))},
            }
            for name, grid in grids.items()
        },
    }  # fmt: skip


ALONE, MAML = [[50, 52], [60, 60], [70, 71]], [[80, 82], [40, 45], [69, 70]]


def test_a_language_that_is_hurt_is_named_with_its_sources():
    found = transfer(judged({"target_only": ALONE, "maml": MAML}), NEAREST)
    gains = {language: result["gain"] for language, result in found["per_language"].items()}
    assert gains == {"ta": 30.0, "tb": -17.5, "tc": -1.0}
    result = found["methods"]["maml"]
    assert (result["helped"], result["hurt"], result["hurt_languages"]) == (1, 2, ["tb", "tc"])
    pair = paired_difference(MAML, ALONE)
    assert (result["mean"], *result["ci95"]) == pytest.approx(tuple(pair)[:3])
    assert found["per_language"]["tb"]["nearest"] == [["sb", 0.8], ["sa", 0.3]]
    assert found["says"] == (
        "Transfer over target_only, by maml: helped in 1 language, hurt in 2 (tb, nearest sources sb, sa; tc, nearest "
        "sources sc)."
    )
    assert "hurt in 2 (tb; tc)." in transfer(judged({"target_only": ALONE, "maml": MAML}), {})["says"]


def test_where_lower_is_better_the_signs_turn():
    found = transfer(judged({"target_only": ALONE, "maml": MAML}, higher=False), NEAREST)
    assert found["per_language"]["ta"]["gain"] == -30
    assert found["methods"]["maml"]["hurt_languages"] == ["ta"]


def test_without_a_meta_learner_the_best_that_is_trained_on_dev_speaks():
    found = transfer(judged({"target_only": ALONE, "joint": MAML, "zero_shot": ALONE}, best=None), {})
    assert found["method"] == "joint"
    assert found["methods"]["zero_shot"] | {"ci95": None} == {
        "mean": 0.0, "ci95": None, "helped": 0, "hurt": 0, "hurt_languages": [],
    }  # fmt: skip
    assert transfer(judged({"maml": MAML}), {}) is None
    assert transfer(judged({"target_only": ALONE}, best=None), {}) is None


@pytest.mark.parametrize("higher", [True, False])
def test_a_source_is_worth_what_is_lost_without_it(higher):
    sign = 1 if higher else -1
    full = np.array(MAML, float)
    without = {"sa": full - sign * np.array([[10], [1], [0]]), "sb": full + sign * np.array([[0], [20], [2]])}
    found = leave_one_out(
        judged({"maml": full.tolist()}, higher),
        {source: judged({"maml": grid.tolist()}, higher) for source, grid in without.items()},
        "maml",
        NEAREST,
    )
    assert found["sources"]["sa"]["per_language"] == pytest.approx({"ta": 10, "tb": 1, "tc": 0})
    assert (found["sources"]["sa"]["wins"], found["sources"]["sa"]["losses"]) == (2, 0)
    assert found["sources"]["sb"]["mean"] == pytest.approx(-22 / 3)
    low, high = found["sources"]["sb"]["ci95"]
    assert low <= -22 / 3 <= high
    # `ta` without `sa`, `tb` without `sb`; nobody trained without the source nearest to `tc`.
    assert found["nearest"]["removed"] == {"ta": "sa", "tb": "sb"}
    assert found["nearest"]["per_language"] == pytest.approx({"ta": 10, "tb": -20})
    assert found["nearest"]["mean"] == pytest.approx(-5)
    assert found["nearest"]["others"] == pytest.approx((0 + 1) / 2)
    assert "without its nearest source: -5.00 accuracy (95% interval" in found["says"]
    assert "worse off in 1, better off in 1); without another source 0.50." in found["says"]


def test_what_diverged_is_hurt_and_says_so():
    diverged = [[80, 82], [np.nan, 45], [69, 70]]
    found = transfer(judged({"target_only": ALONE, "maml": diverged}), NEAREST)
    assert found["says"].startswith("Transfer over target_only, by maml: helped in 1 language, hurt in 2 (tb, nearest")
    assert found["per_language"]["tb"]["gain"] == -np.inf
    full = judged({"maml": MAML})
    near = leave_one_out(full, {"sb": judged({"maml": diverged})}, "maml", NEAREST)
    assert near["says"] == "maml has no finite score in some language without its nearest source."
    assert (near["nearest"]["wins"], near["nearest"]["losses"]) == (1, 0)
    most = leave_one_out(full, {"sa": judged({"maml": diverged}), "sb": judged({"maml": ALONE})}, "maml", {})
    assert "maml misses sb most" in most["says"]
    none = leave_one_out(full, {"sa": judged({"maml": diverged})}, "maml", {})
    assert none["says"] == "maml has no finite score in some language without each of 1 sources."


def test_without_texts_the_source_that_is_missed_most_is_named():
    full = np.array(MAML, float)
    without = {name: judged({"maml": (full - loss).tolist()}) for name, loss in (("sa", 1.0), ("sb", 3.0))}
    found = leave_one_out(judged({"maml": MAML}), without, "maml", {})
    assert found["nearest"] is None
    assert found["says"].startswith("Of 2 sources left out one at a time, maml misses sb most: 3.00 accuracy")
