"""Wrong arguments of algorithms are refused with a sentence."""

import optax
import pytest
from small_tasks import OBJECTIVE, RATE, examples, init, model

from jaxmeta.algorithms import LearnedRates, linear_head, maml, protonet, reptile, ridge, source_replay
from jaxmeta.algorithms.minibatches import on_minibatches
from jaxmeta.core.select import matching

BASE = maml(model(), OBJECTIVE, optax.sgd(RATE))
SOLVED = ridge(model(), OBJECTIVE, num_outputs=2)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (maml, {"rates": LearnedRates("row")}, "`rates.per` must be one of 'leaf', 'element', got 'row'"),
        (maml, {"rates": LearnedRates("leaf", 0)}, "`rates.steps` must be positive, got 0"),
        (reptile, {"batch_size": 0}, "`batch_size` must be positive, got 0"),
        (linear_head, {"num_outputs": 0}, "`num_outputs` must be positive, got 0"),
    ],
)
def test_wrong_arguments_of_algorithms_that_take_gradient_steps(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(model(), OBJECTIVE, optax.sgd(RATE), **options)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: protonet(model(), OBJECTIVE, num_classes=0), "`num_classes` must be positive, got 0"),
        (
            lambda: protonet(model(), OBJECTIVE, num_classes=2, initial_scale=0),
            "`initial_scale` must be positive, got 0",
        ),
        (lambda: ridge(model(), OBJECTIVE, num_outputs=-1), "`num_outputs` must be positive, got -1"),
        (lambda: ridge(model(), OBJECTIVE, num_outputs=2, initial_ridge=0), "`initial_ridge` must be positive, got 0"),
        (lambda: ridge(model(), OBJECTIVE, num_outputs=2, initial_scale=0), "`initial_scale` must be positive, got 0"),
        (lambda: source_replay(BASE, examples(0, 4), num_examples=0), "`num_examples` must be positive, got 0"),
        (lambda: source_replay(SOLVED, examples(0, 4), num_examples=2), "`source_replay` changes what inner steps"),
        (lambda: on_minibatches(SOLVED, 2), "this algorithm takes none; leave it out"),
        (lambda: init(maml(model(), OBJECTIVE, optax.sgd(RATE), select=matching("tail"))), "matches no parameter"),
    ],
)
def test_other_wrong_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
