"""Products of closed-loop Jacobians along rollouts: where a gradient through time explodes and where it vanishes.

With a policy, and the noise of world and policy held fixed, one step is a map f_t of the state, and

    J_{0:t} = prod_{k<t} d s_{k+1} / d s_k        s_{k+1} = f_k(s_k)

is what a pathwise gradient multiplies by (Parmas et al. 2018, PIPPS, arXiv:1902.01240; Metz et al. 2021,
arXiv:2111.05803). Everything here is forward mode and so needs no `spec.differentiable`: a world with a `while_loop` in
its step has these Jacobians although it has no reverse-mode derivative.

**Coordinates.** A `WorldState` holds N floats, those of `inner` and of the observation that the policy reads. All are
pushed forward, but directions are named and measured by the observation [D], which is what real and learned worlds have
in common. `inner` and the observation cannot be perturbed independently. So one uncounted step comes first, whose
output is consistent; the product starts from directions there that are orthonormal in the observation. There are at
most D; where the observation says the same thing twice (cosine and sine of one angle) there are fewer, and the rest is
-inf. A direction that the observation does not show is not followed. The first step costs N tangents, the others D or
fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from branchax.rollout import Act, step_keys
from branchax.types import Key
from branchax.worlds.base import World, WorldState


class Crossing(NamedTuple):
    """The number of steps after which a product is first beyond a threshold; -1 where it never is. [B] int32."""

    explodes: jax.Array  # its largest singular value is above the threshold
    vanishes: jax.Array  # it is below 1 / threshold


def singular_values(key: Key, world: World, act: Act, start: WorldState, horizon: int) -> jax.Array:
    """The natural logs of the singular values of J_{0:t} for t = 1 .. H, largest first: [H, B, D].

    The product is rescaled at each step and its scale carried as a logarithm, so that no horizon over- or underflows.
    It is kept in one piece: singular values that have fallen below the rounding of the largest one (1e-7 of it in
    float32) are noise. `lyapunov` resolves them.

    Args:
      key: consumed. The states and the noise are those of `rollout(key, world, act, start, H + 1)` up to an end.
      world: any; terminations and clocks do not stop it.
      act: the policy.
      start: [B, ...]; the product starts one step later (see above).
      horizon: H, static.
    """

    def step(carry: tuple[WorldState, jax.Array], time: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        state, tangents = _push(key, time, world, act, *carry)
        values = jnp.linalg.svd(_shown(tangents, state), compute_uv=False)  # [B, D]
        size = jnp.where(values[:, 0] > 0, values[:, 0], 1.0)
        return (state, tangents / size[:, None, None]), (jnp.log(values), jnp.log(size))

    state, tangents = _begin(key, world, act, start)
    _, (logs, sizes) = jax.lax.scan(step, (state, tangents), jnp.arange(1, horizon + 1))
    # Summed here, pairwise, because a sum carried along would round a thousand times in the same direction.
    logs = logs + (jnp.cumsum(sizes, 0) - sizes)[..., None]
    return jnp.where((tangents != 0).any(-1), logs, -jnp.inf)  # the SVD returns rounding errors for null directions


def lyapunov(key: Key, world: World, act: Act, start: WorldState, horizon: int, leading: int) -> jax.Array:
    """The `leading` (k) largest Lyapunov exponents over a horizon of H steps, in 1 / step: [B, k].

    With Q_0 orthonormal [D, k], the QR decomposition of each step, (d s_{t+1} / d s_t) Q_t = Q_{t+1} R_{t+1}, gives

        lambda_i = 1/H sum_t log |R_t,ii|

    (Benettin et al. 1980, Meccanica 15.) An exponent per second is this over the world's step. The error falls as 1/H,
    and the largest come first once it is small; directions that do not exist have -inf. k <= D, static; the other
    arguments are those of `singular_values`.
    """

    def step(carry: tuple[WorldState, jax.Array], time: jax.Array) -> tuple[Any, jax.Array]:
        state, tangents = _push(key, time, world, act, *carry)
        r = jnp.linalg.qr(_shown(tangents, state).mT, mode="r")  # [B, k, k]
        stretch = jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1))
        there = _above_rounding(stretch)
        r = jnp.where(there[:, :, None] & there[:, None, :], r, jnp.eye(leading, dtype=r.dtype))
        tangents = jax.vmap(lambda r, t: jax.scipy.linalg.solve_triangular(r, t, trans=1))(r, tangents)
        return (state, jnp.where(there[..., None], tangents, 0.0)), jnp.log(jnp.where(there, stretch, 0.0))

    state, tangents = _begin(key, world, act, start)
    _, logs = jax.lax.scan(step, (state, tangents[:, :leading]), jnp.arange(1, horizon + 1))
    return logs.mean(0)


def crossing(log_singular: jax.Array, threshold: float) -> Crossing:
    """Where the product of `singular_values` [H, B, D] rises above `threshold` > 1 and falls below its inverse."""
    largest, bound = log_singular.max(-1), jnp.log(threshold)

    def first(beyond: jax.Array) -> jax.Array:
        return jnp.where(beyond.any(0), beyond.argmax(0) + 1, -1).astype(jnp.int32)

    return Crossing(first(largest > bound), first(largest < -bound))


def _begin(key: Key, world: World, act: Act, start: WorldState) -> tuple[WorldState, jax.Array]:
    """The states after the step that is not counted, and tangents [B, D, N] there, orthonormal in the observation."""
    vectors = jax.vmap(lambda state: _floats(state)[0])(start)  # [B, N]
    every = jnp.broadcast_to(jnp.eye(vectors.shape[1], dtype=vectors.dtype), (*vectors.shape, vectors.shape[1]))
    state, tangents = _push(key, jnp.zeros((), jnp.int32), world, act, start, every)
    mix, values, _ = jnp.linalg.svd(_shown(tangents, state), full_matrices=False)  # [B, N, D], [B, D]
    there = _above_rounding(values)
    mix = jnp.where(there[:, None], mix / jnp.where(there, values, 1.0)[:, None], 0.0)
    return state, jnp.matmul(mix.mT, tangents, precision="highest")


def _shown(tangents: jax.Array, state: WorldState) -> jax.Array:
    """What tangents [B, n, N] do to the observation: [B, n, D]."""
    return tangents[..., -state.obs.shape[-1] :]


def _above_rounding(stretch: jax.Array) -> jax.Array:
    """Which of the stretches [B, n] of one step are more than rounding."""
    return stretch > stretch.max(-1, keepdims=True) * stretch.shape[-1] * jnp.finfo(stretch.dtype).eps


def _push(
    key: Key, time: jax.Array, world: World, act: Act, state: WorldState, tangents: jax.Array
) -> tuple[WorldState, jax.Array]:
    """The step of a `rollout` at a time [], and its derivative along tangents [B, n, N]: next states, and tangents.

    Steps and derivatives are taken at once: the derivative of a step needs the step again, so that a rollout's stored
    states would save nothing.
    """
    batch = state.obs.shape[0]
    keys_act, keys_step, _ = step_keys(key, time, batch)

    def one(key_act: Key, key_step: Key, state: WorldState, tangents: jax.Array) -> tuple[WorldState, jax.Array]:
        vector, replace = _floats(state)

        def step(vector: jax.Array) -> tuple[jax.Array, WorldState]:
            before = replace(vector)
            action, _ = act(key_act, before.obs)
            after, _ = world.step(key_step, before, action)
            return _floats(after)[0], after

        def along(tangent: jax.Array) -> tuple[WorldState, jax.Array]:
            _, pushed, after = jax.jvp(step, (vector,), (tangent,), has_aux=True)
            return after, pushed

        return jax.vmap(along, out_axes=(None, 0))(tangents)

    return jax.vmap(one)(keys_act, keys_step, state, tangents)


def _floats(state: WorldState) -> tuple[jax.Array, Callable[[jax.Array], WorldState]]:
    """The floats of an unbatched state as one vector [N], the observation last, and the state with others instead."""
    leaves, tree = jax.tree.flatten(state)
    places = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    vector, unravel = ravel_pytree([leaves[i] for i in places])

    def replace(vector: jax.Array) -> WorldState:
        others = dict(zip(places, unravel(vector), strict=True))
        return jax.tree.unflatten(tree, [others.get(i, leaf) for i, leaf in enumerate(leaves)])

    return vector, replace
