"""A small encoder of speech: strided convolutions over log-mel frames, then Transformer blocks; no batch statistics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_positive
from jaxmeta.core.types import ArrayTree, Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.log_mel import MelSettings, log_mel
from jaxmeta.models.transformer import Block, layer_norm


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
      segments: equal parts of time that are averaged apart, so that `features` are `[N, segments * width]`; 1 is the
        mean over all real places.
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
        self.head = nn.Dense(self.outputs, param_dtype=self.dtype)

    def __call__(self, inputs: ArrayTree) -> Any:
        """Returns `[N, outputs]`, or with `per_frame` the logits of every place and which places are real."""
        if not self.per_frame:
            return self.head(self.features(inputs))
        x, real = self.encode(inputs)
        return {"logits": self.head(x), "real": real}

    def features(self, inputs: ArrayTree) -> jax.Array:
        """Returns the mean over the real places of each segment, `[N, segments * width]`."""
        x, real = self.encode(inputs)
        order = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        # The place in the middle of a segment's border belongs to the later one; padding belongs to none.
        segment = order * self.segments // jnp.maximum(jnp.sum(real, axis=1, dtype=jnp.int32), 1)[:, None]
        member = (segment[..., None] == jnp.arange(self.segments, dtype=jnp.int32)[None, None]) & real[..., None]
        member = member.astype(x.dtype)
        means = jnp.einsum("npd,nps->nsd", x, member) / jnp.maximum(jnp.sum(member, axis=1), 1)[..., None]
        return means.reshape(len(x), self.segments * self.width)

    def encode(self, inputs: ArrayTree) -> tuple[jax.Array, jax.Array]:
        """Returns every place's vector, `[N, P, width]`, and which places are real, `[N, P]`."""
        frames = inputs if "mel" in inputs else log_mel(inputs["audio"], inputs["samples"], self.mel)
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
