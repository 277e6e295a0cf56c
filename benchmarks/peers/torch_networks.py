"""The networks of the workloads in PyTorch, as functions `(params, inputs [N, ...]) -> outputs [N, C]`.

Parameters have the layouts that PyTorch is fast with; `to_torch` and `from_torch` change them.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from workloads import Arrays, Conv4, Mlp, Transformer, Workload

EPSILON = 1e-5


def to_torch(params: Arrays) -> dict[str, torch.Tensor]:
    """Returns parameters as tensors: kernels `[out, in]`, those of convolutions `[out, in, height, width]`."""
    return {name: torch.from_numpy(_turned(name, value, (3, 2, 0, 1))) for name, value in params.items()}


def from_torch(gradient: dict[str, torch.Tensor]) -> Arrays:
    """Returns a gradient in the layouts of the workloads."""
    return {name: _turned(name, value.detach().cpu().numpy(), (2, 3, 1, 0)) for name, value in gradient.items()}


def _turned(name: str, value: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    if not name.endswith(".kernel"):
        return value.copy()
    return np.ascontiguousarray(value.transpose(axes if value.ndim == 4 else (1, 0)))


def network(workload: Workload, own_norms: bool) -> Callable:
    """Returns the network of a workload.

    Args:
      workload: what to run.
      own_norms: write normalisation out, instead of calling the library's, whose second derivative is not right under
        `vmap` with scales of each task.
    """
    sizes = workload.sizes
    if isinstance(sizes, Mlp):
        return partial(_mlp, sizes)
    if isinstance(sizes, Conv4):
        return partial(_conv4, _batch_norm_by_hand if own_norms else _batch_norm)
    return partial(_transformer, sizes, _layer_norm_by_hand if own_norms else _layer_norm)


def _mlp(sizes: Mlp, params, x):
    last = len(sizes.widths) - 2
    for i in range(last):
        x = F.relu(_dense(params, f"layer_{i}", x))
    return _dense(params, f"layer_{last}", x)


def _conv4(norm, params, x):
    for i in range(4):
        x = F.conv2d(x, params[f"conv_{i}.kernel"], stride=2, padding=1)
        x = F.relu(norm(params, f"norm_{i}", x))
    return _dense(params, "head", x.mean((2, 3)))


def _transformer(sizes: Transformer, norm, params, tokens):
    x = F.embedding(tokens, params["tokens"]) + params["places"]
    for i in range(sizes.layers):
        x = x + _attention(sizes, params, f"block_{i}", norm(params, f"block_{i}.norm_1", x))
        hidden = _dense(params, f"block_{i}.up", norm(params, f"block_{i}.norm_2", x))
        x = x + _dense(params, f"block_{i}.down", F.gelu(hidden, approximate="tanh"))
    return _dense(params, "head", norm(params, "norm", x).mean(1))


def _attention(sizes: Transformer, params, name, x):
    each = sizes.width // sizes.heads
    qkv = _dense(params, f"{name}.qkv", x).reshape(*x.shape[:2], 3, sizes.heads, each)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    # In plain products: the fused kernels cannot be differentiated twice.
    weights = torch.softmax(q @ k.transpose(-1, -2) / each**0.5, dim=-1)
    return _dense(params, f"{name}.out", (weights @ v).transpose(1, 2).reshape(x.shape))


def _dense(params, name, x):
    return F.linear(x, params[f"{name}.kernel"], params[f"{name}.bias"])


def _layer_norm(params, name, x):
    return F.layer_norm(x, x.shape[-1:], params[f"{name}.scale"], params[f"{name}.bias"], EPSILON)


def _layer_norm_by_hand(params, name, x):
    return _centred(x, (-1,)) * params[f"{name}.scale"] + params[f"{name}.bias"]


def _batch_norm(params, name, x):
    scale, bias = params[f"{name}.scale"], params[f"{name}.bias"]
    return F.batch_norm(x, None, None, scale, bias, training=True, eps=EPSILON)


def _batch_norm_by_hand(params, name, x):
    scale, bias = (params[f"{name}.{part}"][:, None, None] for part in ("scale", "bias"))
    return _centred(x, (0, 2, 3)) * scale + bias


def _centred(x, axes):
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + EPSILON)
