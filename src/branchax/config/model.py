"""The settings of the dynamics model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from branchax.config.fields import Count, Fraction, NonNegative, Positive, Range


@dataclass(frozen=True)
class ModelConfig:
    """The dynamics model, in which rollouts are imagined."""

    kind: Literal["ensemble", "oracle", "tabular", "own"] = "ensemble"
    """`ensemble`: learned networks. `oracle`: the simulator itself, without model error. `tabular`: a table of counts
    (for few states). `own`: the model that `factory` returns."""
    factory: str = ""
    """Your own model: `--model module:make_dynamics`, a function `(World, ModelConfig) -> Dynamics`."""
    members: Count = 7
    """Networks in the ensemble."""
    elites: Count = 5
    """Number of members with the lowest holdout error; rollouts use only these."""
    hidden: tuple[Count, ...] = (200, 200, 200, 200)
    """Widths of each member's hidden layers."""
    noise: Literal["state", "constant", "measured"] = "state"
    """Predicted variance. `state`: an output of the network, for each state and action. `constant`: one learned
    parameter per entry (homoscedastic). `measured`: the same, set after each fit to the mean square of the member's
    errors on held-out rows, its most likely value."""
    beta: Annotated[float, Range(0, 1)] = 0.0
    """Each entry's log-likelihood is weighed by its predicted variance to this power. 0: maximum likelihood, as in
    MBPO. 0.5: the mean is learned sooner where the variance is large (Seitzer et al. 2022). 1: as by least squares. The
    penalties are not weighed, so that small variances are predicted too large."""
    pre_norm: bool = False
    """LayerNorm without parameters before each layer but the first."""
    dropout: Annotated[float, Range(0, 0.9)] = 0.0
    """Dropout rate of the hidden layers while the model is fitted."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the model."""
    weight_decay: tuple[NonNegative, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    """L2 penalty of each layer, first to last; further layers use the last value."""
    batch_size: Count = 256
    """Rows in each member's minibatch."""
    bootstrap: Literal["resample", "weights"] = "resample"
    """How members differ in what they learn from. `resample`: each draws its own rows, with replacement. `weights`: all
    see the same minibatches; each weighs a row by a draw of Exp(1), which stays with the row's place in the buffer."""
    round_steps: Count = 20
    """Minibatches per round. The holdout error is computed after each round."""
    max_rounds: Count = 100
    """Largest number of rounds in a fit."""
    patience: Count = 5
    """A member stops after this many rounds without a gain."""
    stop: Literal["members", "mixture"] = "members"
    """Whose holdout error counts. `members`: each member's own mean square. `mixture`: that of the members' mixture as
    one Gaussian, exp(2 nll - 1) with its negative log-likelihood per entry; members then stop together."""
    min_gain: Fraction = 0.01
    """Relative decrease of the holdout error that counts as a gain."""
    good_error: NonNegative = 3e-4
    """A member stops at this holdout error (in variances of the targets). MBPO has no such stop; in worlds without
    noise its fits would go on long after the error is small."""
    holdout_every: Annotated[int, Range(2)] = 5
    """One row in this many is held out of training for as long as it is stored."""
    termination: Literal["known", "learned", "none"] = "known"
    """Termination of imagined episodes: `known`: the environment's predicate (learned if it has none); `learned`: a
    learned head; `none`: never."""
    target: Literal["delta", "next_obs"] = "delta"
    """Regression target: the change of the observation, or the next observation itself."""
    bound_margin: NonNegative = 0.1
    """Predictions are clipped to the range of the real data, widened at both ends by this fraction of its width."""
    beyond: Literal["clip", "end"] = "clip"
    """What happens to a rollout that leaves that range. `clip`: it goes on from the clipped state. `end`: it ends, and
    the lowest possible return follows (MOReL's HALT state), unless the environment is known never to terminate. For
    tasks where an end is a failure: a goal outside the data would be avoided. Needs `agent.critic.scale possible`."""
    uncertainty: Literal["disagreement", "jensen_shannon", "one_vs_rest", "max_std"] = "jensen_shannon"
    """Measure of uncertainty for gates and penalties, in standardised units: the spread of the elites' means, their
    geometric Jensen-Shannon divergence (MACURA), the largest divergence of one elite from the others (M2AC), or the
    largest predicted standard deviation (MOPO)."""

    @property
    def exact(self) -> bool:
        """Whether the model is the simulator itself."""
        return self.kind == "oracle"

    @property
    def counts(self) -> bool:
        """Whether the model is a table of counts."""
        return self.kind == "tabular"

    @property
    def is_own(self) -> bool:
        """Whether the model is the one that `factory` returns."""
        return self.kind == "own"

    @property
    def has_networks(self) -> bool:
        """Whether the model is an ensemble of networks; most settings here apply only to those."""
        return self.kind == "ensemble"
