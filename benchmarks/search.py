"""How long random trials of a search take side by side in one process, and each in a process of its own.

    python benchmarks/search.py                              # 32 trials of joint_finetune on months, 4 of them apart
    python benchmarks/search.py --method ridge --trials 16

Every process is fresh and has no compilation cache, so that imports, data and compilation count. Apart, a trial is the
ordinary training loop and the ordinary choice on the dev languages, with the trial's numbers in its config. Only some
are run apart; their mean is multiplied. CPU seconds stand beside those of the clock, for a machine that is shared.
"""

import argparse
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Prints a row for either way, their ratio, and how far their scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="joint_finetune")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--apart", type=int, default=4, help="trials that are run in processes of their own")
    parser.add_argument("--steps", type=int, default=40, help="of joint training")
    parser.add_argument("--at-once", type=int, default=8, help="trials in one call of the program")
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        print(json.dumps(alone(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "jaxmeta", "search", "--out", f"{folder}/search", *options(args)]
        together = timed([*words, "--trials", str(args.trials), "--at-once", str(args.at_once), "--folds", "1"])
        lines = pathlib.Path(folder, "search", "trials.jsonl").read_text("utf-8").splitlines()
    scores = {line["trial"]: line["score"] for line in map(json.loads, lines)}
    own = [__file__, "--method", args.method, "--steps", str(args.steps)]
    apart = [timed([*own, "--only", str(number)]) for number in range(args.apart)]
    print(f"| {args.trials} trials of {args.method}, {args.steps} steps | seconds | CPU seconds |")
    print("|---|---:|---:|")
    clock, cpu, _ = zip(*apart, strict=True)
    means = [sum(clock) / len(apart), sum(cpu) / len(apart)]
    print(f"| side by side | {together[0]:.0f} | {together[1]:.0f} |")
    print(f"| one apart, mean of {args.apart} | {means[0]:.1f} | {means[1]:.1f} |")
    print(f"| all apart, by that | {args.trials * means[0]:.0f} | {args.trials * means[1]:.0f} |")
    shares = [together[place] / (args.trials * means[place]) for place in range(2)]
    print(f"| share | {shares[0]:.2f} | {shares[1]:.2f} |")
    differences = [abs(scores[number] - json.loads(run[2])) for number, run in enumerate(apart)]
    print(
        f"\nScores differ by {max(differences):.1e} at most; they are {', '.join(f'{s:.4f}' for s in scores.values())}."
    )


def options(args: argparse.Namespace) -> list[str]:
    """Returns the words that a search of the benchmark has after its name."""
    return ["--preset", "quick", "--method", args.method, "--train.steps", str(args.steps)]


def timed(words: list[str]) -> tuple[float, float, str]:
    """Runs Python with some words; returns seconds of the clock and of processors, and the last line of the output."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ran = subprocess.run([sys.executable, *words], env=environment, check=True, stdout=subprocess.PIPE, text=True)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, cpu, ran.stdout.splitlines()[-1]


def alone(args: argparse.Namespace) -> float:
    """Returns the dev score of one trial of the search, trained as any run is."""
    from jaxmeta.config import build, load
    from jaxmeta.config.kinds import settled
    from jaxmeta.config.read import changed
    from jaxmeta.config.search_space import SearchConfig, space_of
    from jaxmeta.config.searching import of_method
    from jaxmeta.run.evaluate import evaluator, pose, tune
    from jaxmeta.run.experiment import train
    from jaxmeta.run.logging import MetricsLog, progress
    from jaxmeta.run.samplers import draw

    search = SearchConfig(method=args.method)
    config = of_method(settled(load(preset="quick", changes={"train.steps": args.steps})), search)
    values = draw(space_of(search, config), config.seed, args.only)
    experiment = build(changed(config, values, "the trial")).experiment
    with tempfile.TemporaryDirectory() as folder, MetricsLog(pathlib.Path(folder)) as log, progress() as display:
        trained = train(experiment, pathlib.Path(folder), log, display)
    method, judging = experiment.methods[0], experiment.judging
    # A search judges every trial at the first rate; see `side_by_side`.
    rates = (config.inner.learning_rate,) if method.kind == "meta-learner" else method.learning_rates[:1]
    method = method._replace(learning_rates=rates)
    posed = pose(experiment.tasks, "dev", experiment.tasks.languages("dev"), judging.shots, judging.dev_draws)
    run = evaluator(method, experiment.readout, method.steps, judging.tasks_at_once)
    params = method.complete(trained[experiment.training_seeds[0], method.phase]) if method.phase else {}
    _, score = tune(
        run, method, experiment.readout, judging, params, posed, seed=config.seed, tasks_per_call=len(posed.cells)
    )
    return score if math.isfinite(score) else math.nan


if __name__ == "__main__":
    main()
