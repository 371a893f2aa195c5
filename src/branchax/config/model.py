"""The knobs of the dynamics model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from branchax.config.fields import Count, Fraction, NonNegative, Positive, Range


@dataclass(frozen=True)
class ModelConfig:
    """The dynamics model that rollouts are imagined in."""

    kind: Literal["ensemble", "oracle", "tabular", "own"] = "ensemble"
    """`ensemble` is learned; `oracle` is the simulator itself (no model error: what is left is the method's own);
    `tabular` counts what happened, in a world of few states; `own` is what `factory` returns."""
    factory: str = ""
    """A model of one's own: `--model module:make_dynamics`, a function `(World, ModelConfig) -> Dynamics`."""
    members: Count = 7
    """Networks in the ensemble."""
    elites: Count = 5
    """Members with the lowest holdout error; only they are imagined with."""
    hidden: tuple[Count, ...] = (200, 200, 200, 200)
    """Widths of each member's hidden layers."""
    noise: Literal["state", "constant"] = "state"
    """How far outcomes spread around a prediction: as far as the network says of each state and action, or by one
    learned deviation for each entry (homoscedastic)."""
    pre_norm: bool = False
    """LayerNorm without parameters before each layer but the first."""
    dropout: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of each hidden layer that is dropped while the model is fitted."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the model."""
    weight_decay: tuple[NonNegative, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    """L2 penalty of each layer, first to last; the last value serves the layers that have none of their own."""
    batch_size: Count = 256
    """Rows in each member's minibatch."""
    round_steps: Count = 20
    """Minibatches between two looks at the holdout error."""
    max_rounds: Count = 100
    """Rounds after which a fit stops in any case."""
    patience: Count = 5
    """Rounds without gain after which a member stops."""
    min_gain: Fraction = 0.01
    """The relative fall of the holdout error that counts as a gain."""
    good_error: NonNegative = 3e-4
    """Holdout error (in variances of the targets) at which a member is good enough to stop; MBPO has no such stop."""
    holdout_every: Annotated[int, Range(2)] = 5
    """One row in so many is held out of training for as long as it is stored."""
    termination: Literal["known", "learned", "none"] = "known"
    """Where imagined episodes end: the world's predicate (a world without one learns it), a learned head, nowhere."""
    target: Literal["delta", "next_obs"] = "delta"
    """What is regressed: the change of the observation, or the next observation itself."""
    bound_margin: NonNegative = 0.1
    """Predictions are clipped to the range of the real data, widened at both ends by this fraction of it."""
    uncertainty: Literal["disagreement", "jensen_shannon", "one_vs_rest", "max_std"] = "jensen_shannon"
    """How doubtful a prediction is, for gates and penalties: spread of the elites' means, their geometric
    Jensen-Shannon divergence (MACURA), the largest divergence of one from the rest (M2AC), the largest deviation that
    one predicts (MOPO). In standardised units."""

    @property
    def exact(self) -> bool:
        """Whether it is the simulator itself."""
        return self.kind == "oracle"

    @property
    def counts(self) -> bool:
        """Whether it is a table of what happened."""
        return self.kind == "tabular"

    @property
    def has_networks(self) -> bool:
        """Whether it is an ensemble of networks, which most of the knobs here are for."""
        return self.kind == "ensemble"
