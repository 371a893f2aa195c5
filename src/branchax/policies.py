"""Policies as values: a map from observations to the parameters of a distribution, and the distribution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax import nn
from branchax.distributions import Distribution, categorical, deterministic, normal, raw_log_std, tanh_normal
from branchax.types import Key, Params
from branchax.worlds.base import WorldSpec


class Policy(NamedTuple):
    """pi(a | s; theta) = distribution(zeta), zeta = apply(theta, s)."""

    init: Callable[[Key], Params]
    apply: Callable[[Params, jax.Array], jax.Array]  # (theta, obs [..., D]) -> zeta [..., P]
    distribution: Distribution
    layers: Callable[[Params], list[nn.Layer]] | None = None  # the mode's layers, before `head`
    head: str = "identity"  # or tanh, or argmax (a one-hot vector)

    def act(self, params: Params) -> Callable[[Key, jax.Array], tuple[jax.Array, jax.Array]]:
        """The `act` for `rollout`: (key, obs [D]) -> action [A], zeta [P]; differentiable in all inputs."""

        def act(key: Key, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
            zeta = self.apply(params, obs)
            return self.distribution.sample(key, zeta)[0], zeta

        return act

    def log_prob(self, params: Params, obs: jax.Array, action: jax.Array) -> jax.Array:
        """log pi(a | s; theta): [..., D], [..., A] -> [...]. Only for distributions that have a density."""
        assert self.distribution.log_prob is not None, "a deterministic policy has no log_prob"
        return self.distribution.log_prob(self.apply(params, obs), action)

    def mode(self, params: Params, obs: jax.Array) -> jax.Array:
        """[..., D] -> [..., A]."""
        return self.distribution.mode(self.apply(params, obs))


def gaussian_policy(
    spec: WorldSpec,
    hidden: Sequence[int],
    init_std: float,
    squash: bool = False,
    activation: nn.Activation = nn.tanh,
    network: nn.MakeNetwork = nn.mlp,
) -> Policy:
    """A network for the mean, and one learned log standard deviation per action entry, independent of the observation.

    Deterministic if `init_std` is 0; with `squash`, actions go through tanh. The last layer starts with 100 times
    smaller weights, so that the first actions are almost pure noise.
    """
    net = network(spec.obs_size, hidden, spec.action_size, activation=activation, last_scale=0.01)
    stack, head = net.layers, "tanh" if squash else "identity"
    if init_std == 0:
        last = jnp.tanh if squash else lambda x: x
        return Policy(net.init, lambda params, obs: last(net.apply(params, obs)), deterministic, stack, head)
    start = raw_log_std(math.log(init_std)) if squash else math.log(init_std)

    def init(key: Key) -> Params:
        return {"mean": net.init(key), "log_std": jnp.full(spec.action_size, start, jnp.float32)}

    def apply(params: Params, obs: jax.Array) -> jax.Array:
        mean = net.apply(params["mean"], obs)
        return jnp.concatenate([mean, jnp.broadcast_to(params["log_std"], mean.shape)], -1)

    layers = None if stack is None else lambda params: stack(params["mean"])
    return Policy(init, apply, tanh_normal if squash else normal, layers, head)


def categorical_policy(
    spec: WorldSpec,
    hidden: Sequence[int],
    activation: nn.Activation = nn.tanh,
    network: nn.MakeNetwork = nn.mlp,
) -> Policy:
    """A network for the logits of discrete actions, almost uniform at first."""
    net = network(spec.obs_size, hidden, spec.action_size, activation=activation, last_scale=0.01)
    return Policy(net.init, net.apply, categorical, net.layers, "argmax")


def linear_policy(spec: WorldSpec, std: float, dtype: jnp.dtype | type = jnp.float32) -> Policy:
    """a = -K s + std e, e ~ N(0, I), with theta = K [A, D] starting at zero; deterministic if `std` is 0."""

    def apply(gain: Params, obs: jax.Array) -> jax.Array:
        mean = -jnp.einsum("ad,...d->...a", gain, obs)
        return mean if std == 0 else jnp.concatenate([mean, jnp.full_like(mean, jnp.log(std))], -1)

    def init(key: Key) -> Params:
        del key
        return jnp.zeros((spec.action_size, spec.obs_size), dtype)

    return Policy(init, apply, deterministic if std == 0 else normal)
