"""A small encoder of speech: strided convolutions over log-mel frames, then Transformer blocks; no batch statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import ArrayTree, Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.blocks import Block, layer_norm
from jaxmeta.models.log_mel import MelSettings, log_mel

EPSILON = 1e-6


class SpeechEncoder(nn.Module):
    """Reads waveforms or log-mel frames; answers for the whole utterance, or for every place in time.

    Inputs are `{"audio": [N, samples], "samples": [N] int}`, or what `log_mel` makes of them,
    `{"mel": [N, T, M], "real": [N, T]}`. Each convolution divides the number of places by its stride; a place is real
    if the frame at its middle is. Padding is masked at every step and changes no number.

    Attributes:
      outputs: classes, or symbols with the blank of CTC among them.
      per_frame: answer `{"logits": [N, P, outputs], "real": [N, P]}` for the `P` places in time, instead of
        `[N, outputs]`.
      width: of all layers.
      layers: Transformer blocks.
      heads: of attention, must divide `width`.
      expansion: of the feed-forward layers.
      strides: of the convolutions, one after another.
      kernel: frames that a convolution sees, odd.
      segments: parts of time that are averaged apart. They have equal shares of what is loud, and what is loud weighs
        more, so that a word is the same word however much silence is around it. How much more is a learned number.
      skip: let `features` hold the log-mel frames too, averaged in the same way; they are then
        `[N, segments * (width + M)]` instead of `[N, segments * width]`. An encoder that has heard few speakers knows
        less of another than the frames do.
      max_places: the most places there may be after the convolutions.
      mel: how waveforms become frames.
      dtype: of the parameters, which the arithmetic after the features is done in.
    """

    outputs: int
    per_frame: bool = False
    width: int = 64
    layers: int = 2
    heads: int = 4
    expansion: int = 4
    strides: tuple[int, ...] = (2, 2)
    kernel: int = 5
    segments: int = 1
    skip: bool = True
    max_places: int = 256
    mel: MelSettings = MelSettings()
    dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks sizes."""
        for name in ("outputs", "width", "heads", "kernel", "segments", "max_places"):
            check_positive(name, getattr(self, name))
        for stride in self.strides:
            check_positive("strides", stride)
        if self.width % self.heads:
            raise ValueError(f"`heads` must divide `width` ({self.width}), got {self.heads}")
        if self.kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd, got {self.kernel}")
        super().__post_init__()

    def setup(self):
        """Names the parts; their names are the paths that selections see."""
        around = (self.kernel // 2, self.kernel // 2)
        self.convolutions = [
            nn.Conv(self.width, (self.kernel,), stride, padding=[around], param_dtype=self.dtype, name=f"conv_{i}")
            for i, stride in enumerate(self.strides)
        ]
        self.places = self.param("places", nn.initializers.normal(0.02), (self.max_places, self.width), self.dtype)
        self.blocks = [Block(self.heads, self.expansion, self.dtype, name=f"block_{i}") for i in range(self.layers)]
        self.norm = layer_norm(self.dtype)
        if not self.per_frame:
            self.loudness = self.param("loudness", nn.initializers.ones, (), self.dtype)
        self.head = nn.Dense(self.outputs, param_dtype=self.dtype)

    def __call__(self, inputs: ArrayTree) -> Any:
        """Returns `[N, outputs]`, or with `per_frame` the logits of every place and which places are real."""
        if not self.per_frame:
            return self.head(self.features(inputs))
        x, real = self.encode(self.frames(inputs))
        return {"logits": self.head(x), "real": real}

    def features(self, inputs: ArrayTree) -> jax.Array:
        """Returns the weighted mean over the real places of each segment, `[N, segments * (width + M)]`."""
        frames = self.frames(inputs)
        x, real = self.encode(frames)
        mel, spoken = frames["mel"], jnp.asarray(frames["real"], bool)
        weight = jax.nn.sigmoid(self.loudness.astype(mel.dtype) * jnp.mean(mel, axis=-1))
        of_places = weight
        for stride in self.strides:
            of_places = of_places[:, ::stride]
        means = self.averaged(x, of_places, real)
        if not self.skip:
            return means
        return jnp.concatenate([means, self.averaged(mel, weight, spoken).astype(x.dtype)], axis=-1)

    def averaged(self, x: jax.Array, weight: jax.Array, real: jax.Array) -> jax.Array:
        """Returns the means of `x [N, P, D]` over the segments, by `weight [N, P]`: `[N, segments * D]`."""
        shares = shared_out(jnp.where(real, weight, jnp.zeros((), weight.dtype)), self.segments).astype(x.dtype)
        return jnp.einsum("npd,nps->nsd", x, shares).reshape(len(x), self.segments * x.shape[-1])

    def frames(self, inputs: ArrayTree) -> ArrayTree:
        """Returns the log-mel frames of the inputs, or the inputs where they are that."""
        return inputs if "mel" in inputs else log_mel(inputs["audio"], inputs["samples"], self.mel)

    def encode(self, frames: ArrayTree) -> tuple[jax.Array, jax.Array]:
        """Returns every place's vector, `[N, P, width]`, and which places are real, `[N, P]`."""
        x, real = frames["mel"].astype(self.places.dtype), jnp.asarray(frames["real"], bool)
        for convolution, stride in zip(self.convolutions, self.strides, strict=True):
            x = jnp.where(real[..., None], x, jnp.zeros((), x.dtype))
            x, real = nn.relu(convolution(x)), real[:, ::stride]
        if x.shape[1] > self.max_places:
            raise ValueError(f"`max_places` must be at least {x.shape[1]} for inputs of this length")
        x = x + self.places[None, : x.shape[1]]
        for block in self.blocks:
            x = block(x, real)
        return self.norm(x), real


def shared_out(weight: jax.Array, segments: int) -> jax.Array:
    """Cuts places into consecutive segments of equal weight; a place on a border belongs to both in part.

    Args:
      weight: `[N, P]`, zero or more.
      segments: S.

    Returns:
      `[N, P, S]`: the share that each place has of each segment. Those of a segment sum to one, or to zero where
      nothing weighs anything.
    """
    total = jnp.maximum(jnp.sum(weight, axis=1, keepdims=True), EPSILON)
    long = weight / total * segments
    end = jnp.cumsum(long, axis=1)
    edge = jnp.arange(segments, dtype=weight.dtype)[None, None]
    return jax.nn.relu(jnp.minimum(end[..., None], edge + 1) - jnp.maximum((end - long)[..., None], edge))


def speech_classifier(outputs: int, **options: Any) -> Model:
    """Returns a `SpeechEncoder` as a `Model` that answers `[N, outputs]`; its attributes are the options.

    Example:
      model = speech_classifier(10, width=48, segments=3)
    """
    return linen(SpeechEncoder(outputs, **options))


def speech_recognizer(outputs: int, **options: Any) -> Model:
    """Returns a `SpeechEncoder` as a `Model` that answers `{"logits": [N, P, outputs], "real": [N, P]}`.

    Its attributes are the options; `outputs` counts the blank of CTC, symbol 0. It has no `features`: a transcript has
    no single vector.

    Example:
      model = speech_recognizer(11, max_places=128)  # ten digits and the blank
    """
    return linen(SpeechEncoder(outputs, per_frame=True, **options), features=None)
