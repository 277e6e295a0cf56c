"""The networks of the workloads as plain jax functions `(params, inputs [N, ...]) -> outputs [N, C]`."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from workloads import Conv4, Mlp, Transformer, Workload

EPSILON = 1e-5


def network(workload: Workload, convolution: str = "patches") -> Callable:
    """Returns the network of a workload.

    Args:
      workload: what to run.
      convolution: "patches", one product with nine shifted images, or "lax", XLA's own.
    """
    sizes = workload.sizes
    if isinstance(sizes, Mlp):
        return partial(_mlp, sizes)
    if isinstance(sizes, Conv4):
        return partial(_conv4, {"patches": _by_patches, "lax": _by_lax}[convolution])
    return partial(_transformer, sizes)


def _mlp(sizes: Mlp, params, x):
    last = len(sizes.widths) - 2
    for i in range(last):
        x = jax.nn.relu(_dense(params, f"layer_{i}", x))
    return _dense(params, f"layer_{last}", x)


def _conv4(convolve, params, x):
    for i in range(4):
        x = convolve(x, params[f"conv_{i}.kernel"])
        x = jax.nn.relu(_normalised(params, f"norm_{i}", x, (0, 1, 2)))
    return _dense(params, "head", x.mean((1, 2)))


def _by_patches(x, kernel):
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : 2, j : j + width : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _by_lax(x, kernel):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout)


def _transformer(sizes: Transformer, params, tokens):
    x = params["tokens"][tokens] + params["places"][None]
    for i in range(sizes.layers):
        x = x + _attention(sizes, params, f"block_{i}", _normalised(params, f"block_{i}.norm_1", x, -1))
        hidden = _dense(params, f"block_{i}.up", _normalised(params, f"block_{i}.norm_2", x, -1))
        x = x + _dense(params, f"block_{i}.down", jax.nn.gelu(hidden, approximate=True))
    return _dense(params, "head", _normalised(params, "norm", x, -1).mean(1))


def _attention(sizes: Transformer, params, name, x):
    shape = (*x.shape[:2], 3, sizes.heads, sizes.width // sizes.heads)
    qkv = _dense(params, f"{name}.qkv", x).reshape(shape)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / shape[-1] ** 0.5, axis=-1)
    return _dense(params, f"{name}.out", jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape))


def _dense(params, name, x):
    bias = params[f"{name}.bias"]
    return x @ params[f"{name}.kernel"] + bias.reshape((1,) * (x.ndim - 1) + bias.shape)


def _normalised(params, name, x, axes):
    scale, bias = (params[f"{name}.{part}"].reshape((1,) * (x.ndim - 1) + (-1,)) for part in ("scale", "bias"))
    centred = x - x.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + EPSILON) * scale + bias
