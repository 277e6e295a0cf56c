"""The report, its figures and its tables, from results made up here."""

import base64
import html.parser
import json
import re
import sys
import warnings

import numpy as np
import pytest
from rich.console import Console

from jaxmeta.core.checks import InputError
from jaxmeta.run import figure_style, figures, table
from jaxmeta.run.records import read_evaluation, read_metrics
from jaxmeta.run.report import write_report
from jaxmeta.run.units import difference_format, score_format

PNG = b"\x89PNG\r\n"


def _method(scores, kind="", **changes):
    mean = float(np.mean(list(scores.values())))
    return {
        "metric": "accuracy",
        "mean": mean,
        "ci95": [mean - 2.0, mean + 1.0],
        "worst_language": min(scores, key=scores.__getitem__),
        "worst_quartile": min(scores.values()),
        "per_language": scores,
        "repetitions": {language: [score] for language, score in scores.items()},
        "compute": {"gradient_examples": 1_250_000, "seconds": 61.25},
        "adaptation": {"dev_score": mean},
        **({"kind": kind} if kind else {}),
        **changes,
    }


def _evaluation(num_languages=45, **changes):
    rng = np.random.default_rng(0)
    languages = [f"l{index:02d}" for index in range(num_languages)]
    draw = lambda mean: dict(zip(languages, rng.normal(mean, 4, num_languages).tolist(), strict=True))  # noqa: E731
    points = [{"x": x, "mean": 50.0 + x, "ci95": [49.0 + x, 52.0 + x]} for x in (0, 1, 5, 20)]
    grid = np.linspace(-5, 5, 20)
    fit = {
        "x": grid.tolist(),
        "truth": np.sin(grid).tolist(),
        "support_x": [0.0, 1.0],
        "support_y": [0.0, 0.8],
        "predictions": {"before": (0 * grid).tolist(), "after 1 step": (0.9 * np.sin(grid)).tolist()},
    }
    return {
        "task": "months",
        "metric": "accuracy",
        "higher_is_better": True,
        "languages": languages,
        "training_seeds": [0],
        "shot_seeds": [0, 1, 2],
        "shots": 2,
        "methods": {
            "joint": _method(draw(70), "baseline"),
            "maml": _method(draw(80), "meta-learner") | {"scores": {"macro_f1": 61.234, "brier": 0.2}},
            "target <only> & co": _method(draw(40), "baseline"),
        },
        "paired": {"maml - joint": {"mean": 9.5, "ci95": [8.0, 11.0], "wins": 40, "losses": 5}},
        "best_meta_learner": "maml",
        "best_baseline": "joint",
        "verdict": "maml beats joint by 9.5 points.",
        "curves": {"inner_steps": {"maml": points, "joint": points}, "shots": {"maml": points}},
        "fits": [fit] * 4,
        "calibration": {"maml": {"nll": 0.412, "brier": 0.2, "ece": 0.05}, "joint": {"nll": 0.9}},
        "data": {"overlap": "none found", "tokenizer": {"kind": "bytes"}},
        **changes,
    }


def _write(folder, evaluation, metrics=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(evaluation), encoding="utf-8")
    if metrics is not None:
        (folder / "metrics.jsonl").write_text(metrics, encoding="utf-8")
    return folder


def _metrics(phases=("joint", "maml"), steps=60):
    rows = [
        {"phase": phase, "step": step, "loss": 2.0 / (step + 1), "accuracy": step / steps}
        for phase in phases
        for step in range(steps)
    ]
    return "".join(json.dumps(row) + "\n" for row in [*rows, {"final": True, "step": steps, "loss": 0.1}])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = _write(tmp_path_factory.mktemp("run"), _evaluation(), _metrics())
    assert write_report(folder) == folder / "report.html"
    return folder


def test_pictures_of_an_earlier_judgement_are_removed(tmp_path):
    folder = _write(tmp_path, _evaluation(), _metrics())
    (folder / "figures").mkdir()
    (folder / "figures" / "similarity_gradients.png").write_bytes(b"of what is not asked for any more")
    write_report(folder)
    assert not (folder / "figures" / "similarity_gradients.png").exists()
    assert (folder / "figures" / "methods.png").exists()


class _Reader(html.parser.HTMLParser):
    """Collects tags, addresses and text, and checks that every tag is closed in order."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.text = [], set(), [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "srcset", "href", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_every_picture_is_a_file_and_in_the_page(run):
    page = _Reader((run / "report.html").read_text("utf-8"))
    names = {path.name for path in (run / "figures").iterdir()}
    assert names == {f"{name}.png" for name in ("methods", "gains", "fits", "inner_steps", "shots", "learning_curves")}
    embedded = [base64.b64decode(address.removeprefix("data:image/png;base64,")) for address in page.addresses]
    assert all(image.startswith(PNG) for image in embedded)
    assert len(set(embedded)) == 2 * len(names)  # one for light, one for dark
    assert {(run / "figures" / name).read_bytes() for name in names} <= set(embedded)
    assert not list(run.rglob("*.part"))


def test_page_needs_nothing_beside_itself(run):
    source = (run / "report.html").read_text("utf-8")
    page = _Reader(source)
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not page.tags & {"script", "link", "iframe", "object"}
    assert not re.search(r"https?://|@import|url\(", source)
    assert "prefers-color-scheme: dark" in source


def test_page_says_it_all_and_escapes_it(run):
    source = (run / "report.html").read_text("utf-8")
    text = " ".join(_Reader(source).text)
    assert "target <only> & co" in text
    assert "<only>" not in source
    evaluation = read_evaluation(run)
    for piece in (
        evaluation["verdict"],
        "45 held-out languages",
        "none found",
        "0.412",
        "1.25M",
        "8.0 to 11.0",
        "macro f1",
        "61.2",
        "Scores by inner steps",
    ):
        assert piece in text
    assert all(language in text for language in evaluation["languages"])


def test_optional_parts_may_be_absent(tmp_path):
    evaluation = _evaluation(3)
    for key in ("curves", "fits", "calibration", "data"):
        del evaluation[key]
    evaluation["paired"] = {}
    text = " ".join(_Reader(write_report(_write(tmp_path, evaluation)).read_text("utf-8")).text)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"methods", "gains"}
    assert "Calibration" not in text
    assert "Scores by inner steps" not in text
    assert "Paired differences" not in text


def test_one_method_alone_has_a_report(tmp_path):
    methods = {"maml": _method({"yi": 3.0})}
    alone = _evaluation(1, methods=methods, languages=["yi"], paired={}, best_baseline=None, curves={})
    write_report(_write(tmp_path, alone, _metrics(["maml"], steps=1)))
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"methods", "fits", "learning_curves"}


def test_without_matplotlib_the_page_says_how_to_get_it(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = _Reader(write_report(_write(tmp_path, _evaluation())).read_text("utf-8"))
    text = " ".join(page.text)
    assert 'pip install "jaxmeta[viz]"' in text
    assert "maml beats joint" in text
    assert "img" not in page.tags
    assert not (tmp_path / "figures").exists()


_MISTYPED = {"dev_score": 1.0, "on_edge": "steps"}


def _without(*path):
    evaluation = _evaluation(3)
    inner = evaluation
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return json.dumps(evaluation)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("", "line 1: not JSON"),
        ('{"task": "months",\n "metric": ', "line 2: not JSON"),
        (b"\xff\xfe{}", "cannot be read"),
        ("[]", "the whole file"),
        (_without("verdict"), "`verdict`: field required"),
        (_without("methods", "maml", "compute", "seconds"), r"`methods\.maml\.compute\.seconds`"),
        (_without("methods", "maml", "adaptation", "dev_score"), r"`methods\.maml\.adaptation\.dev_score`"),
        (_without("methods", "joint", "repetitions"), r"`methods\.joint\.repetitions`"),
        (json.dumps(_evaluation(2, methods={})), "`methods`"),
        (json.dumps(_evaluation(2, languages="yi")), "`languages`: .*list"),
        (json.dumps(_evaluation(2, methods={"m": _method({"yi": 1.0}, ci95=[1.0])})), r"`methods\.m\.ci95`"),
        (json.dumps(_evaluation(2, methods={"m": _method({"yi": 1.0}, mean="3")})), r"`methods\.m\.mean`"),
        (json.dumps(_evaluation(2, best_baseline="magic")), "names 'magic'"),
        (
            json.dumps(_evaluation(2, methods={"m": _method({"yi": 1.0}, adaptation=_MISTYPED)})),
            r"`methods\.m\.adaptation\.on_edge`",
        ),
        (json.dumps(_evaluation(2, fits=[_evaluation(1)["fits"][0] | {"truth": [1.0]}])), r"`fits\.0`"),
    ],
)
def test_malformed_results_are_one_sentence_and_no_page(tmp_path, content, message):
    if content is not None:
        (tmp_path / "evaluation.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        write_report(tmp_path)
    assert str(tmp_path / "evaluation.json") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_metrics_leave_out_lines_that_a_kill_cut(tmp_path):
    good = '{"phase": "maml", "step": 1, "loss": 0.5}\n'
    assert read_metrics(tmp_path) == []
    (tmp_path / "metrics.jsonl").write_text(good + '{"event": "resumed"}\n\n' + '{"phase": "ma')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1]
    # A resumed run goes on behind the cut.
    (tmp_path / "metrics.jsonl").write_text(good + '{"phase": "ma' + good + good.replace("1", "2"))
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    (tmp_path / "metrics.jsonl").write_text(good + "3\n" + good)
    with pytest.raises(InputError, match="line 2: not a JSON object"):
        read_metrics(tmp_path)


def test_learning_curves_take_the_later_line_and_the_mean_of_seeds():
    rows = [{"phase": "a", "step": step, "loss": 9.0} for step in (0, 1)]
    rows += [{"phase": "a", "step": step, "loss": float(step)} for step in (1, 2)]
    rows += [{"phase": f"b/seed_{seed}", "step": 0, "loss": loss} for seed, loss in ((0, 1.0), (1, 4.0))]
    (axes,) = figures.learning_curves(rows).axes
    lines = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]
    assert lines == [([0.0, 1.0, 2.0], [9.0, 1.0, 2.0]), ([0.0], [2.5])]
    assert figures.learning_curves([]) is None


@pytest.mark.parametrize(
    ("metric", "says"),
    [("csls_recall_at_1", "CSLS recall@1"), ("word_error_rate", "Word error rate"), ("chrf++", "chrF++"), ("f1", "F1")],
)
def test_scores_are_spelled_in_headings(metric, says):
    figure = figures.methods({**_evaluation(3), "metric": metric})
    assert figure is not None
    (axes,) = figure.axes
    assert axes.get_title(loc="left").startswith(f"{says} of all methods")


def test_gains_are_sorted_signed_and_coloured():
    ours, theirs = {"a": 1.0, "b": 5.0, "c": 2.0}, {"a": 2.0, "b": 1.0, "c": 2.5}
    methods = {"maml": _method(ours, "meta-learner"), "joint": _method(theirs, "baseline")}
    for higher, order in ((True, ["b", "c", "a"]), (False, ["a", "c", "b"])):
        evaluation = _evaluation(1, methods=methods, higher_is_better=higher)
        (axes,) = figures.gains(evaluation).axes
        assert [label.get_text() for label in axes.get_xticklabels()] == order
        bars = axes.patches[-3:]
        sign = 1 if higher else -1
        assert [bar.get_height() for bar in bars] == [sign * (ours[k] - theirs[k]) for k in order]
        wins = [bar.get_height() >= 0 for bar in bars]
        assert len({(win, bar.get_facecolor()) for win, bar in zip(wins, bars, strict=True)}) == 2


@pytest.mark.parametrize(("count", "rows"), [(30, 1), (41, 2), (80, 2), (279, 7)])
def test_gains_keep_room_for_every_language(count, rows):
    figure = figures.gains(_evaluation(count))
    labels = [label.get_text() for axes in figure.axes for label in axes.get_xticklabels()]
    assert len(figure.axes) == rows
    assert len(set(labels)) == len(labels) == count
    assert figure.get_figwidth() * 72 / max(len(axes.get_xticklabels()) for axes in figure.axes) > 10


def test_names_in_any_script_draw_without_a_warning(tmp_path):
    scores = {"ᏣᎳᎩ": 1.0, "$x_{1}$": 2.0, "العربية": 3.0, "ଓଡ଼ିଆ": 4.0}
    evaluation = _evaluation(1, languages=list(scores), methods={"maml": _method(scores), "joint": _method(scores)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(_write(tmp_path, evaluation))


def test_labels_move_apart_and_no_further_than_needed():
    rng = np.random.default_rng(0)
    for _ in range(50):
        heights = rng.uniform(0, 1, rng.integers(1, 15))
        moved = figure_style.spread_labels(heights, 0.06)
        assert (np.diff(np.sort(moved)) >= 0.06 - 1e-9).all()
        assert (np.argsort(moved) == np.argsort(heights)).all()
        assert moved.min() >= 0
        assert moved.max() <= 1 + 1e-9
    np.testing.assert_allclose(figure_style.spread_labels([0.5, 0.1, 0.9], 0.06), [0.5, 0.1, 0.9])
    np.testing.assert_allclose(figure_style.spread_labels([0.5, 0.5], 0.1), [0.45, 0.55])


def _lines(evaluation, width):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table.results_table(evaluation))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_terminal_table_is_sorted_and_marked():
    lines = _lines(_evaluation(), 80)
    rows = [line.split()[:2] for line in lines if line.strip().startswith(("●", "○")) and "." in line]
    assert rows == [["●", "maml"], ["○", "joint"], ["○", "target"]]
    assert lines[-1].strip() == "maml beats joint by 9.5 points."
    assert all(len(line) <= 80 for line in lines)


def test_choices_on_the_edge_are_named_under_the_table_and_in_the_page(tmp_path):
    evaluation = _evaluation(3)
    assert table.edge_note(evaluation) == ""
    for name, edges in (("joint", ["steps", "learning_rate"]), ("maml", ["steps"]), ("target <only> & co", [])):
        evaluation["methods"][name]["adaptation"] |= {"on_edge": edges}
    evaluation["methods"]["target <only> & co"]["adaptation"] |= {"on_edge": ["inverse_strength"]}  # one of its own
    note = (
        "maml, joint chose the largest number of inner steps offered; joint chose the smallest or largest learning "
        "rate offered; target <only> & co chose the smallest or largest inverse strength offered: with others they may "
        "do better."
    )
    assert table.edge_note(evaluation) == note
    assert note in " ".join(" ".join(line.split()) for line in _lines(evaluation, 80))
    assert note in " ".join(_Reader(write_report(_write(tmp_path, evaluation)).read_text("utf-8")).text)


def test_lower_is_better_turns_the_order_round():
    evaluation = _evaluation(higher_is_better=False)
    assert table.ranked(evaluation) == ["target <only> & co", "joint", "maml"]
    worst = table.table_rows(evaluation)[0].worst_language.split()[1]
    scores = evaluation["methods"]["target <only> & co"]["per_language"]
    assert scores[worst] == max(scores.values())


def test_a_score_that_is_not_a_number_is_last_and_shown():
    evaluation = _evaluation(3)
    evaluation["methods"]["broken"] = _method(
        {"l00": float("nan"), "l01": 1.0}, mean=float("nan"), ci95=[float("nan")] * 2
    )
    row = table.table_rows(evaluation)[-1]
    assert (row.method, row.mean, row.worst_language) == ("broken", "nan", "nan l00")
    assert figures.methods(evaluation) is not None


def test_kinds_fall_back_on_what_won():
    evaluation = _evaluation(3)
    for method in evaluation["methods"].values():
        del method["kind"]
    assert [row.kind for row in table.table_rows(evaluation)] == ["meta-learner", "baseline", ""]


def test_what_scores_are_averaged_over_is_called_by_its_name():
    scores = {"af": 0.25, "yi": 0.5}
    methods = {name: _method(scores, kind) for name, kind in (("maml", "meta-learner"), ("joint", "baseline"))}
    evaluation = _evaluation(1, methods=methods) | {"languages": [*scores], "unit": "child"}
    assert ", 2 held-out children, " in table.title(evaluation)
    assert "worst child" in table.headers(evaluation)
    one = evaluation | {"languages": ["af"], "unit": "speaker", "training_seeds": [0, 1]}
    assert table.unit_note(one).startswith("One held-out speaker: ")
    assert table.unit_note(one).endswith(" nothing of other speakers.")
    assert table.unit_note(evaluation) == "One training seed: intervals do not say how other trainings would do."
    assert table.unit_note(evaluation | {"training_seeds": [0, 1]}) == ""


@pytest.mark.parametrize(
    ("metric", "means", "shown", "difference"),
    [
        ("accuracy", {"a": 83.14, "b": 0.0}, "83.1", "0.00"),
        ("word_error_rate", {"a": 4.2, "b": 6.2, "c": 49.3}, "4.2", "0.00"),
        ("chrf++", {"a": 51.02, "b": 37.5}, "51.0", "0.00"),
        ("mse", {"a": 0.012, "b": 0.031, "diverged": 50.0}, "0.012", "0.004"),
        ("bits_per_byte", {"a": 2.049}, "2.049", "0.004"),
    ],
)
def test_digits_are_those_that_tell_methods_apart(metric, means, shown, difference):
    found = {"metric": metric, "methods": {name: {"mean": mean} for name, mean in means.items()}}
    assert score_format(found)(means["a"]) == shown
    assert difference_format(found)(0.0041) == difference
