"""A run's policy in pure NumPy: `action = load()(obs)`. `branchax export` writes this file next to `policy.npz`.

`spec.json` in the same folder describes the observations and the actions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np


def load(file: str | Path | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """The policy saved in `file` (default: policy.npz next to this file): obs [..., D] -> actions [..., A], float32."""
    with np.load(file or Path(__file__).with_name("policy.npz"), allow_pickle=False) as saved:
        p = dict(saved)  # kernel_i [C, in, out] and bias_i [C, 1, out] of C networks, whose outputs are averaged
    depth = sum(name.startswith("kernel_") for name in p)

    activation = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "silu": silu}[str(p["activation"])]

    def act(obs: np.ndarray) -> np.ndarray:
        x = np.asarray(obs, np.float32).reshape(1, -1, np.shape(obs)[-1])
        for i in range(depth):
            x = normed(x) if f"pre_norm_{i}" in p else x
            x = x @ p[f"kernel_{i}"] + p[f"bias_{i}"]
            if f"scale_{i}" in p:  # LayerNorm
                x = normed(x) * p[f"scale_{i}"] + p[f"shift_{i}"]
            if i + 1 < depth:
                x = activation(x)
        x = x.mean(0).reshape(*np.shape(obs)[:-1], -1)
        if p["head"] == "argmax":
            return np.eye(x.shape[-1], dtype=np.float32)[x.argmax(-1)]
        return np.tanh(x) if p["head"] == "tanh" else x

    return act


def normed(x: np.ndarray) -> np.ndarray:
    """LayerNorm without parameters."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def silu(x: np.ndarray) -> np.ndarray:
    """x sigmoid(x)."""
    return x * (0.5 + 0.5 * np.tanh(0.5 * x))
