"""The sides that jax runs: the library, the same by hand in the ways people write it, the reference and the peak."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from networks import network
from sides import Side
from workloads import Workload

import jaxmeta as jm

# (params, support, query) -> gradient of params
OuterGradient = Callable[..., dict[str, jax.Array]]


def outer_gradient(side: Side, workload: Workload, num_steps: int) -> OuterGradient:
    """Returns the gradient of the mean query loss after adaptation, as a side computes it."""
    make = {"ours": _library, "reference": _reference}.get(side.family, _by_hand)
    return make(side, workload, num_steps)


def _library(side: Side, workload: Workload, num_steps: int) -> OuterGradient:
    options = side.options
    apply = network(workload, options.get("conv", "patches"))
    chosen = {
        "memory": options.get("memory"),
        "task_axis": options.get("task_axis"),
        "unroll": int(options["unroll"]) if "unroll" in options else None,
    }
    chosen = {key: value for key, value in chosen.items() if value is not None}

    def gradient(params, support, query):
        model = jm.models.plain(lambda key, inputs: params, apply)
        if "dtype" in options:
            model = jm.models.cast(model, options["dtype"])
        algorithm = jm.maml(model, _objective(workload), optax.sgd(workload.rate), **_maml_options(options))
        estimator = jm.backprop(algorithm, num_steps=num_steps, **chosen)
        return estimator.estimate(jax.random.key(0), {"params": params}, (), jm.Episode(support, query))[0]["params"]

    return gradient


def _objective(workload: Workload):
    return jm.objectives.regression() if workload.classes == 1 else jm.objectives.classification(workload.classes)


def _maml_options(options: dict[str, str]) -> dict:
    found = {}
    if "gradient" in options:
        found["gradient"] = getattr(jm, options["gradient"])
    if "rows" in options:
        found["rows"] = jm.matching(options["rows"])
    if "microbatches" in options:
        found["microbatches"] = int(options["microbatches"])
    return found


def _by_hand(side: Side, workload: Workload, num_steps: int) -> OuterGradient:
    loss = _loss(workload, side.options)
    inner = {"hand_mixed": _mixed, "hand_first_order": _constant}.get(side.family, _plain)(loss)

    def descend(params, support):
        return jax.tree.map(lambda p, g: p - workload.rate * g, params, inner(params, support))

    step = jax.checkpoint(descend) if side.family == "hand_remat" else descend

    def task_loss(params, support, query):
        adapted, _ = jax.lax.scan(lambda p, _: (step(p, support), None), params, length=num_steps)
        return loss(adapted, query)

    return _over_tasks(task_loss, side.options.get("task_axis", "vmap"), workload.tasks)


def _loss(workload: Workload, options: dict[str, str]):
    apply = network(workload, options.get("conv", "patches"))
    if "dtype" in options:
        apply = _lowered(apply, options["dtype"])

    def loss(params, batch):
        outputs = apply(params, batch["inputs"])
        if workload.classes == 1:
            return jnp.mean(jnp.square(outputs - batch["targets"]))
        return optax.softmax_cross_entropy_with_integer_labels(outputs, batch["targets"]).mean()

    return loss


def _lowered(apply, dtype: str):
    def cast(tree):
        return jax.tree.map(lambda leaf: leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf, tree)

    return lambda params, inputs: apply(cast(params), cast(inputs)).astype(jnp.float32)


def _plain(loss):
    return jax.grad(loss)


def _constant(loss):
    return lambda params, batch: jax.lax.stop_gradient(jax.grad(loss)(params, batch))


def _mixed(loss):
    """The gradient, whose own derivative is a forward product: the library's mathematics in its fewest words."""

    @jax.custom_vjp
    def gradient(params, batch):
        return jax.grad(loss)(params, batch)

    def forward(params, batch):
        return gradient(params, batch), (params, batch)

    def backward(saved, direction):
        params, batch = saved
        _, product = jax.jvp(lambda p: jax.grad(loss)(p, batch), (params,), (direction,))
        return product, None

    gradient.defvjp(forward, backward)
    return gradient


def _over_tasks(task_loss, task_axis: str, num_tasks: int) -> OuterGradient:
    def side_by_side(params, support, query):
        def mean_loss(params):
            return jax.vmap(task_loss, in_axes=(None, 0, 0))(params, support, query).mean()

        return jax.grad(mean_loss)(params)

    def one_by_one(params, support, query):
        def add(total, task):
            return jax.tree.map(jnp.add, total, jax.grad(task_loss)(params, *task)), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), (support, query))
        return jax.tree.map(lambda leaf: leaf / num_tasks, total)

    return side_by_side if task_axis == "vmap" else one_by_one


def _reference(side: Side, workload: Workload, num_steps: int) -> OuterGradient:
    """Reverse over reverse, one task and one step at a time; of the first steps only their result, if told so."""
    loss = _loss(workload, {})
    last = int(side.options.get("last", num_steps))

    @jax.checkpoint
    def step(params, support):
        return jax.tree.map(lambda p, g: p - workload.rate * g, params, jax.grad(loss)(params, support))

    def steps(params, support, count):
        return jax.lax.scan(lambda p, _: (step(p, support), None), params, length=count)[0]

    def task_loss(params, support, query):
        moved = jax.lax.stop_gradient(steps(params, support, num_steps - last))
        begun = jax.tree.map(lambda p, m: p + (m - jax.lax.stop_gradient(p)), params, moved)
        return loss(steps(begun, support, last), query)

    return _over_tasks(task_loss, "sequential", workload.tasks)


def square_product(dtype: str, tiny: bool):
    """Returns a product of two square matrices, and its arguments: what the device does at its best."""
    accelerator = jax.default_backend() != "cpu"
    size = 128 if tiny else 8192 if accelerator else 2048
    keys = jax.random.split(jax.random.key(0))
    return jnp.matmul, [jax.random.normal(key, (size, size), dtype) for key in keys]


compiled = partial(jax.jit, keep_unused=True)
