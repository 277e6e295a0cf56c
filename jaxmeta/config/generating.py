"""The meta-networks of a config: what they generate, what from, and the model of the mean language."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from jaxmeta import algorithms, estimators
from jaxmeta.algorithms import Part
from jaxmeta.algorithms.meta_network import Generated, costs_of, kept_numbers
from jaxmeta.config.kinds import CLASSES
from jaxmeta.config.schema import Config
from jaxmeta.core.select import matching
from jaxmeta.core.types import MetaAlgorithm, MetaParams
from jaxmeta.run.plan import BASELINE, Method, Tells

if TYPE_CHECKING:
    from jaxmeta.config.setting import Setting

FEW_SHOT, ZERO_SHOT, MEAN = "meta_network", "meta_network_zero_shot", "mean_language"
# The names of Flax, and the weights of n-grams.
_ADAPTED = r"(^|/)(kernel|bias|log_weight)$"


def reads_descriptors(config: Config) -> bool:
    """Returns whether the meta-networks of a config read what is told of texts, and not a model's features."""
    return _classifies_texts(config) and config.generator.reads != "features"


def described(config: Config) -> bool:
    """Returns whether some method of a config reads descriptors."""
    return reads_descriptors(config) and bool({FEW_SHOT, ZERO_SHOT, MEAN} & {*config.evaluate.methods})


def generated(setting: "Setting") -> dict[str, dict[str, Any]]:
    """Returns what the recipes of the meta-networks are made of; none where there is nothing to generate from."""
    config, steps = setting.config, setting.config.inner.steps
    descriptors = reads_descriptors(config)
    if not descriptors and setting.model.features is None:
        return {}
    # Features of the support are a pass through the trunk, and so are the answers that are centred.
    told = setting.support * ((not descriptors) + _centred(setting))

    def recipe(steps: int, train: Any, **more: Any) -> dict[str, Any]:
        return {
            "algorithm": lambda rate, **how: meta_network(setting, rate, **how),
            # Its own rate, for a rate of SGD on all weights is none of Adam on adapters.
            "rate": config.generator.learning_rate,
            "estimator": train,
            "cost": told + steps * setting.support + setting.query,
            "augmented": False,
            "judged": lambda rate: meta_network(setting, rate, judged=True),
            "tells": _told_of(config),
            **more,
        }

    def through_steps(algorithm, how, outer):
        return estimators.backprop(algorithm, num_steps=steps, **how.along_tasks())

    return {
        FEW_SHOT: recipe(steps, through_steps, strategies=("first_order",), rates=config.generator.learning_rates),
        # Without a step no label of the support is read, and so its examples can be learned from too.
        ZERO_SHOT: recipe(1, lambda algorithm, how, outer: estimators.pooled(algorithm), inner=False),
    }


def mean_language(setting: "Setting") -> dict[str, Method]:
    """Returns the model that the zero-shot meta-network generates for the mean of the train languages."""
    source, config = setting.source, setting.config
    if source is None or "descriptor" not in source:
        return {}
    mean = jnp.asarray(source["descriptor"]).mean(axis=0)

    def build(rate: Any) -> MetaAlgorithm:
        return meta_network(setting, rate, judged=True, description=mean)

    rates = config.evaluate.learning_rates[:1]
    return {MEAN: Method(MEAN, BASELINE, ZERO_SHOT, build, rates, (0,), tells=_told_of(config))}


def meta_network(setting: "Setting", rate: Any, *, judged: bool = False, **options: Any) -> MetaAlgorithm:
    """Returns the meta-network of a config, whose inner steps are those of Adam.

    Args:
      setting: of the run.
      rate: the inner learning rate.
      judged: whether its gates are those to use, open or shut, and not those to learn.
      **options: of `jaxmeta.algorithms.meta_network`.
    """
    config = setting.config
    wanted = config.generator
    gates = "none" if not wanted.gates else "discrete" if judged else "sampled"
    return algorithms.meta_network(
        setting.model, setting.objective, optax.adam(rate, eps_root=1e-8), rank=wanted.rank, size=wanted.size,
        select=matching(_ADAPTED), reads="descriptor" if reads_descriptors(config) else "features",
        gates=gates, parts=parts_of(config) if wanted.gates else (),
        cost_weight=wanted.cost_weight if wanted.gates else 0.0, centre=_centred(setting), **options,
    )  # fmt: skip


def _told_of(config: Config) -> Tells | None:
    """Returns what tells how much of what could be generated is used, and which parts of the model are."""
    if not config.generator.gates:
        return None
    parts = parts_of(config)

    def tells(meta_params: MetaParams, state: Generated) -> dict[str, jax.Array]:
        costs = costs_of(meta_params["params"], state.adapters, parts)
        every = jax.tree.map(jnp.ones_like, state.gates)
        opened = {name: jnp.mean(gates) for name, gates in state.gates.get("parts", {}).items()}
        ranks = jnp.concatenate([*state.gates["adapters"].values()])
        return {
            "numbers": kept_numbers(state.gates, costs), "of": kept_numbers(every, costs),
            "ranks_open": jnp.mean(ranks), **{f"{name}_open": share for name, share in opened.items()},
        }  # fmt: skip

    return tells


def parts_of(config: Config) -> tuple[Part, ...]:
    """Returns what gates can remove beside adapters, of a Transformer that classifies texts: blocks, heads and hidden
    units.
    """
    if config.model.kind != "transformer" or not _classifies_texts(config):
        return ()
    found = []
    for number in range(config.model.layers):
        block = rf"(^|/)block_{number}/"
        found += [
            Part(f"block_{number}", matching(rf"{block}(out|down)/"), matching(block)),
            # What a head has found enters by its rows of the matrix that comes after.
            Part(f"heads_{number}", matching(rf"{block}out/kernel$"), matching(rf"{block}(qkv|out)/kernel$"), axis=0),
            # And so does what a hidden unit of the feed-forward layer has found.
            Part(
                f"hidden_{number}",
                matching(rf"{block}down/kernel$"),
                matching(rf"{block}(up/(kernel|bias)|down/kernel)$"),
                axis=0,
            ),
        ]
    return tuple(found)


def _centred(setting: "Setting") -> bool:
    return setting.config.generator.centre and setting.kind.head == CLASSES


def _classifies_texts(config: Config) -> bool:
    return config.task.kind == "classification" and config.task.source in ("cldr", "tsv", "tfds")
