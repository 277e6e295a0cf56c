"""Time, memory and arithmetic of one outer step, by inner-gradient strategy and memory policy.

    python benchmarks/meta_gradient.py                       # a 2-layer Transformer, K = 1 and 5
    python benchmarks/meta_gradient.py --inner-steps 1 5 10 --width 64 --repeats 7

The sides are timed in turn within one process, so that whatever else the machine does falls on all of them alike, and
medians are printed with the spread. Compiled memory is what the compiler reports: exact, and free of noise. Gradients
are compared with reverse-over-reverse before anything is timed.
"""

import argparse
import platform
import statistics
import time

import jax
import jax.numpy as jnp
import optax

import jaxmeta as jm

SIDES = {
    "reverse": (jm.reverse, "none"),
    "reverse, per_step": (jm.reverse, "per_step"),
    "forward_over_reverse": (jm.forward_over_reverse, "none"),
    "forward_over_reverse, per_step": (jm.forward_over_reverse, "per_step"),
    "first_order": (jm.first_order, "none"),
}


def workload(args: argparse.Namespace):
    """Returns the model, and a batch of tasks: leaves `[T, S, L]`."""
    model = jm.models.transformer(
        vocab_size=args.vocabulary, outputs=5, width=args.width, layers=args.layers, heads=4, max_length=args.length
    )

    def side(key):
        tokens = jax.random.randint(key, (args.tasks, args.examples, args.length), 1, args.vocabulary)
        return {"inputs": tokens, "targets": tokens[..., 0] % 5}

    return model, jm.Episode(side(jax.random.key(0)), side(jax.random.key(1)))


def compiled_step(model, episodes, gradient, memory, num_steps: int):
    """Returns the compiled outer gradient and its arguments."""
    algorithm = jm.maml(model, jm.objectives.classification(5), optax.sgd(0.01), gradient=gradient)
    estimator = jm.backprop(algorithm, num_steps=num_steps, memory=memory)
    meta_params = algorithm.init(jax.random.key(2), jax.tree.map(lambda leaf: leaf[0], episodes))

    def step(meta_params, episodes):
        return estimator.estimate(jax.random.key(3), meta_params, (), episodes)[0]

    return jax.jit(step).lower(meta_params, episodes).compile(), meta_params


def main() -> None:
    """Prints a table for each number of inner steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "tasks": 8, "examples": 24, "length": 64, "width": 128, "layers": 2, "vocabulary": 8000, "repeats": 5,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--inner-steps", type=int, nargs="+", default=[1, 5])
    args = parser.parse_args()
    model, episodes = workload(args)
    print(f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}, {vars(args)}\n")
    for num_steps in args.inner_steps:
        steps = {name: compiled_step(model, episodes, *side, num_steps) for name, side in SIDES.items()}
        gradients = {name: run(meta_params, episodes) for name, (run, meta_params) in steps.items()}
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(args.repeats):
            for name, (run, meta_params) in steps.items():
                began = time.perf_counter()
                jax.block_until_ready(run(meta_params, episodes))
                seconds[name].append(time.perf_counter() - began)
        print(f"K = {num_steps}\n")
        print("| strategy, memory | median s | spread s | temporary MB | difference from reverse |")
        print("|---|---:|---:|---:|---:|")
        for name, (run, _) in steps.items():
            away = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), gradients[name], gradients["reverse"])
            size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradients["reverse"]))
            print(
                f"| {name} | {statistics.median(seconds[name]):.3f} | {min(seconds[name]):.3f} to "
                f"{max(seconds[name]):.3f} | {run.memory_analysis().temp_size_in_bytes / 1e6:.0f} | "
                f"{max(map(float, jax.tree.leaves(away))) / size:.1e} |"
            )
        print()


if __name__ == "__main__":
    main()
