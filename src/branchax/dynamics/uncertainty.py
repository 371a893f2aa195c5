"""The uncertainty of an ensemble's predictions, its calibration, and the gates that drop uncertain imagined steps.

The measures use the elites' Gaussians N(mean_e, std_e^2), e = 1 .. n, over F standardised entries (the state's change
and the reward):

    disagreement     sqrt mean_i var_e mean_e,i                                         spread of the means, epistemic
    jensen_shannon   mean over pairs of GJS(e, f) (MACURA: Frauenknecht et al. 2024, arXiv:2405.19014, eq. 7), with
                     GJS = 1/2 KL(N_e || N_g) + 1/2 KL(N_f || N_g), N_g ~ sqrt(N_e N_f) their normalised geometric mean
    one_vs_rest      max_e KL(N_e || N_-e), N_-e the Gaussian of the mean and variance of the others' mixture
                     (M2AC: Pan et al. 2020, arXiv:2010.04893, eq. 5, who take one member drawn at random)
    max_std          max_e |std_e|                                aleatoric too (MOPO: Yu et al. 2020, arXiv:2005.13239)
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from branchax.config import RolloutConfig
from branchax.distributions import normal_kl
from branchax.types import Metrics, Trajectory

Measure = Callable[[jax.Array, jax.Array], jax.Array]  # (mean [n, F], log_var [n, F]) -> []


def disagreement(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """Root mean square, over the entries, of the standard deviation of the elites' means."""
    del log_var
    return jnp.sqrt(mean.var(0).mean())


def jensen_shannon(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """The mean geometric Jensen-Shannon divergence over pairs of elites; 0 for one elite."""
    count, log_std = mean.shape[0], 0.5 * log_var

    def pair(first: jax.Array, second: jax.Array) -> jax.Array:
        """The geometric mean has the mean of the two precisions, and the precision-weighted mean of the two means."""
        weight = jax.nn.softmax(-jnp.stack([log_var[first], log_var[second]]), axis=0)  # precision shares
        middle = weight[0] * mean[first] + weight[1] * mean[second]
        log_precision = jnp.logaddexp(-log_var[first], -log_var[second]) - jnp.log(2.0)
        halves = [normal_kl(mean[e], log_std[e], middle, -0.5 * log_precision).sum() for e in (first, second)]
        return 0.5 * (halves[0] + halves[1])

    first, second = jnp.triu_indices(count, 1)
    return jax.vmap(pair)(first, second).sum() / max(first.shape[0], 1)


def one_vs_rest(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """The largest divergence of one elite from all others; 0 for one elite."""
    count, variance = mean.shape[0], jnp.exp(log_var)
    if count == 1:
        return jnp.zeros(())
    rest = (mean.sum(0) - mean) / (count - 1)
    square = ((variance + mean**2).sum(0) - (variance + mean**2)) / (count - 1)
    spread = jnp.maximum(square - rest**2, 1e-12)
    return normal_kl(mean, 0.5 * log_var, rest, 0.5 * jnp.log(spread)).sum(-1).max()


def max_std(mean: jax.Array, log_var: jax.Array) -> jax.Array:
    """The largest Euclidean norm of an elite's predicted standard deviations."""
    del mean
    return jnp.sqrt(jnp.exp(log_var).sum(-1)).max()


MEASURES: dict[str, Measure] = {
    "disagreement": disagreement,
    "jensen_shannon": jensen_shannon,
    "one_vs_rest": one_vs_rest,
    "max_std": max_std,
}


def gate(trajectory: Trajectory, doubt: jax.Array, horizon: jax.Array, config: RolloutConfig) -> Trajectory:
    """Drops too uncertain steps of `trajectory` [G, H, B, ...] (they become invalid), and lowers rewards.

        rank        at step h = 0 .. H - 1, keep the fraction w (H - h) / (H + 1) of the valid rows, the least uncertain
                    ones; rollouts go on, so a later step of the same rollout may be kept      (M2AC, algorithm 2)
        threshold   end a rollout before the first step whose uncertainty exceeds gate_scale times the quantile at
                    first steps, which start from real states                                 (MACURA, algorithm 1)
        penalty     r <- r - penalty uncertainty                                              (MOPO, M2AC)

    Args:
      trajectory: the imagined rollouts.
      doubt: their uncertainty [G, H, B].
      horizon: [] int, the number of steps taken.
      config: the gate and its settings.
    """
    valid, reward = trajectory.valid, trajectory.transition.reward - config.penalty * doubt
    if config.gate == "rank":
        step = jnp.arange(valid.shape[1])
        share = config.gate_share * jnp.clip((horizon - step) / (horizon + 1), 0.0, 1.0)  # [H]
        over = jnp.moveaxis(jnp.where(valid, doubt, jnp.inf), 1, 0).reshape(valid.shape[1], -1)  # [H, G B]
        kept = jnp.floor(share * valid.sum((0, 2)))
        rank = jnp.argsort(jnp.argsort(over, -1), -1)
        keep = (rank < kept[:, None]).reshape(valid.shape[1], valid.shape[0], valid.shape[2])
        valid = valid & jnp.moveaxis(keep, 0, 1)
    elif config.gate == "threshold":
        most = config.gate_scale * jnp.quantile(doubt[:, 0], config.gate_quantile)
        valid = valid & jnp.cumprod(doubt <= most, 1).astype(bool)
    return trajectory._replace(valid=valid, transition=trajectory.transition._replace(reward=reward))


def calibration(mean: jax.Array, log_var: jax.Array, y: jax.Array, keep: jax.Array) -> Metrics:
    """How well the elites' equal mixture predicts held-out targets.

    F_i is the mixture's cumulative distribution of entry i. If the model is calibrated, z = F_i(y_i) is uniform:

        ece          mean over p = 0.05 .. 0.95 and over entries of |fraction of z below p  -  p|
                     (Kuleshov et al. 2018, arXiv:1807.00263, section 3.5, who use squares)
        coverage_90  fraction of z within [0.05, 0.95]
        nll          -mean log p(y), in nats per standardised entry (units change at each fit: compare epochs with care)

    Args:
      mean: [n, N, F].
      log_var: [n, N, F].
      y: [N, F].
      keep: [N] bool, the rows to use.
    """
    std = jnp.exp(0.5 * log_var)
    z = jax.scipy.stats.norm.cdf(y, mean, std).mean(0)
    log_p = jax.scipy.stats.norm.logpdf(y, mean, std).sum(-1)  # [n, N]
    nll = -(jax.nn.logsumexp(log_p, 0) - jnp.log(mean.shape[0])) / y.shape[-1]
    weight = keep.astype(y.dtype) / jnp.maximum(keep.sum(), 1)

    def share(holds: jax.Array) -> jax.Array:
        return weight @ holds.astype(y.dtype)  # [F]

    levels = jnp.linspace(0.05, 0.95, 19)
    gaps = jax.vmap(lambda p: jnp.abs(share(z <= p) - p))(levels)
    return {
        "model/nll": (weight * nll).sum(),
        "model/ece": gaps.mean(),
        "model/coverage_90": share((z >= 0.05) & (z <= 0.95)).mean(),
    }
