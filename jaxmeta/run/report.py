"""The report of a run: pictures as PNG files and one HTML page that needs nothing beside itself."""

import base64
import functools
import html
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxmeta.core.checks import InputError
from jaxmeta.run import comparison_figures, figure_style, figures, table
from jaxmeta.run.comparison_tables import comparison_tables
from jaxmeta.run.files import write_whole
from jaxmeta.run.records import read_evaluation, read_metrics, read_similarity
from jaxmeta.run.units import score_digits, score_format, unit, units

PAGE, FIGURES = "report.html", "figures"  # in the folder of a run


def write_report(folder: str | os.PathLike) -> pathlib.Path:
    """Writes `<folder>/report.html` and `<folder>/figures/*.png` from the results that the folder holds.

    Pictures of earlier results are removed. The page is one file: its pictures are inside, once for light and once for
    dark screens. Without matplotlib it is written without pictures and says how to get them.

    Returns:
      The path of the page.

    Raises:
      InputError: `evaluation.json` is missing or malformed, or `metrics.jsonl` is malformed.
    """
    folder = pathlib.Path(folder)
    evaluation, records, similarity = read_evaluation(folder), read_metrics(folder), read_similarity(folder)
    try:
        figure_style.require_matplotlib()
    except InputError as error:
        pictures, notice = {}, str(error)
    else:
        pictures, notice = _draw(evaluation, records, similarity), ""
        (folder / FIGURES).mkdir(exist_ok=True)
        for path in (folder / FIGURES).glob("*.png"):
            if path.stem not in pictures:  # an earlier judgement was asked for more
                path.unlink()
        for name, (light, _) in pictures.items():
            write_whole(folder / FIGURES / f"{name}.png", light)
    path = folder / PAGE
    write_whole(path, _page(evaluation, pictures, notice))
    return path


def write_overview(folder: str | os.PathLike, title: str, parts: Sequence[str]) -> pathlib.Path:
    """Writes `<folder>/report.html` for runs that are folders in it: the table of each, and a link to its report.

    Returns:
      The path of the page.

    Raises:
      InputError: the `evaluation.json` of one of them is missing or malformed.
    """
    folder = pathlib.Path(folder)
    body = [f"<h1>{html.escape(title)}</h1>"]
    for part in parts:
        evaluation = read_evaluation(folder / part)
        body += [
            f'<h2><a href="{html.escape(part)}/{PAGE}">{html.escape(part)}</a></h2>',
            *_summary(evaluation),
        ]
    path = folder / PAGE
    write_whole(path, _SHELL.replace("{{title}}", f"{html.escape(title)}: report").replace("{{body}}", "\n".join(body)))
    return path


_CAPTIONS = {
    "methods": "Mean over the held-out {many}. The interval resamples {many}, draws of shots within each, and training "
    "seeds once for all, so it speaks for {many} that are not in the table.",
    "gains": "Each bar is one held-out {one}; below zero, the baseline serves it better.",
    "inner_steps": "How the score changes with the number of adaptation steps; zero steps is no adaptation.",
    "shots": "How the score changes with the number of examples of the new {one}. At numbers other than that of the "
    "table it is of one draw and of the first training seed.",
    "fits": "Tasks that were not trained on. Triangles are the only points that adaptation sees.",
    "similarity_texts": "Languages that write alike stand together. Texts are those that a language adapts to.",
    "similarity_gradients": "Languages whose few examples pull the same parameters the same way, before adaptation.",
    "similarity_displacements": "Languages that adaptation moves the same way.",
    "similarity_distances": "Languages whose adapted parameters end close to each other.",
    "similarity_scripts": "Languages whose letters are of the same scripts.",
    "reliability": "On the diagonal a method is right as often as it says; below it, it is too sure. The temperature "
    "is fitted on shots that were held out of adaptation.",
    "learning_curves": "Training loss, a smoothed line over the raw one, for each phase.",
}


def _draw(
    evaluation: Mapping[str, Any], records: Sequence[Mapping[str, Any]], similarity: Mapping[str, Any]
) -> dict[str, tuple[bytes, bytes]]:
    """Returns the PNG of every figure that has data, by name, in the order of the page: (light, dark)."""
    makers: dict[str, Callable[[figure_style.Theme], figure_style.Figure | None]] = {
        "methods": lambda theme: figures.methods(evaluation, theme),
        "gains": lambda theme: figures.gains(evaluation, theme),
        "fits": lambda theme: figures.fits(evaluation.get("fits", []), theme),
        "inner_steps": lambda theme: figures.curve(evaluation, "inner_steps", theme),
        "shots": lambda theme: figures.curve(evaluation, "shots", theme),
        "reliability": lambda theme: comparison_figures.reliability(evaluation.get("temperature", {}), theme),
        **{
            f"similarity_{name}": functools.partial(comparison_figures.similarity, similarity, name)
            for name in similarity["measures"]
        },
        "learning_curves": lambda theme: figures.learning_curves(records, theme),
    }
    pictures: dict[str, list[bytes]] = {}
    for theme in (figure_style.LIGHT, figure_style.DARK):
        with figure_style.style(theme):
            for name, make in makers.items():
                figure = make(theme)
                if figure is not None:
                    pictures.setdefault(name, []).append(figure_style.png(figure))
    return {name: (light, dark) for name, (light, dark) in pictures.items()}


def _page(evaluation: Mapping[str, Any], pictures: Mapping[str, tuple[bytes, bytes]], notice: str) -> str:
    task = html.escape(evaluation["task"])
    parts = [
        f"<h1>{task}</h1>",
        *_summary(evaluation),
    ]
    if notice:
        parts.append(f'<p class="notice">This page has no pictures: {html.escape(notice)}</p>')
    parts += [_picture(_caption(name, evaluation), *images) for name, images in pictures.items()]
    parts += [
        _paired_table(evaluation),
        _scores_table(evaluation),
        *(_section(*found) for found in comparison_tables(evaluation)),
    ]
    parts.append(_languages_table(evaluation))
    facts = dict(evaluation.get("data", {}))
    scripts = facts.pop("scripts", [])
    parts += [_data_section(facts), _scripts_table(scripts)]
    body = "\n".join(part for part in parts if part)
    return _SHELL.replace("{{title}}", f"{task}: report").replace("{{body}}", body)


def _summary(evaluation: Mapping[str, Any]) -> list[str]:
    """Returns what was measured, what came of it, the table of methods and what to know of it."""
    notes = (table.edge_note(evaluation), table.unit_note(evaluation))
    further = (f"<p>{html.escape(said)}</p>" for said in table.further_sentences(evaluation))
    return [
        f'<p class="quiet">{html.escape(table.title(evaluation))}</p>',
        f'<p class="verdict">{html.escape(evaluation["verdict"])}</p>',
        _methods_table(evaluation),
        *further,
        *(f'<p class="quiet">{html.escape(note)}</p>' for note in notes if note),
    ]


def _caption(name: str, evaluation: Mapping[str, Any]) -> str:
    return _CAPTIONS[name].format(one=unit(evaluation), many=units(evaluation))


def _picture(caption: str, light: bytes, dark: bytes) -> str:
    def inline(image: bytes) -> str:
        return "data:image/png;base64," + base64.b64encode(image).decode()

    caption = html.escape(caption)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{inline(dark)}">'
        f'<img src="{inline(light)}" alt="{caption}"></picture><figcaption>{caption}</figcaption></figure>'
    )


def _methods_table(evaluation: Mapping[str, Any]) -> str:
    rows = table.table_rows(evaluation)
    cells = [(row.method, *table.cells(row)) for row in rows]
    return _table(table.headers(evaluation), cells, kinds=[row.kind for row in rows])


def _paired_table(evaluation: Mapping[str, Any]) -> str:
    show = score_format(evaluation)
    rows = [
        (name, show(pair["mean"]), table.interval_text(pair["ci95"], show), pair["wins"], pair["losses"])
        for name, pair in evaluation["paired"].items()
    ]
    note = f"Above zero, the first method is better. Wins and losses count {units(evaluation)}."
    return _section("Paired differences", note, ("pair", "mean", "95% interval", "wins", "losses"), rows)


def _scores_table(evaluation: Mapping[str, Any]) -> str:
    known = {name for row in evaluation.get("calibration", {}).values() for name in row}
    scores = {name: evaluation["methods"][name].get("scores", {}) for name in table.ranked(evaluation)}
    names = [name for name in dict.fromkeys(name for row in scores.values() for name in row) if name not in known]
    digits = {name: score_digits(name, [row[name] for row in scores.values() if name in row]) for name in names}
    rows = [
        (method, *(f"{row[name]:.{digits[name]}f}" if name in row else "" for name in names))
        for method, row in scores.items()
    ]
    note = f"Means over {units(evaluation)}, draws and seeds; settings were chosen by the score of the first table."
    return _section("Every score", note, ("method", *(name.replace("_", " ") for name in names)), rows if names else [])


def _languages_table(evaluation: Mapping[str, Any]) -> str:
    show, names = score_format(evaluation), table.ranked(evaluation)
    rows = []
    for language in evaluation["languages"]:
        scores = [evaluation["methods"][name]["per_language"].get(language) for name in names]
        rows.append((language, *("" if score is None else show(score) for score in scores)))
    one = unit(evaluation)
    return f"<details><summary>Scores by {one}</summary>{_table((one, *names), rows)}</details>"


def _data_section(data: Mapping[str, Any]) -> str:
    if not data:
        return ""
    items = []
    for name, value in data.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict):
            text = ", ".join(f"{key}: {entry}" for key, entry in value.items())
        items.append(f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>")
    return f"<h2>Data</h2><dl>{''.join(items)}</dl>"


def _scripts_table(scripts: Sequence[Mapping[str, Any]]) -> str:
    note = "What the tokenizer makes of the texts of each script; words are counted where spaces part them."
    return _section("Scripts", note, table.SCRIPT_HEADERS, [table.script_cells(row) for row in scripts])


def _section(heading: str, note: str, headers: Sequence[str], rows: Sequence[Sequence]) -> str:
    if not rows:
        return ""
    return f'<h2>{heading}</h2><p class="quiet">{note}</p>' + _table(headers, rows)


def _table(headers: Sequence[str], rows: Sequence[Sequence], *, kinds: Sequence[str] = ()) -> str:
    """Returns a table whose first column names the rows; `kinds` puts a small tag behind each name."""
    head = "".join(f"<th>{html.escape(header)}</th>" for header in headers)
    lines = []
    for index, (name, *cells) in enumerate(rows):
        kind = html.escape(kinds[index]) if kinds else ""
        tag = f' <span class="tag {kind}">{kind}</span>' if kind else ""
        values = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{html.escape(str(name))}{tag}</th>{values}</tr>')
    body = "".join(lines)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{title}}</title>
<style>
:root { --paper: #fff; --ink: #1b1f24; --quiet: #626b76; --line: #e1e5ea;
  --meta: #0072b2; --baseline: #b34f00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161b22; --ink: #e6edf3; --quiet: #98a2ae; --line: #2b323b;
    --meta: #56b4e9; --baseline: #f0894a; }
}
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 62rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { margin: 0; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.5rem 0 .5rem; font-size: 1.15rem; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
.quiet { margin: .3rem 0; }
.verdict { margin: 1.4rem 0; padding-left: .9rem; border-left: 4px solid var(--meta); font-size: 1.15rem; }
.notice { padding: .6rem .9rem; border: 1px solid var(--line); border-radius: 6px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
thead th { color: var(--quiet); font-weight: 500; }
th:first-child { padding-left: 0; text-align: left; }
tbody th { font-weight: 600; }
.tag { margin-left: .35rem; font-size: .75rem; font-weight: 500; }
.tag.meta-learner { color: var(--meta); }
.tag.baseline { color: var(--baseline); }
figure { margin: 2.4rem 0; }
img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: .4rem; }
details { margin: 2.5rem 0; }
summary { cursor: pointer; font-weight: 600; }
dt { margin-top: .5rem; font-weight: 600; }
dd { margin: 0; }
</style>
</head>
<body>
{{body}}
</body>
</html>
"""
