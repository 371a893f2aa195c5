"""The settings of critics, and what an agent's settings say of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from branchax.config.fields import Count, Fraction, OptionalCount, Range


@dataclass(frozen=True)
class CriticConfig:
    """An ensemble of Q-functions and its targets."""

    members: Count = 2
    """Number of Q-functions."""
    subset: OptionalCount = None
    """The target is the minimum over this many members, drawn anew for each update (REDQ). Default: over all."""
    layer_norm: bool = False
    """LayerNorm after each hidden layer (keeps values bounded under many updates per step)."""
    expand: Literal["none", "mve", "steve", "fresh"] = "none"
    """How targets use the model. `mve`: look ahead `rollout.look_ahead` steps after the stored action. `steve`: average
    all horizons up to that, weighted by inverse variance over model and critics. `fresh`: start from a fresh action at
    the batch's states, and share the rollout with the actor's gradient (SAC with `through_model`)."""
    td_k: bool = True
    """MVE: also learn on the imagined states, each with the remaining horizon."""
    pre_norm: bool = False
    """LayerNorm without parameters before each layer but the first."""
    dropout: Annotated[float, Range(0, 0.9)] = 0.0
    """Dropout rate of the hidden layers while the critics learn."""
    zero_last: bool = False
    """Initialise the last layer to zero, so that values start at zero."""
    scale: Literal["none", "quantile", "possible"] = "none"
    """`quantile`: scale values to the range of possible returns, and clip the value that a target ends with to it. The
    range runs from the 1 % to the 99 % running quantile of (soft) rewards, each divided by 1 - discount (Kubo et al.
    2025). `possible`: the range also holds 0, the return after a termination; needed where rewards hardly differ."""
    clip_actor: bool = False
    """With `scale`: clip values in the actor's objective to the range, as an actor would exploit errors beyond it."""
    scale_rate: Fraction = 3e-4
    """Step size of the running quantiles."""
    batch_norm: bool = False
    """BatchNorm of the input and, before its activation, of each hidden layer. While the critics learn, its statistics
    are those of a batch's states and actions joined with those that follow (CrossQ); the actor sees running ones."""
    atoms: Annotated[int | None, Range(2, 10_000)] = None
    """Categorical values: a distribution over this many values, evenly spaced over the range of `scale`, learned by
    cross-entropy (XQC has 101). Default: one output, learned by its squared error."""


class Traits(NamedTuple):
    """Properties of an agent that follow from its settings, known before the agent is built."""

    learns_from: Literal["replay", "rollouts", "plans"] | None = "replay"  # as `agents.base.Agent`; None: not known yet
    discrete: bool | None = None  # True: needs discrete actions; False: needs continuous ones; None: takes both
    critic: CriticConfig | None = None  # settings of its ensemble of Q-functions; None: it has none
    scales: bool = False  # whether the critics support `scale` and `dropout`
    tabular: bool = False  # needs an environment with few states
    online: bool = False  # learns on each real step once, in order
    looks_ahead: bool = False  # its updates roll out the model from the states of their batch
    through_model: bool = False  # the policy's gradient goes through the model
    updates_at_once: int = 1  # updates in one call
    minibatches: int = 1  # gradient steps that share out the rows of one update
    has_budget: bool = False  # bounds the divergence of its policy between two collections
    # Checks of its own fields: (the condition, the field, the allowed values).
    rules: tuple[tuple[bool, str, str], ...] = ()

    @property
    def starts_fresh(self) -> bool:
        """Whether its critics learn on rollouts that start from the batch's states, not on the stored step."""
        return self.critic is not None and self.critic.expand == "fresh"
