"""Conv-4, the small image encoder of few-shot learning (Vinyals et al. 2016; Finn et al. 2017)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmeta.core.checks import check_one_of, check_positive
from jaxmeta.core.products import convolution
from jaxmeta.core.trees import sum_dtype
from jaxmeta.core.types import Model
from jaxmeta.models.adapters import linen
from jaxmeta.models.pooling import largest

BLOCKS = 4
SMALLEST_IMAGE = 2**BLOCKS  # pixels on a side that can be halved by every block
EPSILON = 1e-5


class Conv4(nn.Module):
    """Four blocks of [3x3 convolution, normalisation, halving, relu] and a linear head.

    Reads images `[N, H, W]` or `[N, H, W, C]`, cast to `dtype`, and answers `[N, outputs]`.

    Attributes:
      outputs: width of the last layer, named "head".
      width: channels of each block (Vinyals: 64; Finn on MiniImageNet: 32).
      normalization: whose numbers an activation is centred and scaled by:
        "group", those of its example and its group of channels (Wu & He 2018, arXiv 1803.08494);
        "layer", those of its example;
        "transductive", those of its channel in exactly the batch that the call is given, and never stored.
          The examples of one call see one another, so queries are judged together, and padding counts as
          examples; Finn et al. 2017 did so, and scores that were reached so are not comparable with the
          others;
        "none", nobody's.
        With all but "transductive", an example's output depends on that example alone.
      groups: groups of channels of "group"; must divide `width`.
      downsample: how a block halves the image: "max" pools 2x2 and drops an odd last row, "stride" makes the
        convolution skip every other place and keeps it.
      global_pool: whether features are the mean over places, `[N, width]`, instead of all of them, flattened.
      implementation: "patches" gathers nine shifted images and multiplies once; "lax" calls XLA's
        convolution, which `conv4` takes for the first on a CPU, as it does with any model. Both give the same
        numbers from the same parameters. Under `vmap` over the weights of tasks the second becomes a grouped
        convolution, and the first a batched matrix product.
      dtype: of the arithmetic and of the outputs (statistics are float32 at least); None means `param_dtype`.
      param_dtype: of the parameters.
    """

    outputs: int
    width: int = 64
    normalization: str = "group"
    groups: int = 8
    downsample: str = "max"
    global_pool: bool = False
    implementation: str = "patches"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        """Checks sizes and names."""
        check_positive("outputs", self.outputs)
        check_positive("width", self.width)
        check_positive("groups", self.groups)
        check_one_of("normalization", self.normalization, ("group", "layer", "transductive", "none"))
        check_one_of("downsample", self.downsample, ("max", "stride"))
        check_one_of("implementation", self.implementation, ("patches", "lax"))
        if self.normalization == "group" and self.width % self.groups:
            raise ValueError(f"`groups` must divide `width` ({self.width}), got {self.groups}")
        super().__post_init__()

    def setup(self):
        """Names the parts "block_0" to "block_3" and "head"."""
        dtype = self._compute_dtype()
        stride = 2 if self.downsample == "stride" else 1
        self.block = [
            Block(
                self.width,
                self.normalization,
                self.groups,
                stride,
                self.implementation,
                dtype,
                self.param_dtype,
            )
            for _ in range(BLOCKS)
        ]
        self.head = nn.Dense(self.outputs, dtype=dtype, param_dtype=self.param_dtype)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns `[N, outputs]`."""
        return self.head(self.features(images))

    def features(self, images: jax.Array) -> jax.Array:
        """Returns the last block's output, `[N, D]`."""
        x = jnp.asarray(images).astype(self._compute_dtype())
        if x.ndim == 3:
            x = x[..., None]
        if x.ndim != 4:
            raise ValueError(f"images must have the shape [N, H, W] or [N, H, W, C], got {list(images.shape)}")
        if self.downsample == "max" and min(x.shape[1:3]) < SMALLEST_IMAGE:
            raise ValueError(
                f"images must be at least {SMALLEST_IMAGE} pixels high and wide to be pooled {BLOCKS} times, got "
                f"{x.shape[1]}x{x.shape[2]}: enlarge them or give `downsample='stride'`"
            )
        for block in self.block:
            x = block(x)
        if self.global_pool:
            return jnp.mean(x, axis=(1, 2))
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def _compute_dtype(self):
        return self.param_dtype if self.dtype is None else self.dtype


class Block(nn.Module):
    """One block of Conv-4: `[N, H, W, C]` to about `[N, H/2, W/2, width]`."""

    width: int
    normalization: str
    groups: int
    stride: int
    implementation: str
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves, normalises, halves, rectifies."""
        shape = (3, 3, x.shape[-1], self.width)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape, self.param_dtype)
        convolve = conv_patches if self.implementation == "patches" else conv_lax
        x = convolve(x, kernel.astype(self.dtype), self.stride)
        if self.normalization != "none":
            x = normalized(x, self.normalization, self.groups)
            scale = self.param("scale", nn.initializers.ones, (self.width,), self.param_dtype)
            x = x * scale.astype(self.dtype)[None, None, None]
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        x = x + bias.astype(self.dtype)[None, None, None]
        # Relu commutes with the maximum, and after it there is a quarter to rectify.
        return nn.relu(x if self.stride == 2 else max_pool(x))


def conv_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves `[N, H, W, C]` with `[3, 3, C, D]`, zeros around, as one product of nine shifted images.

    Returns:
      `[N, ceil(H / stride), ceil(W / stride), D]`.
    """
    return convolution(x, kernel, (stride, stride), ((1, 1), (1, 1)))


def conv_lax(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """The same as `conv_patches` by XLA's convolution."""
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def max_pool(x: jax.Array) -> jax.Array:
    """Returns the maximum of each 2x2 square: `[N, H, W, C]` to `[N, H // 2, W // 2, C]`."""
    n, height, width, channels = x.shape
    rows, columns = height // 2, width // 2
    # Differentiating a reduce-window twice is slow on CPU; a maximum of four slices is not.
    squares = x[:, : 2 * rows, : 2 * columns].reshape(n, rows, 2, columns, 2, channels)
    return largest([squares[:, :, i, :, j] for i in (0, 1) for j in (0, 1)])


def normalized(x: jax.Array, normalization: str, groups: int) -> jax.Array:
    """Centres and scales `[N, H, W, C]` as `Conv4` says; statistics are float32 at least."""
    dtype = sum_dtype(x.dtype)
    channels = x.shape[-1]
    if normalization == "layer":
        groups = 1
    elif normalization == "transductive":
        groups = channels
    grouped = x.astype(dtype).reshape(*x.shape[:-1], groups, channels // groups)
    axes = (0, 1, 2, 4) if normalization == "transductive" else (1, 2, 4)
    centred = grouped - jnp.mean(grouped, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=axes, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + EPSILON)).reshape(x.shape).astype(x.dtype)


def conv4(outputs: int, **options: Any) -> Model:
    """Returns a `Conv4` as a `Model`; its attributes are the options.

    Example:
      model = conv4(5, width=32, normalization="layer")
    """
    return linen(Conv4(outputs, **options))
