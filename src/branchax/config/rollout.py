"""The settings of imagined rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from branchax.config.fields import Count, Fraction, Natural, NonNegative, OptionalCount, Positive


@dataclass(frozen=True)
class RolloutConfig:
    """Branched rollouts, imagined in the model at the start of every epoch, or more often (`every`)."""

    start: Literal["replay", "initial"] = "replay"
    """Where rollouts start: `replay`: replayed real states (3.0); `initial`: fresh initial states (2.0, 2.5)."""
    horizon: Natural = 1
    """Imagined steps per rollout; 0 makes the run model-free. With `horizon_end`: the first horizon of `ramp`."""
    horizon_end: OptionalCount = None
    """The horizon at the end of `ramp`."""
    ramp: tuple[Natural, Natural] = (0, 0)
    """Env steps between which the horizon grows linearly from `horizon` to `horizon_end` (MBPO, appendix C)."""
    per_step: Count = 400
    """Rollouts per env step of the epoch."""
    every: OptionalCount = None
    """Imagine before every block of this many updates, with the current policy. Each block gets an equal share of the
    epoch's rollouts, rounded up to whole groups. Default: imagine once per epoch."""
    look_ahead: OptionalCount = None
    """Steps that updates look ahead (MVE, STEVE, SVG, DHMBPO). Default: the scheduled `horizon`."""
    groups: Count = 10
    """Number of groups of rollouts. A group uses one member at a time, so that it is one plain matrix product."""
    parallel_groups: OptionalCount = None
    """Groups computed in parallel; each needs memory. Default: 1 on a CPU (fastest, because of its caches), elsewhere
    all."""
    propagation: Literal["ts1", "tsinf", "mean"] = "ts1"
    """`ts1`: a new elite at every step; `tsinf`: one elite per rollout; `mean`: the mean of all elites (PETS). Updates
    that look ahead from stored actions (MVE, SVG) keep one elite per row, whatever this says: each model is then one
    whole system, as in the papers, and one plain matrix product. Those from fresh actions (`fresh`) follow it."""
    keep_epochs: Count = 1
    """Epochs (with `every`: imaginings) for which imagined data stays in the model buffer, at the largest horizon. If
    rollouts end early or gates drop steps, older rows stay longer, as in MBPO's pool."""
    first_action: Literal["policy", "replayed"] = "policy"
    """First action of a rollout from a replayed state: the policy's, or the replayed one (tabular Dyna-Q)."""
    penalty: NonNegative = 0.0
    """Subtract this times `model.uncertainty` from imagined rewards (MOPO, M2AC)."""
    weigh: bool = False
    """Weight imagined rows by 1 / (1 + `model.uncertainty`) in the critics' loss, using the current model (WIMLE)."""
    gate: Literal["none", "rank", "threshold"] = "none"
    """Which imagined steps are used. `none`: all; `rank`: at each step the least uncertain ones (M2AC); `threshold`:
    those before the first step that is more uncertain than real states are (MACURA)."""
    gate_share: Fraction = 0.5
    """Rank gate: at step h of H, the fraction `gate_share` (H - h) / (H + 1) is kept; M2AC uses 0.5."""
    gate_quantile: Fraction = 0.95
    """Threshold gate: the threshold is this quantile of the first steps' uncertainty, times `gate_scale`."""
    gate_scale: Positive = 1.0
    """Threshold gate: factor of that quantile."""
    per_update: Count = 64
    """Rollouts per update, for agents that learn on fresh rollouts of their own policy."""
    validate_every: OptionalCount = None
    """For such agents: after this many updates, check in how many elites the policy's return still improves. If in
    fewer than `validate_share`, skip updates until there is new real data (ME-TRPO). Default: no checks."""
    validate_share: Fraction = 0.7
    """Fraction of the elites in which the return must have improved since the last check."""

    def longest(self) -> int:
        """The largest horizon, a static bound."""
        return max(self.horizon, self.horizon_end or 0) if self.horizon else 0

    def reached(self, env_steps: int) -> int:
        """The largest horizon within so many env steps."""
        return max(self.at(0), self.at(env_steps))

    def at(self, env_steps: int) -> int:
        """The horizon after `env_steps` env steps: min(max(k0 + (t - a) / (b - a) (k1 - k0), k0), k1), rounded down."""
        low, high = self.ramp
        if self.horizon == 0 or self.horizon_end is None:
            return self.horizon
        share = float(env_steps >= high) if high <= low else min(max((env_steps - low) / (high - low), 0.0), 1.0)
        return int(self.horizon + share * (self.horizon_end - self.horizon))
