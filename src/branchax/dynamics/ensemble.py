"""A probabilistic ensemble: each member maps (obs, action) to a Gaussian over the change of the obs and the reward.

Chua et al. 2018 (PETS, arXiv:1805.12114), section 4; Lakshminarayanan et al. 2017 for the negative log-likelihood:

    -log p(y | x) = 1/2 sum_i [ (y_i - mean_i(x))^2 exp(-logvar_i(x)) + logvar_i(x) + log 2 pi ]

Each entry of the inputs, the state targets and the reward target is standardised by its own mean and standard
deviation, so that no entry dominates the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax import nn, normalize
from branchax.config import ModelConfig
from branchax.dynamics.base import Member
from branchax.dynamics.uncertainty import Measure
from branchax.types import Key, Params, Transition
from branchax.worlds.base import Predicate, World, WorldSpec, WorldState, never

LOG_VAR_BOUNDS = (-10.0, 0.5)  # initial values of the learned bounds (PETS), in standardised units
BOUND_WEIGHT = 0.01  # weight of the loss that draws the bounds together (PETS)


class Scales(NamedTuple):
    """Statistics that convert between raw numbers and the network's units; computed again at each fit."""

    inputs: normalize.Stats  # [D + A]
    targets: normalize.Stats  # [D + 1], state then reward
    obs: normalize.Stats  # [D], only its range is used


class Ensemble(NamedTuple):
    """The state of an ensemble, each leaf of `params` and `optimizer` with a leading member axis [E, ...]."""

    params: Params
    optimizer: Params
    scales: Scales
    elites: jax.Array  # [n] int32


class Prediction(NamedTuple):
    """One member's prediction for one (obs, action), in standardised units."""

    mean: jax.Array  # [D + 1]
    log_var: jax.Array  # [D + 1]
    logit: jax.Array  # [] of termination; trained only if termination is learned


class ModelStep(NamedTuple):
    """One imagined step, in the environment's units."""

    next_obs: jax.Array  # [D]
    reward: jax.Array  # []
    terminated: jax.Array  # [] bool
    beyond: jax.Array  # [] bool, whether the predicted state was NaN or outside the range that it is clipped to


def network(spec: WorldSpec, config: ModelConfig, make: nn.MakeNetwork = nn.mlp) -> nn.Network:
    """One member's trunk and heads: [D + A] -> means [D + 1], raw log-variances [D + 1], termination logit [1]."""
    return make(
        spec.obs_size + spec.action_size,
        config.hidden,
        2 * (spec.obs_size + 1) + 1,
        activation=jax.nn.silu,
        kernel_init=nn.truncated_normal(),
        pre_norm=config.pre_norm,
        dropout=config.dropout,
    )


def init_member(key: Key, net: nn.Network, spec: WorldSpec, config: ModelConfig) -> Params:
    """The parameters of one member, including its log-variance [D + 1] or the bounds of it."""
    if config.noise != "state":
        return {"net": net.init(key), "log_var": jnp.zeros(spec.obs_size + 1)}
    low, high = (jnp.full(spec.obs_size + 1, bound, jnp.float32) for bound in LOG_VAR_BOUNDS)
    return {"net": net.init(key), "log_var_low": low, "log_var_high": high}


def inputs(spec: WorldSpec, obs: jax.Array, action: jax.Array) -> jax.Array:
    """[..., D], [..., A] -> [..., D + A].

    Actions are clipped to [-1, 1] where the world clips them. Otherwise a policy could exploit the model where it has
    no data.
    """
    return jnp.concatenate([obs, jnp.clip(action, -1.0, 1.0) if spec.clips else action], -1)


def targets(transition: Transition, target: str) -> jax.Array:
    """[..., D + 1]: the change of the observation (or the next one), then the reward."""
    state = transition.next_obs - transition.obs if target == "delta" else transition.next_obs
    return jnp.concatenate([state, transition.reward[..., None]], -1)


def predict(net: nn.Network, params: Params, x: jax.Array, key: Key | None = None) -> Prediction:
    """One member's Gaussian at standardised inputs x [..., D + A]; `key` is for a network with dropout.

    The raw log-variance is bounded softly: l <- high - softplus(high - l), then l <- low + softplus(l - low). Constant
    noise is one parameter, at least `LOG_VAR_BOUNDS[0]`.
    """
    out = net.apply(params["net"], x) if key is None else net.apply(params["net"], x, key)
    size = (out.shape[-1] - 1) // 2
    mean, raw, logit = out[..., :size], out[..., size : 2 * size], out[..., -1]
    if "log_var" in params:
        return Prediction(mean, jnp.broadcast_to(jnp.maximum(params["log_var"], LOG_VAR_BOUNDS[0]), mean.shape), logit)
    low, high = params["log_var_low"], params["log_var_high"]
    log_var = high - jax.nn.softplus(high - raw)
    log_var = low + jax.nn.softplus(log_var - low)
    return Prediction(mean, log_var, logit)


def keep_learnable(params: Params) -> Params:
    """A member's parameters after a step, with constant noise not below its least value.

    Below it, `predict` has no derivative, so that an entry which was once constant could never become noisy.
    """
    if "log_var" not in params:
        return params
    return params | {"log_var": jnp.maximum(params["log_var"], LOG_VAR_BOUNDS[0])}


def set_noise(params: Params, square: jax.Array) -> Params:
    """Parameters with constant noise, whose variance becomes the mean square error [..., D + 1] where that is finite.

    It is the noise under which errors of that size are most likely: d/dv (square / v + log v) = 0 at v = square.
    """
    most_likely = jnp.maximum(jnp.log(square), LOG_VAR_BOUNDS[0])
    return params | {"log_var": jnp.where(jnp.isfinite(square), most_likely, params["log_var"])}


def predict_all(net: nn.Network, model: Ensemble, x: jax.Array) -> Prediction:
    """The elites' Gaussians at x [..., D + A], each leaf with a leading axis [n]."""
    elites = jax.tree.map(lambda leaf: leaf[model.elites], model.params)
    return jax.vmap(lambda params: predict(net, params, x))(elites)


def doubt(
    model: Ensemble, net: nn.Network, measure: Measure, spec: WorldSpec, obs: jax.Array, action: jax.Array
) -> jax.Array:
    """The elites' uncertainty, a measure of `dynamics.uncertainty`, at obs [D] and action [A] -> []."""
    each = predict_all(net, model, normalize.apply(model.scales.inputs, inputs(spec, obs, action)))
    return measure(each.mean, each.log_var)


def negative_log_likelihood(prediction: Prediction, y: jax.Array, beta: jax.Array | float = 0.0) -> jax.Array:
    """-log N(y; mean, v), with v = exp(log_var), summed over the entries of y [..., D + 1] -> [...].

    With `beta` each entry is weighed by v ** beta, a constant to the gradient (Seitzer et al. 2022, arXiv:2203.09168,
    equation 5). Maximum likelihood (0) gives the mean's error the weight 1 / v, so that entries which are not predicted
    well yet are learned last; with `beta` that weight is v ** (beta - 1).
    """
    square = (y - prediction.mean) ** 2 * jnp.exp(-prediction.log_var)
    weight = jax.lax.stop_gradient(jnp.exp(beta * prediction.log_var))
    return 0.5 * jnp.sum(weight * (square + prediction.log_var + jnp.log(2 * jnp.pi)), -1)


def mix(each: Prediction) -> Prediction:
    """The members' mixture, each leaf with a leading axis [E], as one Gaussian with the mean of their means.

    Its variance is the geometric mean of theirs plus the variance of their means, as in the code of Kubo et al. 2025.
    """
    variance = jnp.exp(each.log_var.mean(0)) + each.mean.var(0)
    return Prediction(each.mean.mean(0), jnp.log(variance), each.logit.mean(0))


def row_weights(members: int, slot: jax.Array) -> jax.Array:
    """Each member's weights of the rows at slots [B] -> [E, B]: Exp(1), the same whenever a slot is asked for.

    They are also the same in every run. Rows come in another order in each, so that members differ from run to run.
    """
    keys = jax.random.split(jax.random.key(0), members)
    return jax.vmap(lambda key: jax.vmap(lambda i: jax.random.exponential(jax.random.fold_in(key, i)))(slot))(keys)


def weight_penalty(kernels: Sequence[jax.Array], decay: Sequence[float]) -> jax.Array:
    """1/2 sum over layers of decay_l |W_l|^2; further layers use the last decay. []."""
    rates = [*decay, *[decay[-1]] * len(kernels)]
    return 0.5 * jnp.stack([rate * jnp.sum(w**2) for rate, w in zip(rates, kernels, strict=False)]).sum()


def sample(
    key: Key,
    model: Ensemble,
    net: nn.Network,
    config: ModelConfig,
    spec: WorldSpec,
    obs: jax.Array,
    action: jax.Array,
    member: Member,
) -> ModelStep:
    """One imagined step from obs [D] with action [A]: unbatched, reparameterised, differentiable.

    With a member, y = mean_e + exp(log_var_e / 2) noise; with `None`, y is the mean of the elites' means, without noise
    (expectation propagation). Predictions are clipped to the range of the data, widened by `bound_margin`. An episode
    ends by `spec.termination`, or where there is none by the learned head.
    """
    x = normalize.apply(model.scales.inputs, inputs(spec, obs, action))
    key_noise, key_end = jax.random.split(key)
    if member is None:
        each = predict_all(net, model, x)
        z, chance = each.mean.mean(0), jax.nn.sigmoid(each.logit).mean()
        ends = chance > 0.5
    else:
        one = predict(net, jax.tree.map(lambda leaf: leaf[member], model.params), x)
        z = one.mean + jnp.exp(0.5 * one.log_var) * jax.random.normal(key_noise, one.mean.shape, one.mean.dtype)
        ends = jax.random.bernoulli(key_end, jax.nn.sigmoid(one.logit))
    y = normalize.clip(model.scales.targets, normalize.invert(model.scales.targets, z), config.bound_margin)
    predicted = obs + y[:-1] if config.target == "delta" else y[:-1]
    next_obs = normalize.clip(model.scales.obs, predicted, config.bound_margin)
    terminated = ends if spec.termination is None else spec.termination(obs, action, next_obs)
    beyond = normalize.is_outside(model.scales.obs, predicted, config.bound_margin)
    return ModelStep(next_obs, y[-1], terminated, beyond)


def as_world(
    model: Ensemble,
    member: Member,
    net: nn.Network,
    config: ModelConfig,
    real: World,
    termination: Predicate | None,
) -> World:
    """The imagined world of one member (or of the elites' mean). It starts like the real one, and has no clock.

    With `config.beyond` "end" it truncates an episode that leaves the range of the data (Kidambi et al. 2020, MOReL,
    arXiv:2005.05951: what the data do not cover is a state of its own, and the worst). In a world that never terminates
    it does not: there a policy may have to leave the range to get anywhere, and loses nothing by it. The imagined world
    is differentiable even if the real one is not.
    """
    spec = real.spec._replace(differentiable=True, termination=termination)
    can_leave = config.beyond == "end" and termination is not never

    def reset(key: Key) -> WorldState:
        return branch(real.reset(key).obs)

    def step(key: Key, state: WorldState, action: jax.Array) -> tuple[WorldState, Transition]:
        out = sample(key, model, net, config, spec, state.obs, action, member)
        left = out.beyond & ~out.terminated if can_leave else jnp.zeros((), bool)
        transition = Transition(state.obs, action, out.reward, out.next_obs, out.terminated, left)
        return WorldState((), out.next_obs, state.time + 1), transition

    return World(spec, reset, step)


def branch(obs: jax.Array) -> WorldState:
    """The imagined world's state at a real observation [D]."""
    return WorldState((), obs, jnp.zeros((), jnp.int32))
