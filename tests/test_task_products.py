"""Products for many tasks in fewer and larger pieces: the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmeta as jm
from jaxmeta.core import task_products
from jaxmeta.core.hoist import equations
from jaxmeta.core.task_products import fused_products

TASKS, ROWS, LEFT, RIGHT = 20, 3, 6, 5


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape)) for shape in shapes]


def products(function, *args):
    """The products that a function comes to, as shapes of their factors and what they sum over."""
    return [
        (*(var.aval.shape for var in eqn.invars), eqn.params["dimension_numbers"][0])
        for eqn in equations(jax.make_jaxpr(function)(*args))
        if eqn.primitive.name == "dot_general"
    ]


def per_task(x, y):
    return jnp.einsum("tnd,tne->tde", x, y)


def summed(x, y):
    return per_task(x, y).sum(0)


def summed_of_two(x, y):
    return (jnp.swapaxes(per_task(x, y), 1, 2) + jnp.swapaxes(per_task(2 * x, y) + per_task(x, y * y), 1, 2)).sum(0)


def summed_in_another_shape(x, y):
    return (per_task(x, y).reshape(TASKS, -1) + jnp.ones((TASKS, LEFT * RIGHT))).sum(0)


@pytest.mark.parametrize("function", [summed, summed_of_two, summed_in_another_shape])
def test_a_sum_over_tasks_is_one_product_of_all_rows(x64, function):
    x, y = arrays((TASKS, ROWS, LEFT), (TASKS, ROWS, RIGHT))
    fused = fused_products(function)
    np.testing.assert_allclose(fused(x, y), function(x, y), rtol=1e-12)
    found = products(fused, x, y)
    assert found
    assert all(len(left) == 2 for _, _, (left, _) in found)
    shapes = {var.aval.shape for eqn in equations(jax.make_jaxpr(fused)(x, y)) for var in eqn.outvars}
    assert (TASKS, LEFT, RIGHT) not in shapes
    assert (TASKS, RIGHT, LEFT) not in shapes


def test_a_product_that_others_read_is_computed_and_added_up(x64):
    def twice_read(x, y):
        each = per_task(x, y)
        return each.sum(0), each

    x, y = arrays((TASKS, ROWS, LEFT), (TASKS, ROWS, RIGHT))
    for ours, theirs in zip(fused_products(twice_read)(x, y), twice_read(x, y), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def product_rule(x, y, dx, dy):
    return per_task(dx, y) + per_task(x, dy)


def test_a_sum_of_products_is_one_over_twice_as_many_rows(x64):
    # Few rows beside many columns, but not so small that it is written out.
    args = arrays((4, 2, 9), (4, 2, 8), (4, 2, 9), (4, 2, 8))
    fused = fused_products(product_rule)
    np.testing.assert_allclose(fused(*args), product_rule(*args), rtol=1e-12)
    assert [shapes[:2] for shapes in products(fused, *args)] == [((4, 4, 9), (4, 4, 8))]


def test_a_sum_of_products_with_many_rows_stays(x64):
    args = arrays((4, 9, 3), (4, 9, 3), (4, 9, 3), (4, 9, 3))
    fused = fused_products(product_rule)
    np.testing.assert_allclose(fused(*args), product_rule(*args), rtol=1e-12)
    assert len(products(fused, *args)) == 2


def test_few_rows_of_many_tasks_are_outer_products_on_a_cpu(x64, monkeypatch):
    x, y = arrays((TASKS, ROWS, LEFT), (TASKS, ROWS, RIGHT))
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert not products(fused_products(per_task), x, y)
    np.testing.assert_allclose(fused_products(per_task)(x, y), per_task(x, y), rtol=1e-5)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert len(products(fused_products(per_task), x, y)) == 1


def test_products_in_loops_are_fused_too(x64):
    def looped(x, y, dx, dy):
        def body(total, scale):
            return total + product_rule(scale * x, y, dx, dy), None

        return jax.lax.scan(body, jnp.zeros((4, 9, 8)), jnp.arange(3.0))[0]

    args = arrays((4, 2, 9), (4, 2, 8), (4, 2, 9), (4, 2, 8))
    np.testing.assert_allclose(fused_products(looped)(*args), looped(*args), rtol=1e-12)
    (loop,) = (e for e in equations(jax.make_jaxpr(fused_products(looped))(*args)) if e.primitive.name == "scan")
    assert sum(eqn.primitive.name == "dot_general" for eqn in loop.params["jaxpr"].eqns) == 1


def network(params, x):
    return jnp.tanh(jnp.tanh(x @ params["a"]) @ params["b"]) @ params["c"]


@pytest.mark.parametrize("gradient", [jm.forward_over_reverse, jm.reverse, jm.first_order])
@pytest.mark.parametrize("unroll", [1, 2])
def test_the_gradient_of_many_tiny_tasks_is_that_of_each_of_them(x64, monkeypatch, gradient, unroll):
    def outer_gradient(task_axis):
        algorithm = jm.maml(
            jm.models.plain(lambda key, inputs: dict(zip("abc", arrays((2, 7), (7, 6), (6, 1)), strict=True)), network),
            jm.objectives.regression(), optax.sgd(0.1), gradient=gradient,
        )  # fmt: skip
        estimator = jm.backprop(algorithm, num_steps=2, task_axis=task_axis, unroll=unroll)
        x, y = arrays((TASKS, ROWS, 2), (TASKS, ROWS, 1))
        episodes = jm.Episode({"inputs": x, "targets": y}, {"inputs": -x, "targets": y})
        meta_params = algorithm.init(jax.random.key(0), jax.tree.map(lambda leaf: leaf[0], episodes))
        return estimator.estimate(jax.random.key(1), meta_params, (), episodes)[0]

    count = []
    monkeypatch.setattr(
        task_products._Product, "compute", lambda self, do=task_products._Product.compute: count.append(1) or do(self)
    )
    together, apart = outer_gradient("vmap"), outer_gradient("sequential")
    assert count
    for ours, theirs in zip(*map(jax.tree.leaves, (together, apart)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13)
