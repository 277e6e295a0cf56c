"""What the documents say is true: links lead somewhere, examples run, configs exist."""

import pathlib
import re
import subprocess
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
NOT_RUN = "<!-- not-run -->"
TEST_COMMAND = "<!-- test-command -->"
# Paths of one machine. Split, so that this file passes its own test.
MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(" + "|".join(("work", "root", "home", "Users")) + r")/")


class Block(NamedTuple):
    """A fenced block: language, text, number of its first line of text, and the line before its fence."""

    page: pathlib.Path
    language: str
    text: str
    line: int
    before: str


def blocks(page: pathlib.Path) -> list[Block]:
    """Returns the fenced blocks of a page; a fence that is never closed is an error."""
    found: list[Block] = []
    start, language, before, last = 0, "", "", ""
    lines = page.read_text("utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not start and line.startswith("```"):
            start, language, before = number, line[3:].strip(), last
        elif start and line.startswith("```"):
            text = "\n".join(lines[start : number - 1]) + "\n"
            found.append(Block(page, language, text, start + 1, before))
            start = 0
        elif line.strip():
            last = line.strip()
    assert not start, f"{page}:{start}: this fence is not closed"
    return found


def prose(page: pathlib.Path) -> str:
    """Returns the text of a page without its fenced blocks and inline code."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: pathlib.Path) -> set[str]:
    """Returns the anchors that a page's headings make."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ +(.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def tracked() -> list[pathlib.Path]:
    """Returns the files of the repository, or of the unpacked archive where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        output = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        folders = ("jaxmeta", "tests", "docs", "configs", "benchmarks")
        return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for name in output.decode().split("\0") if name and (path := ROOT / name).is_file()]


def _id(value: object) -> str:
    if isinstance(value, Block):
        return f"{value.page.relative_to(ROOT)}:{value.line}"
    return str(value.relative_to(ROOT)) if isinstance(value, pathlib.Path) else str(value)


PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("block", [b for b in PYTHON if b.before != NOT_RUN], ids=_id)
def test_examples_run(block, tmp_path, monkeypatch, standard_promotion):
    monkeypatch.chdir(tmp_path)
    # Blank lines put the line numbers of the page into a traceback.
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    exec(code, {"__name__": "__example__"})


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_somewhere(page):
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)", prose(page)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_configs_that_are_named_exist(page):
    names = set(re.findall(r"(?<![\w/])configs/[\w./-]+\.toml", page.read_text("utf-8")))
    assert not [name for name in names if not (ROOT / name).is_file()]


def test_readme_has_two_commands_and_ci_runs_the_second():
    readme = ROOT / "README.md"
    first, second = (block for block in blocks(readme) if block.language == "bash")
    assert "jaxmeta train" in first.text
    assert "pytest" in second.text
    assert second.before == TEST_COMMAND
    assert first.before != TEST_COMMAND
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert TEST_COMMAND in script
    extracted = subprocess.run(
        ["bash", ".ci/run", "--print-test-command"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert extracted.stdout == second.text


def test_no_file_names_a_path_of_one_machine():
    bad = []
    for path in tracked():
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if MACHINE_PATHS.search(line):
                bad.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not bad, "\n".join(bad)
