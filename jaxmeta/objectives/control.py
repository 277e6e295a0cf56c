"""Returns of rollouts: a surrogate that is differentiated once or twice, and sums to be judged by."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmeta.core.checks import check_one_of, is_traced
from jaxmeta.core.masks import masked_mean, masked_sum, real_examples
from jaxmeta.core.rollouts import Rollouts
from jaxmeta.core.trees import stop_gradient
from jaxmeta.core.types import ArrayTree, Batch, Metrics, Objective

BASELINES = ("linear", "none")
_RIDGE = 1e-4


def control(
    *,
    discount: float = 1.0,
    baseline: str = "linear",
    normalize: bool = True,
    coupling: Any = 1.0,
) -> Objective:
    """Judges `Rollouts` by their returns.

    * `loss`: minus the mean return over real rollouts, and the metric "return"; with `discount`, discounted for the
      loss. Its derivatives are those of Loaded DiCE (Farquhar et al. 2019, arXiv 1909.10549):

          Σ_t (box(w_t) - box(w_t - log π_t)) A_t      w_t = log π_t + coupling w_{t-1}      box(w) = exp(w - stop(w))

      whose first derivative is the policy gradient, and whose second is unbiased too with `coupling=1`, because past
      actions share in what comes of later ones. `coupling=0` leaves that out, for less variance (the LVC of ProMP,
      Rothfuss et al. 2019, arXiv 1810.06784).
    * `counts`: "n", the rollouts, and the sums "return" and "steps".
    * `scores`: "return", undiscounted, and "steps", means over rollouts, NaN where there is none.

    Args:
      discount: of later rewards. Steps count alike whenever they come, which is the usual gradient and that of the
        discounted return only with 1.
      baseline: "linear": returns to come are predicted from observations and time by ridge regression on the same
        rollouts, and subtracted, as Duan et al. 2016 do, which costs a little bias; or "none".
      normalize: whether advantages have mean zero and variance one, and steps are averaged instead of summed, so that
        learning rates mean the same in any environment. Without it derivatives are those of the return.
      coupling: see above; a number or a traced scalar. None: `Σ_t log π_t A_t`, whose second derivative is that of the
        step that was taken with these rollouts, and not of the expected one; for
        `policy_gradient(..., sampling_term=True)`.

    Raises:
      ValueError: if `baseline` is unknown.
    """
    check_one_of("baseline", baseline, BASELINES)

    def loss(outputs: ArrayTree, batch: Batch) -> tuple[jax.Array, Metrics]:
        mask = real_examples(batch, outputs.alive.shape[0])
        rollouts = stop_gradient(outputs)
        alive = rollouts.alive & mask[:, None]
        to_come = _summed(rollouts.rewards, discount, backward=True)
        advantages = to_come
        if baseline == "linear":
            advantages = to_come - _predicted(rollouts, alive, to_come)
        advantages = jnp.where(alive, advantages, jnp.zeros((), advantages.dtype))
        share = 1 / jnp.maximum(jnp.sum(mask), 1).astype(advantages.dtype)
        if normalize:
            share = 1 / jnp.maximum(jnp.sum(alive), 1).astype(advantages.dtype)
            advantages = _standardized(advantages, alive, share)
        log_probs = jnp.where(mask[:, None], outputs.log_probs, jnp.zeros((), outputs.log_probs.dtype))
        gain = share * jnp.sum(_surrogate(log_probs, coupling) * stop_gradient(advantages))
        # The surrogate has derivatives, and this the value.
        value = masked_mean(to_come[:, 0], mask)
        metrics = {"return": masked_mean(jnp.sum(rollouts.rewards, axis=1), mask)}
        return -(value + gain - jax.lax.stop_gradient(gain)), metrics

    def counts(outputs: ArrayTree, batch: Batch) -> dict[str, jax.Array]:
        mask = real_examples(batch, outputs.alive.shape[0])
        steps = jnp.sum(outputs.alive, axis=1).astype(outputs.rewards.dtype)
        return {
            "n": jnp.sum(mask, dtype=jnp.int32),
            "return": masked_sum(jnp.sum(outputs.rewards, axis=1), mask),
            "steps": masked_sum(steps, mask),
        }

    return Objective(loss, counts, _scores)


def _surrogate(log_probs: jax.Array, coupling: Any) -> jax.Array:
    """Returns what advantages are multiplied by, `[N, H]`: zero or one, with the derivatives that they need."""
    if coupling is None:
        return log_probs
    with_this = _summed(log_probs, coupling, backward=False)
    before = with_this - log_probs
    return _box(with_this) - _box(before)


def _box(w: jax.Array) -> jax.Array:
    return jnp.exp(w - jax.lax.stop_gradient(w))


def _summed(values: jax.Array, factor: Any, *, backward: bool) -> jax.Array:
    """Returns at every place of `[N, H]` the sum of values there and before, or after; `factor` for every step away."""
    places = np.arange(values.shape[1])
    ahead = places[None] - places[:, None] if not backward else places[:, None] - places[None]
    steps = np.maximum(ahead, 0)
    if is_traced(factor):
        powers = jnp.asarray(factor, values.dtype) ** jnp.asarray(steps, values.dtype)
        weights = jnp.where(ahead >= 0, powers, jnp.zeros((), values.dtype))
    else:
        weights = np.where(ahead >= 0, np.float64(factor) ** steps, 0.0)
    return values @ jnp.asarray(weights, values.dtype)


def _predicted(rollouts: Rollouts, alive: jax.Array, to_come: jax.Array) -> jax.Array:
    """Returns the returns to come `[N, H]` as ridge regression sees them, of features of observations and of time."""
    count, horizon = alive.shape
    dtype = to_come.dtype
    time = jnp.broadcast_to(jnp.asarray(np.arange(horizon) / horizon, dtype)[None, :, None], (count, horizon, 1))
    seen = rollouts.observations
    features = jnp.concatenate([seen, seen**2, time, time**2, time**3, jnp.ones_like(time)], axis=-1)
    real = jnp.where(alive[..., None], features, jnp.zeros((), dtype))
    n = jnp.maximum(jnp.sum(alive), 1).astype(dtype)
    gram = jnp.einsum("nhi,nhj->ij", real, real) / n + _RIDGE * jnp.eye(features.shape[-1], dtype=dtype)
    weights = jnp.linalg.solve(gram, jnp.einsum("nhi,nh->i", real, to_come) / n)
    return features @ weights


def _standardized(values: jax.Array, alive: jax.Array, share: jax.Array) -> jax.Array:
    centred = jnp.where(alive, values - share * jnp.sum(values), jnp.zeros((), values.dtype))
    return centred / (jnp.sqrt(share * jnp.sum(jnp.square(centred))) + jnp.asarray(1e-8, values.dtype))


def _scores(counts: ArrayTree) -> dict[str, float]:
    n = int(counts["n"])
    if n == 0:
        return {"return": math.nan, "steps": math.nan}
    return {name: float(np.asarray(counts[name], np.float64) / n) for name in ("return", "steps")}
