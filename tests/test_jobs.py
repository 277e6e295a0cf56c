"""Several runs of one file: what they share, what is refused, and that they are trained, shown and gone on with."""

import contextlib
import io
import json
import pathlib
import shutil

import pytest
from shipped import FOLDER
from tiny_run import LABELS, evaluation, files, jaxmeta, toy_lines, toy_shots, write_lines

from jaxmeta.config import build, commands, dump, load, load_jobs
from jaxmeta.core.checks import InputError
from jaxmeta.run.report import write_report

pytestmark = pytest.mark.slow  # they train whole runs

# The settings of `tiny_run`, as a file says them.
SHARED = """
name = "both"
[task]
source = "tsv"
path = "toy.tsv"
test_languages = ["ee", "ff"]
dev_languages = ["cc", "dd"]
[train]
log_every = 1
[inner]
steps = 1
[tokenizer]
length = 16
[model]
width = 4
layers = 1
heads = 1
window = 2
[evaluate]
draws = 1
steps = [0, 2]
shot_curve = []
learning_rates = [0.01]
sgd_learning_rates = [0.05]
[presets.short.train]
steps = 2
[presets.short.jobs.pairs.train]
steps = 1
"""
TWO = (
    SHARED
    + """
[jobs.labels.train]
steps = 4
[jobs.labels.evaluate]
methods = ["zero_shot", "ridge"]
[jobs.pairs.task]
kind = "retrieval"
columns = { english = "text" }
[jobs.pairs.evaluate]
methods = ["zero_shot", "ngram_overlap"]
max_queries = 4
"""
)


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "my.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_jobs_share_settings_and_have_their_own(tmp_path):
    jobs = load_jobs(write(tmp_path, TWO))
    assert jobs.several
    assert (jobs.name, [*jobs.configs]) == ("both", ["labels", "pairs"])
    labels, pairs = jobs.configs.values()
    assert (labels.name, pairs.name) == ("both.labels", "both.pairs")
    assert labels.task.path == pairs.task.path == "toy.tsv"
    assert (labels.task.kind, pairs.task.kind) == ("classification", "retrieval")
    assert (labels.train.steps, labels.train.log_every) == (4, 1)
    assert pairs.task.columns == {"english": "text"}
    assert load_jobs(write(tmp_path, dump(jobs))) == jobs
    assert dump(jobs).count("[jobs.labels.task]") == 1


def test_a_preset_changes_what_all_share_and_single_jobs(tmp_path):
    jobs = load_jobs(write(tmp_path, TWO), preset="short")
    # What a job says of itself stands against what a preset says of all.
    assert [config.train.steps for config in jobs.configs.values()] == [4, 1]


def test_a_file_without_jobs_is_one_run(tmp_path):
    path = write(tmp_path, SHARED.partition("[presets")[0])
    jobs = load_jobs(path)
    assert not jobs.several
    assert jobs.configs == {"": load(path)}
    assert jobs.name == "both"


@pytest.mark.parametrize(
    ("text", "preset", "says"),
    [
        ("jobs = 3\n", None, "`jobs` must hold tables; write each as [jobs.NAME]"),
        ("[jobs]\na = 3\n", None, "`jobs` must hold tables"),
        ("[jobs.'a/b'.train]\nsteps = 3\n", None, "a job cannot be called 'a/b'; use letters"),
        ("[jobs.a.train]\nstpes = 3\n", None, "my.toml, job a: unknown key `train.stpes`; did you mean `train.steps`?"),
        ("[jobs.a.train]\nsteps = 'x'\n", None, "my.toml, job a: `train.steps`"),
        ("[train]\nstpes = 3\n[jobs.a.train]\nsteps = 3\n", None, "my.toml, job a: unknown key `train.stpes`"),
        ("[jobs.a.jobs.b.train]\nsteps = 3\n", None, "my.toml, job a: unknown key `jobs`"),
        ("[jobs.a.train]\nsteps = 3\n[presets.p.jobs.b.train]\nsteps = 1\n", "p",
         "my.toml with preset p: there is no job 'b'; the file has a."),
        ("[presets.p.jobs.b.train]\nsteps = 1\n", "p", "there is no job 'b'; the file has none."),
        ("[jobs.a.train]\nsteps = 3\n[presets.p.jobs]\na = 1\n", "p", "`jobs` must hold tables"),
        ("name = '../x'\n[jobs.a.train]\nsteps = 3\n", None, "`name`"),
    ],
)  # fmt: skip
def test_wrong_jobs_are_one_sentence(tmp_path, text, preset, says):
    with pytest.raises(InputError) as error:
        load_jobs(write(tmp_path, text), preset=preset)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value)[-1] in ".?"


def test_one_config_cannot_be_read_of_several(tmp_path):
    with pytest.raises(InputError, match=r"asks for several runs \(labels, pairs\); read it with `load_jobs`"):
        load(write(tmp_path, TWO))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with two runs in `run`, and what the command printed."""
    folder = tmp_path_factory.mktemp("jobs")
    write_lines(folder / "toy.tsv", toy_lines())
    write_lines(folder / "shots.tsv", toy_shots())
    write(folder, TWO)
    shown, built = io.StringIO(), []

    def noted(config):
        built.append(config.name)
        return build(config)

    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder), contextlib.redirect_stdout(shown):
        patch.setattr(commands, "write_report", lambda run: run)  # pictures take seconds
        patch.setattr(commands, "build", noted)
        assert jaxmeta("train", "my.toml", "--out", "run", "--steps", "3", "--preset", "short") == 0
    assert built == ["both.labels", "both.pairs"], "each is built once, to be checked and to be run"
    return folder, shown.getvalue()


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "write_report", lambda run: run)
    return tmp_path


def test_jobs_are_runs_in_a_folder_with_a_page_for_all(made):
    folder, shown = made
    run = folder / "run"
    assert {path.name for path in run.iterdir()} == {"config.toml", "labels", "pairs", "report.html"}
    # An option changes every job, whatever the file says of it.
    assert [c.train.steps for c in load_jobs(run / "config.toml").configs.values()] == [3, 3]
    assert load(run / "pairs" / "config.toml").train.steps == 3
    page = (run / "report.html").read_text("utf-8")
    for job, metric in (("labels", "accuracy"), ("pairs", "recall_at_1")):
        found = json.loads((run / job / "evaluation.json").read_text("utf-8"))
        assert (found["task"], found["metric"]) == (f"both.{job}", metric)
        assert f'<a href="{job}/report.html">' in page
        assert f"both.{job}: {metric}" in page
        assert f"both.{job}: {metric}" in shown
    assert page.count("<table") == 2
    assert "ngram_overlap" in page
    assert "All of them: run/report.html" in shown


def test_the_same_command_again_goes_on_where_it_was(here, capsys):
    words = ("train", "my.toml", "--out", "run", "--steps", "3", "--preset", "short")
    before, scores = files(here / "run" / "pairs"), evaluation(here / "run" / "labels")
    (here / "run" / "labels" / "evaluation.json").unlink()
    (here / "run" / "report.html").unlink()
    assert jaxmeta(*words) == 0
    error = capsys.readouterr().err
    assert "Continuing both.labels in run/labels" in error
    assert "both.pairs in run/pairs is judged already" in error
    assert files(here / "run" / "pairs") == before
    assert evaluation(here / "run" / "labels") == scores
    assert (here / "run" / "report.html").exists()
    for change, says in (
        (("--train.seeds", "2"), "train.seeds: 1 against 2"),
        (("--name", "x"), "name: 'both.labels'"),
    ):
        assert jaxmeta(*words, *change) == 2
        assert says in capsys.readouterr().err
    write(here, TWO + "[jobs.more.train]\nsteps = 2\n")
    assert jaxmeta(*words) == 2
    assert "jobs: labels, pairs against labels, pairs, more" in capsys.readouterr().err


def test_runs_of_a_folder_are_judged_again_together(here):
    scores = [evaluation(here / "run" / job) for job in ("labels", "pairs")]
    for path in (here / "run").rglob("evaluation.json"):
        path.unlink()
    assert jaxmeta("evaluate", "run") == 0
    assert [evaluation(here / "run" / job) for job in ("labels", "pairs")] == scores


def test_runs_of_which_one_was_not_begun_are_not_judged_again(here, capsys):
    shutil.rmtree(here / "run" / "pairs")
    before = files(here / "run")
    assert jaxmeta("evaluate", "run") == 2
    assert "run is not finished: pairs was not begun; give the `jaxmeta train` command" in capsys.readouterr().err
    assert files(here / "run") == before


def test_one_of_several_runs_is_adapted(here, capsys):
    assert jaxmeta("adapt", "run", "--shots", "shots.tsv", "--out", "mine") == 2
    error = capsys.readouterr().err
    assert "run holds several runs, labels, pairs; name one of them, such as run/labels." in error
    assert jaxmeta("adapt", "run/labels", "--shots", "shots.tsv", "--out", "mine") == 0
    write_lines(here / "texts.txt", ["zzbbb zz 1"])
    capsys.readouterr()
    assert jaxmeta("predict", "mine", "--input", "texts.txt") == 0
    assert capsys.readouterr().out.split("\t")[0] in LABELS


def test_whatever_is_wrong_in_any_job_is_said_before_there_is_a_folder(here, capsys):
    write(here, TWO.replace('"ngram_overlap"]', '"ridge"]'))
    assert jaxmeta("train", "my.toml", "--out", "new") == 2
    assert "there is no method 'ridge' for retrieval" in capsys.readouterr().err
    assert not (here / "new").exists()


def test_a_name_of_the_command_line_is_that_of_all(here, monkeypatch, capsys):
    monkeypatch.setattr("jaxmeta.config.jobs.train_parts", lambda folder, parts, ready: None)
    monkeypatch.setattr("jaxmeta.config.jobs.write_overview", lambda folder, title, parts: folder)
    assert jaxmeta("train", "my.toml", "--name", "mine") == 0
    jobs = load_jobs(here / "runs" / "mine" / "config.toml")
    assert (jobs.name, [c.name for c in jobs.configs.values()]) == ("mine", ["mine.labels", "mine.pairs"])


def test_gradients_are_planned_for_every_job(here, monkeypatch, capsys):
    monkeypatch.setattr("jaxmeta.config.jobs.plan_gradient", lambda config, method, memory: print(config.name, method))
    assert jaxmeta("plan", "my.toml", "--method", "maml") == 0
    assert capsys.readouterr().out == "# labels\nboth.labels maml\n# pairs\nboth.pairs maml\n"


def test_the_page_of_one_language_says_what_its_intervals_speak_for(here):
    found = json.loads((here / "run" / "labels" / "evaluation.json").read_text("utf-8"))
    folder = here / "one"
    folder.mkdir()
    for languages, there in ((found["languages"], False), (found["languages"][:1], True)):
        (folder / "evaluation.json").write_text(json.dumps(found | {"languages": languages}))
        assert ("One held-out language" in write_report(folder).read_text("utf-8")) == there


# --- The founding case.


def test_french_is_judged_on_sentences_that_were_seen_in_no_language(data_dir, monkeypatch):
    monkeypatch.setenv("JAXMETA_DATA", str(data_dir))
    jobs = load_jobs(FOLDER / "en_es_to_fr.toml")
    assert [config.task.kind for config in jobs.configs.values()] == ["classification", "translation", "retrieval"]
    trained = {"topic": ("eng_Latn", "spa_Latn"), "translation": ("eng-spa",), "retrieval": ("spa",)}
    for job, config in jobs.configs.items():
        tasks = build(config).tasks
        assert tasks.split.train == trained[job]
        assert [code[-3:] for code in tasks.split.test] in (["fra"], ["atn"])
        assert "fra" in tasks.split.test[0]
        assert "ita" in tasks.split.dev[0]
        assert (tasks.overlap.shared_sentences, tasks.overlap.shared_texts) == (0, 0)
        rows = tasks.corpus if job == "topic" else tasks.table
        seen = {int(n) for code in tasks.split.train for n in rows.sentence[rows.rows(code, "train")]}
        judged = {
            int(n) for part in ("dev", "test") for n in rows.sentence[rows.rows(getattr(tasks.split, part)[0], part)]
        }
        assert len(judged) > 80
        assert not seen & judged
