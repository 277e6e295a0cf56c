"""Whether `jaxmeta plan` names the fastest way that fits: it plans, then every way there is gets measured.

    python benchmarks/plan_check.py --out plan_check.json
    python benchmarks/plan_check.py --cases 1 --repeats 1     # a rehearsal

A plan does not try every combination, because compiling takes time. Here all of them are compiled and timed in turn,
and a plan counts as right if what it names is within `--slack` of the fastest that fits, which is what two timings of
one program differ by.
"""

import argparse
import json
import pathlib
import tempfile
from typing import Any

import jax

from jaxmeta.config import build, load, planning
from jaxmeta.config.build import Built
from jaxmeta.config.recipes import learner_of, recipes
from jaxmeta.config.setting import How
from jaxmeta.run.planner import Candidate, Measured, fastest, in_words, measure, memory_of, size_text

WAVES = {
    "task.source": "sinusoid", "model.kind": "mlp", "model.width": 40, "evaluate.metric": "mse",
    "evaluate.methods": ["zero_shot", "maml", "meta_sgd"], "evaluate.main": "maml", "task.tasks_per_step": 25,
}  # fmt: skip
TEXT = {"evaluate.methods": ["zero_shot", "ridge", "maml", "anil", "meta_sgd"], "task.tasks_per_step": 4}
# A method and what its config changes; each is planned without a limit and with one that leaves the fastest out.
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("waves, K = 5", "maml", {**WAVES, "inner.steps": 5}),
    ("waves, K = 10, learned rates", "meta_sgd", {**WAVES, "inner.steps": 10}),
    ("wide waves, K = 5, Adam", "maml", {**WAVES, "inner.steps": 5, "model.width": 512, "inner.optimizer": "adam"}),
    ("dates, K = 1", "maml", {**TEXT, "inner.steps": 1}),
    ("dates, K = 4, head alone", "anil", {**TEXT, "inner.steps": 4}),
]


def main() -> None:
    """Prints a line for each case, and how many plans were right."""
    args = _arguments()
    found = []
    for title, method, changes in CASES[: args.cases]:
        built = build(load(changes=changes))
        everything = all_ways(built, method, args.repeats)
        unlimited = 10 * max(each.bytes for each in everything.values())
        best = fastest(list(everything.values()), title, unlimited)
        for limit in (unlimited, best.bytes - 1):
            if any(each.bytes <= limit for each in everything.values()):
                found.append(checked(built, method, everything, limit, args.slack) | {"case": title})
                print(sentence(found[-1]), flush=True)
                if args.out:
                    args.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"{sum(each['right'] for each in found)} of {len(found)} plans name the fastest that fits")


def all_ways(built: Built, method: str, repeats: int) -> dict[How, Measured]:
    """Returns what every way costs, all of them timed in turn."""
    setting, recipe = built.setting, recipes(built.setting)[method]
    config = setting.config
    episodes = planning.episodes_of(built, recipe)
    learners = {
        how: learner_of(setting, recipe, how, config.train.steps)
        for how in planning.ways(recipe, config.inner.steps, config.task.tasks_per_step)
    }
    state = jax.jit(next(iter(learners.values())).init)(jax.random.key(config.seed), episodes)
    candidates = [Candidate(how, learner.update) for how, learner in learners.items()]
    measured = measure(candidates, (state, episodes), 2**62, repeats=repeats)
    for each in measured:  # what is printed is what the compiler says of the step that is trained with
        step = jax.jit(learners[How(*each.labels)].update).lower(state, episodes).compile()
        memory = memory_of(step)
        assert each.bytes == (memory.total if memory else 0), each
    return {How(*each.labels): each for each in measured}


def checked(built: Built, method: str, everything: dict[How, Measured], limit: int, slack: float) -> dict[str, Any]:
    """Returns what the plan named, what was fastest, and whether they agree."""
    plan = planning.measured_ways(built, method, limit)
    chosen = fastest(plan, method, limit)
    # Of ways that come to one program only the first is measured, and the two have not begun with the same one.
    same = [each for each in everything.values() if each[1:3] == chosen[1:3]]
    named = everything.get(How(*chosen.labels)) or same[0]
    fitting = [each for each in everything.values() if each.bytes <= limit and each.seconds is not None]
    best = min(fitting, key=lambda each: each.seconds or 0.0)
    # One that was far behind in the first round was timed once, which is enough to call it slower.
    behind = (named.seconds or float("inf")) / (best.seconds or 1.0) - 1
    return {
        "limit": limit, "named": named.labels, "fastest": best.labels, "named_ms": 1e3 * (named.seconds or 0.0),
        "fastest_ms": 1e3 * (best.seconds or 0.0), "named_bytes": named.bytes, "ways": len(everything),
        "tried": len(plan), "right": behind <= slack,
    }  # fmt: skip


def sentence(found: dict[str, Any]) -> str:
    """Returns a case in a line."""
    return (
        f"{'right' if found['right'] else 'WRONG'}: {found['case']}, limit {size_text(found['limit'])}: "
        f"{in_words(found['named'])} ({found['named_ms']:.2f} ms, {size_text(found['named_bytes'])}); fastest "
        f"{in_words(found['fastest'])} ({found['fastest_ms']:.2f} ms); {found['tried']} of {found['ways']} ways tried"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=len(CASES), help="how many of them")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each way")
    parser.add_argument("--slack", type=float, default=0.05, help="a share of the fastest time")
    parser.add_argument("--out", type=pathlib.Path, help="where to write the cases as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        # The same step is compiled for the plan and for the check.
        jax.config.update("jax_compilation_cache_dir", folder)
        main()
