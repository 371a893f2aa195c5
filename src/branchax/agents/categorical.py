"""Categorical values: a distribution p over K atoms z_k, evenly spaced from -1 to 1 in units of the range of values.

    Q = sum_k p_k z_k,   p = softmax(logits)
    J = -sum_k m_k log p_k,   m the two-hot projection of a target y

XQC (Palenicek et al. 2025, "XQC: Well-conditioned optimization accelerates deep RL") projects the target critic's whole
distribution, as C51 does (Bellemare et al. 2017, arXiv:1707.06887). Here a target is a number, however far it looks
ahead in a model, and m has its mean (two-hot targets: Farebrother et al. 2024, arXiv:2403.03950).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def two_hot(y: jax.Array, atoms: int) -> jax.Array:
    """m [..., K] of y [...]: weights of the two atoms around y, with mean y; outside of [-1, 1] the nearest one's."""
    place = (jnp.clip(y, -1.0, 1.0) + 1) / 2 * (atoms - 1)
    return jnp.maximum(0.0, 1 - jnp.abs(place[..., None] - jnp.arange(atoms)))


def expectation(logits: jax.Array) -> jax.Array:
    """Q [...] of logits [..., K], in [-1, 1]."""
    return (jax.nn.softmax(logits) * jnp.linspace(-1.0, 1.0, logits.shape[-1])).sum(-1)


def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """J [..., N] of logits [..., N, K] for targets y [N]."""
    return -(two_hot(y, logits.shape[-1]) * jax.nn.log_softmax(logits)).sum(-1)
