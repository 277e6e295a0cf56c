"""The learned optimizer of a run, for other people's training loops."""

import os
import pathlib

import jax
import jax.numpy as jnp
import optax

from jaxmeta.algorithms import as_optax
from jaxmeta.config.child_methods import rules
from jaxmeta.config.run_folder import read_run_config
from jaxmeta.core.checks import InputError
from jaxmeta.run.experiment import as_expected, checkpoints_of


def load_optimizer(run: str | os.PathLike, method: str | None = None) -> optax.GradientTransformation:
    """Returns the learned optimizer of a run as an optax optimizer, which has nothing to tune.

    Args:
      run: the folder of a run of `source = "children"`.
      method: the name of one of its learned optimizers; its main one by default.

    Raises:
      InputError: there is no such run, or it has no such method.

    Example:
      >>> optimizer = load_optimizer("runs/learned_optimizer")
      >>> opt_state = optimizer.init(params)
      >>> updates, opt_state = optimizer.update(gradients, opt_state, params)
      >>> params = optax.apply_updates(params, updates)
    """
    folder = pathlib.Path(run)
    config = read_run_config(folder)
    trained = [name for name in config.evaluate.methods if name in rules(config)]
    if config.task.source != "children" or not trained:
        raise InputError(
            f"{folder} has no learned optimizer; name a run of a config such as configs/learned_optimizer.toml."
        )
    name = method or (config.evaluate.main if config.evaluate.main in trained else trained[0])
    if name not in trained:
        raise InputError(f"{folder} has no learned optimizer {name!r}; it has {', '.join(trained)}.")
    with checkpoints_of(folder, config.seed, name) as checkpoints:
        weights = checkpoints.read().tree["meta_params"]["params"]
    rule = rules(config)[name]
    expected = jax.eval_shape(lambda key: rule.init(key, jnp.float32), jax.random.key(0))
    return as_optax(rule, jax.tree.map(jnp.asarray, as_expected(folder, expected, weights)))
