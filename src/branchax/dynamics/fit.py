"""Fits the ensemble inside `jit`: bootstrap samples, a permanent holdout, and early stopping for each member.

As in MBPO (Janner et al. 2019, and its code), maximum-likelihood minibatches run until no member's holdout error has
fallen by another 1 % within 5 checks; the 5 of 7 members with the lowest error are the elites. Unlike MBPO, a check
follows a fixed number of minibatches, not a pass over the data: in an early fit, a pass has too few rows for the error
to fall by 1 %, and static lengths compile to plain loops. Where data is plenty, a fit may thus end before it has seen
all of it; `round_steps` and `patience` lengthen it. Also unlike MBPO, a member whose error reaches `good_error` stops
at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from branchax import nn, normalize, replay
from branchax.config import ModelConfig
from branchax.dynamics import ensemble, uncertainty
from branchax.dynamics.base import Dynamics, FitReport, MemberFaults
from branchax.dynamics.ensemble import Ensemble, Prediction, Scales
from branchax.optimizer import Learner, Optimizer, adam
from branchax.replay import Ring
from branchax.sharding import over_batch, whole
from branchax.types import Key, Metrics, Params, Transition, choose, finite
from branchax.worlds.base import World, WorldSpec, never

HOLDOUT_CHUNK = 500  # holdout rows evaluated at a time


class Batch(NamedTuple):
    """Rows in the network's units, [B, ...] of one member or [E, B, ...]."""

    x: jax.Array  # [D + A]
    y: jax.Array  # [D + 1]
    ended: jax.Array  # []
    weight: jax.Array | None = None  # [] in the loss


class Progress(NamedTuple):
    """The state of a fit between two rounds."""

    latest: Learner  # the members, each leaf [E, ...]
    best: Learner  # each member from its own best round
    best_error: jax.Array  # [E]
    mark: jax.Array  # [E], the error at the last gain
    stale: jax.Array  # [E] int32, rounds since the last gain
    round: jax.Array  # [] int32


class Fitter(NamedTuple):
    """What the functions of a fit take as first argument."""

    config: ModelConfig
    spec: WorldSpec
    net: nn.Network
    optimizer: Optimizer
    learns_ends: bool  # by a Bernoulli head

    @property
    def judges_mixture(self) -> bool:
        """Whether a fit stops by the error of the members' mixture, and not by each member's own."""
        return self.config.stop == "mixture"


def make_ensemble(world: World, config: ModelConfig, network: nn.MakeNetwork = nn.mlp) -> Dynamics:
    """A probabilistic ensemble of `world` as `Dynamics`, each member a `network`.

    `config.termination` "known" uses the world's predicate; without a predicate, and for "learned", a Bernoulli head is
    trained; "none" never terminates.
    """
    net = ensemble.network(world.spec, config, network)
    predicate = world.spec.termination if config.termination == "known" else None
    if config.termination == "none":
        predicate = never
    fitter = Fitter(config, world.spec, net, adam(), learns_ends=predicate is None)
    measure_of = uncertainty.MEASURES[config.uncertainty]
    return Dynamics(
        init=functools.partial(init, fitter),
        fit=functools.partial(fit, fitter),
        elites=lambda model: model.elites,
        world=lambda model, member: ensemble.as_world(model, member, net, config, world, predicate),
        branch=lambda row: ensemble.branch(row.transition.obs),
        after=lambda key, row: ensemble.branch(row.transition.next_obs),
        doubt=lambda model, obs, action: ensemble.doubt(model, net, measure_of, world.spec, obs, action),
        needs_state=False,
    )


def init(fitter: Fitter, key: Key) -> Ensemble:
    """An ensemble that has not been fitted, in the world's own units."""
    config, spec, net = fitter.config, fitter.spec, fitter.net
    # A loop, because the vectorised program takes several times as long to compile.
    params = jax.lax.map(lambda k: ensemble.init_member(k, net, spec, config), jax.random.split(key, config.members))
    scales = Scales(
        normalize.unit(spec.obs_size + spec.action_size),
        normalize.unit(spec.obs_size + 1),
        normalize.unit(spec.obs_size),
    )
    return Ensemble(*jax.vmap(fitter.optimizer.init)(params), scales, jnp.arange(config.elites))


def fit(fitter: Fitter, key: Key, model: Ensemble, ring: Ring) -> tuple[Ensemble, FitReport]:
    """The ensemble fitted to all rows of the buffer, in rounds of `round_steps` minibatches, and what the fit tells."""
    config = fitter.config
    scales, key_dropout = measure(fitter.spec, ring, config.target), jax.random.fold_in(key, 1)
    train, _ = replay.split_sizes(ring, config.holdout_every)
    order = draw_order(config, key, replay.capacity(ring), train)

    def one_round(progress: Progress) -> Progress:
        first = progress.round * config.round_steps

        def minibatch(members: Learner, i: jax.Array) -> tuple[Learner, None]:
            batch = take_batch(fitter, scales, ring, order, train, first + i)
            if not fitter.net.drops:
                return jax.vmap(functools.partial(step, fitter, key=None))(members, batch), None
            keys = jax.random.split(jax.random.fold_in(key_dropout, first + i), config.members)
            return jax.vmap(functools.partial(step, fitter))(members, batch, keys), None

        latest, _ = jax.lax.scan(minibatch, progress.latest, jnp.arange(config.round_steps))
        return keep_best(progress, latest, measure_errors(fitter, latest.params, scales, ring), config)

    def improving(progress: Progress) -> jax.Array:
        return active(progress, config).any() & (progress.round < config.max_rounds)

    start = Learner(model.params, model.optimizer)
    # Training starts from the last fit's parameters but ignores their error: with new data, the error may have to
    # rise before it can fall.
    unbeaten, stale = jnp.full(config.members, jnp.inf), jnp.zeros(config.members, jnp.int32)
    progress = Progress(start, start, unbeaten, unbeaten, stale, jnp.zeros((), jnp.int32))
    progress = jax.lax.while_loop(improving, one_round, progress)
    elites = jnp.argsort(progress.best_error)[: config.elites].astype(jnp.int32)
    faults = count_faults(model, progress)
    metrics = {
        "model/nonfinite_members": faults.rolled_back,
        "model/nonfinite_which": faults.which,
        "model/holdout_error": progress.best_error[elites].mean(),
        "model/holdout_error_worst": progress.best_error.max(),
        "model/fit_rounds": progress.round.astype(jnp.float32),
        "model/skipped_steps": jnp.float32(faults.left_out),
    }
    params, state = progress.best
    if config.noise == "measured":
        square = mean_over_holdout(fitter, lambda each, batch: (each.mean - batch.y) ** 2, params, scales, ring)
        params = ensemble.set_noise(params, square)
    model = Ensemble(params, state, scales, elites)
    return model, FitReport(metrics | calibrate(fitter, model, ring), faults)


def draw_order(config: ModelConfig, key: Key, capacity: int, train: jax.Array) -> jax.Array:
    """The training rows in the order in which a fit cycles through them: [E, capacity] for a bootstrap sample of
    each member, else one order [1, capacity] of all. The first `train` count.

    The draws of these do not depend on the capacity, which may be larger in a resumed run.
    """
    if config.bootstrap == "weights":
        place = jnp.arange(capacity)
        return jnp.argsort(jnp.where(place < train, jax.random.uniform(key, (capacity,)), 2.0))[None]
    draw = lambda k: jax.random.randint(k, (capacity,), 0, train)  # noqa: E731
    return jax.vmap(draw)(jax.random.split(key, config.members))


def take_batch(
    fitter: Fitter, scales: Scales, ring: Ring, order: jax.Array, train: jax.Array, number: jax.Array
) -> Batch:
    """Each member's minibatch of that `number` []: [E, B, ...]."""
    config = fitter.config
    place = (number * config.batch_size + jnp.arange(config.batch_size)) % train
    slot = replay.train_slot(order[:, place], config.holdout_every)
    rows = replay.take(ring, slot).transition
    batch = as_batch(fitter, scales, over_batch(whole(rows), axis=1))
    if config.bootstrap == "weights":
        batch = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (config.members, *leaf.shape[1:])), batch)
        batch = batch._replace(weight=ensemble.row_weights(config.members, slot[0]))
    return batch


def as_batch(fitter: Fitter, scales: Scales, rows: Transition) -> Batch:
    """Rows in the network's units."""
    x = normalize.apply(scales.inputs, ensemble.inputs(fitter.spec, rows.obs, rows.action))
    y = normalize.apply(scales.targets, ensemble.targets(rows, fitter.config.target))
    return Batch(x, y, rows.terminated.astype(x.dtype))


def step(fitter: Fitter, member: Learner, batch: Batch, key: Key | None) -> Learner:
    """One step of a member on its minibatch; `key` is that of dropout."""
    gradient = jax.grad(functools.partial(loss, fitter))(member.params, batch, key)
    member = fitter.optimizer.step(member, gradient, fitter.config.learning_rate)
    return member._replace(params=ensemble.keep_learnable(member.params))


def loss(fitter: Fitter, params: Params, batch: Batch, key: Key | None) -> jax.Array:
    """The loss of a member, []: its likelihood, MBPO's penalties, and the cross entropy of a learned termination."""
    config, net = fitter.config, fitter.net
    weighed = lambda loss: loss if batch.weight is None else batch.weight * loss  # noqa: E731
    prediction = ensemble.predict(net, params, batch.x, key)
    # Twice the mean over entries, not the sum: MBPO's weights of the two penalties are relative to this.
    likelihood = ensemble.negative_log_likelihood(prediction, batch.y, config.beta)
    value = 2 * weighed(likelihood).mean() / batch.y.shape[-1]
    if config.noise == "state":
        bounds = jnp.sum(params["log_var_high"]) - jnp.sum(params["log_var_low"])
        value = value + ensemble.BOUND_WEIGHT * bounds
    value = value + ensemble.weight_penalty(net.kernels(params["net"]), config.weight_decay)
    if fitter.learns_ends:
        value = value + weighed(optax.sigmoid_binary_cross_entropy(prediction.logit, batch.ended)).mean()
    return value


def measure_errors(fitter: Fitter, params: Params, scales: Scales, ring: Ring) -> jax.Array:
    """[E] holdout error in variances of the targets (plus cross entropy of a learned termination): each member's mean
    square, or for all of them that of their mixture, as `config.stop` says.

    The variance v of a Gaussian that fits has nll = (1 + log v) / 2 per entry, without the constant, so that v =
    exp(2 nll - 1).
    """
    mixed = fitter.judges_mixture

    def score(each: Prediction, batch: Batch) -> jax.Array:
        judged = jax.tree.map(lambda leaf: leaf[None], ensemble.mix(each)) if mixed else each
        ends = optax.sigmoid_binary_cross_entropy(judged.logit, batch.ended) if fitter.learns_ends else 0.0
        if not mixed:
            return ((judged.mean - batch.y) ** 2).mean(-1) + ends
        likelihood = ensemble.negative_log_likelihood(judged, batch.y) + ends
        return likelihood / batch.y.shape[-1] - 0.5 * jnp.log(2 * jnp.pi)

    error = mean_over_holdout(fitter, score, params, scales, ring)
    return jnp.broadcast_to(jnp.exp(2 * error - 1) if mixed else error, fitter.config.members)


def mean_over_holdout(
    fitter: Fitter, score: Callable[[Prediction, Batch], jax.Array], params: Params, scales: Scales, ring: Ring
) -> jax.Array:
    """The mean over the held-out rows of `score`, a function of all members' predictions [E, n, ...] for n rows:
    [E, n, ...] -> [E, ...]."""
    config, net = fitter.config, fitter.net
    _, count = replay.split_sizes(ring, config.holdout_every)

    def chunk(i: jax.Array, total: jax.Array) -> jax.Array:
        block = i * HOLDOUT_CHUNK + jnp.arange(HOLDOUT_CHUNK)
        slot = replay.holdout_slot(jnp.minimum(block, count - 1), config.holdout_every)
        batch = as_batch(fitter, scales, replay.take(ring, slot).transition)
        found = score(jax.vmap(lambda params: ensemble.predict(net, params, batch.x))(params), batch)
        held = (block < count).reshape(-1, *[1] * (found.ndim - 2))
        return total + jnp.where(held, found, 0.0).sum(1)

    empty = jax.eval_shape(lambda: chunk(jnp.int32(0), jnp.zeros(())))
    total = jax.lax.fori_loop(0, -(-count // HOLDOUT_CHUNK), chunk, jnp.zeros(empty.shape, empty.dtype))
    return total / count


def calibrate(fitter: Fitter, model: Ensemble, ring: Ring) -> Metrics:
    """`uncertainty.calibration` on at most `HOLDOUT_CHUNK` holdout rows, spread over all of them."""
    config = fitter.config
    _, count = replay.split_sizes(ring, config.holdout_every)
    block = jnp.arange(HOLDOUT_CHUNK)
    spread = block * jnp.maximum(count // HOLDOUT_CHUNK, 1)
    slot = replay.holdout_slot(jnp.minimum(spread, count - 1), config.holdout_every)
    x, y, *_ = as_batch(fitter, model.scales, replay.take(ring, slot).transition)
    each = ensemble.predict_all(fitter.net, model, x)
    return uncertainty.calibration(each.mean, each.log_var, y, block < count)


def count_faults(before: Ensemble, progress: Progress) -> MemberFaults:
    """What was not finite in a fit. Only members that were lost are rolled back: each keeps the parameters of its best
    round, or those before the fit."""
    lost = ~finite(progress.latest.params) | ~jnp.isfinite(progress.best_error)
    left_out = progress.latest.optimizer.total_notfinite - before.optimizer.total_notfinite  # [E]
    bits = jnp.left_shift(jnp.uint32(1), jnp.arange(len(lost), dtype=jnp.uint32))
    return MemberFaults(lost.sum(), left_out.sum(), jnp.where(lost | (left_out > 0), bits, 0).sum())


def measure(spec: WorldSpec, ring: Ring, target: str) -> Scales:
    """The scales of all stored rows."""
    rows = ring.data.transition
    stored = jnp.arange(replay.capacity(ring)) < ring.size
    obs = _union(normalize.measure(rows.obs, stored), normalize.measure(rows.next_obs, stored))
    nothing = normalize.Stats(*(jnp.zeros(1) for _ in obs))  # a reward is not the change of anything
    changed = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), obs, nothing) if target == "delta" else None
    return Scales(
        normalize.measure(ensemble.inputs(spec, rows.obs, rows.action), stored),
        normalize.measure(ensemble.targets(rows, target), stored, changed),
        obs,
    )


def _union(first: normalize.Stats, second: normalize.Stats) -> normalize.Stats:
    """`first`, with its range extended to include that of `second`."""
    return first._replace(low=jnp.minimum(first.low, second.low), high=jnp.maximum(first.high, second.high))


def active(progress: Progress, config: ModelConfig) -> jax.Array:
    """Which members [E] continue: those with patience left and an error above `good_error`."""
    return (progress.stale < config.patience) & (progress.best_error > config.good_error)


def keep_best(progress: Progress, latest: Learner, error: jax.Array, config: ModelConfig) -> Progress:
    """The next `Progress` after a round with the members `latest` and their holdout errors [E].

    Each member keeps its own best parameters, with their optimiser state, until its own patience is used up,
    independently of the others. A decrease smaller than the fraction `min_gain` is no gain, and NaN is never better.
    Decreases are measured from the error at the last gain, so that slow decreases add up.
    """
    better = (error < progress.best_error) & active(progress, config)
    gained = better & (error < progress.mark * (1 - config.min_gain))

    return Progress(
        latest=latest,
        best=choose(better, latest, progress.best),
        best_error=jnp.where(better, error, progress.best_error),
        mark=jnp.where(gained, error, progress.mark),
        stale=jnp.where(gained, 0, progress.stale + 1),
        round=progress.round + 1,
    )
