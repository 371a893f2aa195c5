"""The knobs of imagined rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from branchax.config.fields import Count, Fraction, Natural, NonNegative, OptionalCount, Positive


@dataclass(frozen=True)
class RolloutConfig:
    """The branched rollouts that are imagined at the start of every epoch."""

    start: Literal["replay", "initial"] = "replay"
    """Where rollouts branch off: replayed real states (3.0), or fresh initial states of the world (2.0, 2.5)."""
    horizon: Natural = 1
    """Imagined steps per rollout; 0 imagines nothing, which makes the run model-free."""
    horizon_end: OptionalCount = None
    """With a ramp, the horizon at its end."""
    ramp: tuple[Natural, Natural] = (0, 0)
    """Env steps between which the horizon grows linearly from `horizon` to `horizon_end` (MBPO, appendix C)."""
    per_step: Count = 400
    """Rollouts per env step of the epoch."""
    every: OptionalCount = None
    """Updates between two imaginings, each of the rollouts of that share of the epoch by the policy of that moment.
    Default: once per epoch."""
    look_ahead: OptionalCount = None
    """Steps that updates look ahead (MVE, STEVE, SVG). Default: `horizon`, as it is scheduled."""
    groups: Count = 10
    """The rollouts are imagined in so many groups; each evaluates one member at a time, as one plain matrix product."""
    parallel_groups: OptionalCount = None
    """Groups computed side by side, all of which take memory. Default: one on a CPU, which is fastest on its caches;
    all of them elsewhere."""
    propagation: Literal["ts1", "tsinf", "mean"] = "ts1"
    """A new elite at every step, one elite for the whole rollout, or the mean of all elites (PETS)."""
    keep_epochs: Count = 1
    """Epochs (with `every`, imaginings) that imagined data stays in the model buffer, at the largest horizon. Rows are
    counted as if each rollout were whole: where episodes end or gates rule steps out, older rows stay instead, as in
    MBPO's pool."""
    first_action: Literal["policy", "replayed"] = "policy"
    """The first action of a rollout off a replayed state: the policy's, or the one taken there (tabular Dyna-Q)."""
    penalty: NonNegative = 0.0
    """Imagined rewards are lowered by it times `model.uncertainty` (MOPO, M2AC)."""
    weigh: bool = False
    """In the critics' loss an imagined row counts 1 / (1 + `model.uncertainty`), by the model as it is then (WIMLE)."""
    gate: Literal["none", "rank", "threshold"] = "none"
    """Which imagined steps count: all; at each step the share of them that is least uncertain (M2AC); those before the
    first that is more uncertain than real states are (MACURA)."""
    gate_share: Fraction = 0.5
    """Rank gate: of step h of H, this times (H - h) / (H + 1) is kept; 0.5 is M2AC's."""
    gate_quantile: Fraction = 0.95
    """Threshold gate: the quantile of the first steps' uncertainty ..."""
    gate_scale: Positive = 1.0
    """... and what it is multiplied by to give the threshold."""
    per_update: Count = 64
    """Rollouts per update of an agent that learns on its own rollouts; it imagines them afresh for each."""
    validate_every: OptionalCount = None
    """Such an agent's updates between two looks at whether the model's elites still agree that its policy improves;
    once fewer than `validate_share` of them do, it waits for new real data (ME-TRPO). Default: it never looks."""
    validate_share: Fraction = 0.7
    """Share of the elites in which the return must have risen since the last look."""

    def longest(self) -> int:
        """The static bound on the horizon."""
        return max(self.horizon, self.horizon_end or 0) if self.horizon else 0

    def at(self, env_steps: int) -> int:
        """The horizon after `env_steps` env steps: min(max(k0 + (t - a) / (b - a) (k1 - k0), k0), k1), rounded down."""
        low, high = self.ramp
        if self.horizon == 0 or self.horizon_end is None:
            return self.horizon
        share = float(env_steps >= high) if high <= low else min(max((env_steps - low) / (high - low), 0.0), 1.0)
        return int(self.horizon + share * (self.horizon_end - self.horizon))
