"""Pairs of texts read as bags of character n-grams: what they share counts from the start, what translates is learned.

Names, numbers and loanwords look alike in many languages, so the cosine of two bags finds translations before anything
is trained. Related languages share more words than that, and a learned projection says which n-grams of one language
mean what in another.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.trees import at_least_float32, unit
from jaxmeta.core.types import Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.dual_encoder import paired
from jaxmeta.models.ngrams import NgramEncoder
from jaxmeta.models.pair_regressor import compared


class NgramVectors(NgramEncoder):
    """Reads tokens `[N, L]` (int, 0 is padding), answers `[N, buckets + outputs]`: the bag beside a projection of it.

    Both are of unit length, weighted by `sqrt(share)` and `sqrt(1 - share)`. So a product of two answers is `share`
    times the cosine of the weighted bags, and for the rest that of the projections. The projection starts at random,
    which keeps cosines about as they are. `outputs` is its width; other attributes are those of `NgramEncoder`.
    """

    def setup(self):
        """Names the parts; the share is kept as its log-odds, which start at a half."""
        self.log_weight = self.param("log_weight", nn.initializers.zeros, (self.buckets,), self.dtype)
        # Only directions are read of a projection, so the size of its numbers says how fast it learns: with the usual
        # one, which shrinks with the number of buckets, a few steps of Adam would undo the start.
        kept_length = nn.initializers.variance_scaling(1.0, "fan_out", "normal")
        self.head = nn.Dense(self.outputs, use_bias=False, kernel_init=kept_length, param_dtype=self.dtype)
        self.log_odds = self.param("log_odds", nn.initializers.zeros, (), self.dtype)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns `[N, buckets + outputs]`."""
        bag = self.features(tokens) / self.buckets**0.5
        # Not the root of one minus a share, which has no derivative where it rounds to zero.
        shares = [jnp.exp(jax.nn.log_sigmoid(odds) / 2) for odds in (self.log_odds, -self.log_odds)]
        return jnp.concatenate([shares[0] * bag, shares[1] * unit(at_least_float32(self.head(bag)))], axis=-1)


def ngram_dual_encoder(width: int, *, initial_scale: float = 20.0, **options) -> Model:
    """Returns a dual encoder of texts `{"left": [N, L], "right": [N, L']}` (int32, 0 is padding) that reads n-grams.

    Both sides are read with the same hashes and the same parameters. What comes out is as `paired` says.

    Args:
      width: of the learned part of a vector.
      initial_scale: see `paired`.
      **options: of `NgramVectors`.
    """
    return paired(linen(NgramVectors(width, **options)), initial_scale=initial_scale)


def ngram_pair_regressor(width: int, **options) -> Model:
    """Returns a regressor of pairs of texts that reads n-grams; it answers `[N, 1]`, linear in the comparison.

    Each side is seen by itself too (see `compared`): how hard a text is to translate shows on its own side.

    Args:
      width: of the projections that are compared.
      **options: of `NgramEncoder`.
    """
    return compared(linen(NgramEncoder(width, **options)), hidden=(), symmetric=False, dtype=options.get("dtype"))
