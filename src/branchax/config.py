"""Every knob, as frozen dataclasses. This module imports no JAX, so that `--help` and every refusal are instant.

A preset is a `Config` value (`presets.py`); a run is a preset with some fields replaced. `check` finds what is
impossible before anything is compiled and says the field, its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from branchax.worlds.catalog import PLAYGROUND, WORLDS


class ConfigError(ValueError):
    """A setting that cannot work. `str(error)` names the field, its value and what is allowed."""


@dataclass(frozen=True)
class Range:
    """The closed interval that a number must lie in; `None` is no bound. `above` makes the lower bound exclusive."""

    low: float | None = None
    high: float | None = None
    above: bool = False

    def __contains__(self, value: float) -> bool:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return math.isfinite(value) and (low < value if self.above else low <= value) and value <= high

    def __str__(self) -> str:
        low = "" if self.low is None else f"{'> ' if self.above else '>= '}{self.low:.10g}"
        high = "" if self.high is None else f"<= {self.high:.10g}"
        return " and ".join(part for part in (low, high) if part) or "a finite number"


LARGEST = 2**31 - 1  # counters are 32-bit integers
Count = Annotated[int, Range(1, LARGEST)]
Natural = Annotated[int, Range(0, LARGEST)]
Positive = Annotated[float, Range(0, 1e9, above=True)]
NonNegative = Annotated[float, Range(0, 1e9)]
Fraction = Annotated[float, Range(0, 1)]
OptionalCount = Annotated[int | None, Range(1, LARGEST)]


@dataclass(frozen=True)
class ModelConfig:
    """The dynamics model that rollouts are imagined in."""

    kind: Literal["ensemble", "oracle", "tabular"] = "ensemble"
    """`ensemble` is learned; `oracle` is the simulator itself (no model error: what is left is the method's own);
    `tabular` counts what happened, in a world of few states."""
    members: Count = 7
    """Networks in the ensemble."""
    elites: Count = 5
    """Members with the lowest holdout error; only they are imagined with."""
    hidden: tuple[Count, ...] = (200, 200, 200, 200)
    """Widths of each member's hidden layers."""
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
    groups: Count = 10
    """The rollouts are imagined in so many groups; each evaluates one member at a time, as one plain matrix product."""
    parallel_groups: OptionalCount = None
    """Groups computed side by side, all of which take memory. Default: one on a CPU, which is fastest on its caches;
    all of them elsewhere."""
    propagation: Literal["ts1", "tsinf", "mean"] = "ts1"
    """A new elite at every step, one elite for the whole rollout, or the mean of all elites (PETS)."""
    keep_epochs: Count = 1
    """Epochs that imagined data stays in the model buffer, at the largest horizon. Rows are counted as if each rollout
    were whole: where episodes end or gates rule steps out, the rows of older epochs stay instead, as in MBPO's pool."""
    first_action: Literal["policy", "replayed"] = "policy"
    """The first action of a rollout off a replayed state: the policy's, or the one taken there (tabular Dyna-Q)."""
    penalty: NonNegative = 0.0
    """Imagined rewards are lowered by it times `model.uncertainty` (MOPO, M2AC)."""
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


@dataclass(frozen=True)
class CriticConfig:
    """An ensemble of Q-functions, and how its targets are made."""

    members: Count = 2
    """Q-functions."""
    subset: OptionalCount = None
    """The target takes the least of so many of them, drawn afresh for each update (REDQ). Default: of all."""
    layer_norm: bool = False
    """LayerNorm after each hidden layer (keeps values bounded when updates are many)."""
    expand: Literal["none", "mve", "steve"] = "none"
    """Targets look ahead `rollout.horizon` steps in the model (MVE), or average all horizons up to it, weighted by
    inverse variance over model and critics (STEVE)."""
    td_k: bool = True
    """MVE: learn on the imagined states too, each with what is left of the horizon."""


@dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic with a learned temperature (Haarnoja et al. 2018, arXiv:1812.05905), for discrete actions too
    (Christodoulou 2019, arXiv:1910.07207)."""

    kind: Literal["sac"] = "sac"
    """Off-policy: learns on batches of replayed and imagined transitions."""
    hidden: tuple[Count, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    learning_rate: Positive = 3e-4
    """Adam's step size for actor, critics and temperature."""
    discount: Fraction = 0.99
    """Gamma."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.005
    """Step of the Polyak average that the target critics follow."""
    target_entropy: Annotated[float | None, Range(-1e9, 1e9)] = None
    """Nats; the default is minus half the number of action entries (of discrete actions: half of the largest)."""
    init_temperature: Annotated[float, Range(1e-9, 1e9)] = 0.1
    """Alpha at the start."""
    learn_temperature: bool = True
    """Adjust alpha so that the policy's entropy stays at `target_entropy`."""
    through_model: bool = False
    """The actor's gradient goes back through `rollout.horizon` model steps before the critic takes over (SVG)."""
    critic: CriticConfig = field(default_factory=CriticConfig)


@dataclass(frozen=True)
class TD3Config:
    """Twin delayed deterministic policy gradients (Fujimoto et al. 2018, arXiv:1802.09477)."""

    kind: Literal["td3"] = "td3"
    """Off-policy, for continuous actions."""
    hidden: tuple[Count, ...] = (256, 256)
    """Widths of the hidden layers of actor and critics."""
    learning_rate: Positive = 3e-4
    """Adam's step size for actor and critics."""
    discount: Fraction = 0.99
    """Gamma."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.005
    """Step of the Polyak average that the target networks follow."""
    policy_delay: Count = 2
    """Updates of the critics for each of the actor and the targets."""
    exploration: NonNegative = 0.1
    """Deviation of the noise on every action taken."""
    target_noise: NonNegative = 0.2
    """Deviation of the noise on the target's actions ..."""
    target_noise_clip: NonNegative = 0.5
    """... and where it is clipped."""
    critic: CriticConfig = field(default_factory=CriticConfig)


@dataclass(frozen=True)
class DQNConfig:
    """Deep Q-learning (Mnih et al. 2015), double (van Hasselt et al. 2016) and dueling (Wang et al. 2016)."""

    kind: Literal["dqn"] = "dqn"
    """Off-policy, for discrete actions."""
    hidden: tuple[Count, ...] = (64, 64)
    """Widths of the hidden layers; none makes Q linear, which on a tabular world is a table."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    discount: Fraction = 0.99
    """Gamma."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.005
    """Step of the Polyak average that the target critics follow."""
    epsilon: Fraction = 0.1
    """Share of actions that are drawn uniformly."""
    double: bool = True
    """The online critics choose the next action, the target critics value it."""
    dueling: bool = False
    """Q = V + A - mean A, from one trunk."""
    critic: CriticConfig = field(default_factory=lambda: CriticConfig(members=1))


@dataclass(frozen=True)
class QLearningConfig:
    """Q-learning with a table (Watkins 1989), on each transition as it comes; with a model, tabular Dyna-Q."""

    kind: Literal["q_learning"] = "q_learning"
    """Off-policy, for worlds of few states and discrete actions."""
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 0.1
    """Alpha."""
    discount: Fraction = 0.95
    """Gamma."""
    epsilon: Fraction = 0.1
    """Share of actions that are drawn uniformly."""


@dataclass(frozen=True)
class PolicyGradientConfig:
    """Likelihood-ratio gradients: REINFORCE, advantage actor-critic and PPO are values of these fields."""

    kind: Literal["policy_gradient"] = "policy_gradient"
    """On-policy: learns on rollouts of its own policy, fresh for every update."""
    weight: Literal["to_go", "baseline", "gae"] = "gae"
    """What multiplies the score: rewards to go, less a learned value, or generalised advantage estimates."""
    gae_lambda: Fraction = 0.95
    """Lambda of the advantage estimates."""
    passes: Count = 1
    """Passes over the rollouts of one update."""
    minibatches: Count = 1
    """Gradient steps per pass."""
    clip: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """The probability ratio gains nothing outside 1 +- clip (PPO). Default: not clipped."""
    kl_penalty: NonNegative = 0.0
    """Weight of KL(old policy || new) at the start; it doubles or halves to keep the divergence near `kl_target`."""
    kl_target: Positive = 0.01
    """Nats by which an update is meant to move the policy, where there is a penalty."""
    kl_stop: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """Nats at which an update takes no further steps. Default: it takes them all."""
    kl_budget: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """Nats that the policy may move by between two collections; the update that would exceed them is undone, and those
    after it are left out. Default: unlimited."""
    entropy_weight: NonNegative = 0.0
    """Weight of the policy's entropy in the objective."""
    normalise: bool = True
    """Standardise the advantages of each update."""
    hidden: tuple[Count, ...] = (64, 64)
    """Widths of the policy's hidden layers; none makes its mean linear."""
    value_hidden: tuple[Count, ...] = (64, 64)
    """Widths of the value's hidden layers."""
    init_std: Positive = 0.5
    """Deviation of the policy's Gaussian at the start, in units of half the actuators' range."""
    squash: bool = False
    """Squash actions by tanh; otherwise the world clips them."""
    learning_rate: Positive = 3e-4
    """Adam's step size for the policy."""
    value_learning_rate: Positive = 1e-3
    """Adam's step size for the value."""
    value_passes: Count = 1
    """Gradient steps of the value for each of the policy's."""
    max_gradient_norm: Annotated[float | None, Range(0, 1e9, above=True)] = 0.5
    """Longer gradients are scaled down to it."""
    discount: Fraction = 0.99
    """Gamma."""


@dataclass(frozen=True)
class PathwiseConfig:
    """Gradients back through model and policy: SVG(infinity), SVG(k), APG and SHAC are values of these fields."""

    kind: Literal["pathwise"] = "pathwise"
    """On-policy: differentiates through rollouts of its own policy, fresh for every update."""
    deterministic: bool = False
    """A policy without noise. Otherwise a Gaussian, reparameterised."""
    critic: bool = True
    """Bootstrap rollouts with a learned value where they are cut."""
    window: OptionalCount = None
    """Steps after which the derivative is cut; with a critic, its slope stands in for what is lost. Default: never."""
    gae_lambda: Fraction = 0.95
    """Lambda of the returns that the value is fitted to."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.05
    """Step of the Polyak average that the target value follows."""
    value_passes: Count = 8
    """Gradient steps of the value per update."""
    hidden: tuple[Count, ...] = (64, 64)
    """Widths of the policy's hidden layers; none makes its mean linear."""
    value_hidden: tuple[Count, ...] = (64, 64)
    """Widths of the value's hidden layers."""
    init_std: Positive = 0.3
    """Deviation of the policy's Gaussian at the start, in units of half the actuators' range."""
    squash: bool = True
    """Squash actions by tanh; a clipped action has no derivative."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the policy."""
    value_learning_rate: Positive = 1e-3
    """Adam's step size for the value."""
    max_gradient_norm: Annotated[float | None, Range(0, 1e9, above=True)] = 1.0
    """Longer gradients are scaled down to it."""
    discount: Fraction = 0.99
    """Gamma."""


@dataclass(frozen=True)
class PlannerConfig:
    """Planning in the model at every step: random shooting, CEM, iCEM and MPPI are values of these fields."""

    kind: Literal["planner"] = "planner"
    """Learns nothing of its own: it acts by what the latest model says of many action sequences (PETS)."""
    horizon: Count = 25
    """Steps that a plan looks ahead."""
    candidates: Count = 200
    """Plans that are tried in the first iteration."""
    iterations: Count = 5
    """Times that plans are drawn, tried and refitted, at every step of a world."""
    elites: Count = 20
    """The best plans, to which the distribution of the next iteration's is fitted; all of them for MPPI."""
    temperature: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """In a fit an elite weighs exp(return / temperature), in the return's units (MPPI). Default: all the same (CEM)."""
    momentum: Fraction = 0.1
    """Share of the old mean that a fit keeps."""
    std_momentum: Fraction = 0.1
    """Share of the old deviation that a fit keeps; 1 holds it at `init_std` (MPPI)."""
    init_std: Positive = 0.5
    """Deviation that each step's first iteration draws with, in units of half the actuators' range."""
    uniform: bool = False
    """Draw actions uniformly within a deviation of the mean (random shooting, with `init_std` 1), not normally."""
    noise_exponent: Annotated[float, Range(0, 10)] = 0.0
    """Beta: the draws' power falls as 1 / frequency^beta along a plan (iCEM). 0 is white noise."""
    keep: Fraction = 0.0
    """Share of the elites that are tried again in the next iteration and, shifted, at the next step (iCEM)."""
    decay: Annotated[float, Range(1, 1e9)] = 1.0
    """Each iteration tries so many times fewer plans than the one before, but no fewer than two per elite (iCEM)."""
    warm_start: bool = True
    """Start from the mean of the step before, shifted by a step; otherwise from zero."""
    execute: Literal["mean", "best"] = "mean"
    """Whose first action is taken: the fitted mean's, or that of the best plan tried in the last iteration."""
    particles: Count = 1
    """Rollouts of each plan under each elite of the model; a plan is worth the mean return of them all."""
    discount: Fraction = 1.0
    """Gamma."""


AgentConfig = (
    SACConfig | TD3Config | DQNConfig | QLearningConfig | PolicyGradientConfig | PathwiseConfig | PlannerConfig
)
CRITIC_AGENTS = (SACConfig, TD3Config, DQNConfig)  # those with an ensemble of Q-functions
OFF_POLICY = (*CRITIC_AGENTS, QLearningConfig)


@dataclass(frozen=True)
class FaultConfig:
    """What is done about a number that is not finite. Whatever it is, nothing that is good is touched by it."""

    world: Literal["stop", "drop"] = "stop"
    """Observations and rewards of the real world: end the run, or leave the row out and start a new episode."""
    model: Literal["stop", "skip"] = "skip"
    """A member of the ensemble: end the run, or roll that member back, alone, to what it was."""
    agent: Literal["stop", "skip"] = "skip"
    """Losses and gradients of the agent: end the run, or leave the update out."""


@dataclass(frozen=True)
class Config:
    """One run. Every field can be set on the command line by its name."""

    world: str = "brax/inverted_pendulum"
    """Where the agent acts: see `branchax list`; or a world of one's own, `module:function` that returns it."""
    backend: str = "generalized"
    """Brax's physics backend. `spring` worlds hide part of their state, so no model of them can be accurate."""
    episode_length: OptionalCount = None
    """Steps until an episode is cut; the default is the world's own."""
    parallel_worlds: Count = 1
    """Real worlds stepped side by side."""
    seed: Natural = 0
    """The first seed."""
    seeds: Count = 1
    """Runs trained in one program, with seeds `seed`, `seed + 1`, ..."""
    env_steps: Count = 5_000
    """Real steps in all, the exploration included; the last epoch is run to its end."""
    explore_steps: Count = 500
    """Real steps with uniformly random actions before the first epoch."""
    dataset: str | None = None
    """A file of transitions (`host/dataset.py`) to learn from offline: nothing is explored or collected, and
    `env_steps` only says how long to train."""
    epoch_steps: Count = 250
    """Real steps per epoch; an epoch fits the model, imagines, then alternates collecting and improving."""
    collect_steps: Count = 1
    """Real steps between two rounds of updates."""
    updates_per_step: Positive = 10.0
    """Gradient updates of the agent per real step."""
    batch_size: Count = 256
    """Transitions per update."""
    real_fraction: Fraction = 0.05
    """Share of each batch that is real; the rest is imagined."""
    replay_capacity: OptionalCount = None
    """Real transitions kept; the default keeps all."""
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    agent: AgentConfig = field(default_factory=SACConfig)
    precision: Literal["highest", "high", "default"] = "highest"
    """Of matrix products. On a GPU anything below `highest` rounds to TF32 or less: faster, and it can break training
    quietly (docs/how-to/gpu.md has what was measured)."""
    eval_every: Count = 1
    """Epochs between evaluations."""
    eval_episodes: Count = 16
    """Episodes per evaluation, run side by side with the policy's mode."""
    checkpoint_every: Count = 10
    """Epochs between checkpoints; the last epoch is always saved."""
    checkpoints_kept: Count = 2
    """So many of the newest checkpoints stay on disk."""
    keep_best: bool = False
    """The checkpoint with the highest return when it was evaluated (mean over seeds) stays on disk too."""
    tensorboard: bool = True
    """Write `tb/`, the metrics as TensorBoard reads them."""
    wandb: bool = False
    """Send the metrics to Weights & Biases (pip install 'branchax[wandb]'); its own variables, such as
    WANDB_MODE=offline, say how."""
    grace: Annotated[float | None, Range(0, 1e9)] = None
    """Seconds that the epoch under way has to end in after SIGTERM or Ctrl-C; then the state before it is saved in its
    place. Of a state beyond 256 MiB, and in several processes, no copy is kept, and the last checkpoint stands.
    Default: 3 with a copy, 20 without."""
    faults: FaultConfig = field(default_factory=FaultConfig)
    devices: OptionalCount = None
    """Devices to use: first the seeds are spread over them, then rollouts and batches. Default: as `mesh` says, or as
    many as the seeds spread over evenly."""
    mesh: str | None = None
    """How the devices are laid out, such as `seed=4,batch=2`: seeds over 4 of them, and each seed's imagined rollouts,
    model buffer and gradient batches over 2 (docs/scale.md)."""

    # --- derived sizes ---

    @property
    def model_free(self) -> bool:
        """Whether nothing is imagined, so that no model is built at all."""
        return self.rollout.horizon == 0

    @property
    def on_policy(self) -> bool:
        """Whether the agent learns on fresh rollouts of its own policy, and not from a buffer."""
        return isinstance(self.agent, (PolicyGradientConfig, PathwiseConfig))

    @property
    def looks_ahead(self) -> bool:
        """Whether updates roll the model out themselves, from the states of their batch."""
        agent = self.agent
        expands = isinstance(agent, CRITIC_AGENTS) and agent.critic.expand != "none"
        return expands or (isinstance(agent, SACConfig) and agent.through_model)

    @property
    def stores_imagined(self) -> bool:
        """Whether rollouts are imagined at the start of an epoch, into a buffer that batches draw on."""
        return isinstance(self.agent, OFF_POLICY) and not self.model_free and self.real_rows < self.batch_size

    @property
    def discrete(self) -> bool | None:
        """Whether the agent needs discrete actions (True), continuous ones (False) or takes both (None)."""
        if isinstance(self.agent, (DQNConfig, QLearningConfig)):
            return True
        return False if isinstance(self.agent, (TD3Config, PlannerConfig)) or self.through_model else None

    @property
    def plans(self) -> bool:
        """Whether the agent plans in the model as it acts, and learns nothing else."""
        return isinstance(self.agent, PlannerConfig)

    @property
    def through_model(self) -> bool:
        """Whether the policy's gradient goes back through the model."""
        agent = self.agent
        return isinstance(agent, PathwiseConfig) or (isinstance(agent, SACConfig) and agent.through_model)

    @property
    def epochs(self) -> int:
        """Epochs in the run."""
        return max(0, -(-(self.env_steps - self.explored) // self.epoch_steps))

    @property
    def explored(self) -> int:
        """Steps before the first epoch."""
        return self.explore_steps if self.dataset is None else 0

    @property
    def real_rows(self) -> int:
        """Real transitions in each batch (exact)."""
        return self.batch_size if self.model_free else round(self.real_fraction * self.batch_size)

    @property
    def real_capacity(self) -> int:
        """Rows of the real buffer, rounded up to whole holdout blocks."""
        wanted = self.replay_capacity or self.explore_steps + self.epochs * self.epoch_steps
        return -(-wanted // self.model.holdout_every) * self.model.holdout_every

    @property
    def rollouts(self) -> int:
        """Imagined rollouts per epoch (on-policy: per update), rounded up to whole groups."""
        wanted = self.rollout.per_update if self.on_policy else self.rollout.per_step * self.epoch_steps
        return -(-wanted // self.rollout.groups) * self.rollout.groups

    @property
    def imagined_capacity(self) -> int:
        """Rows of the model buffer, where there is one."""
        return self.rollouts * self.rollout.longest() * self.rollout.keep_epochs if self.stores_imagined else 0

    @property
    def most_seeds(self) -> int:
        """Seeds that one program has room for, be they of one run or of several: it counts rows across all of them."""
        return LARGEST // max(self.real_capacity, self.imagined_capacity, 1)

    @property
    def updates_per_round(self) -> int:
        """Updates after each `collect_steps` real steps."""
        return round(self.updates_per_step * self.collect_steps)

    @property
    def mesh_shape(self) -> tuple[int, int] | None:
        """Devices along the axes `seed` and `batch`; `None` leaves the choice to the devices that there are.

        Raises:
          ConfigError: when `mesh` cannot be read.
        """
        if self.mesh is not None:
            return _parse_mesh(self.mesh)
        if self.devices is None:
            return None
        over_seeds = math.gcd(self.devices, self.seeds)
        return over_seeds, self.devices // over_seeds


MESH_AXES = ("seed", "batch")
PLACEMENT = ("devices", "mesh", "rollout.parallel_groups")  # where a run is computed, no part of what it computes


def _parse_mesh(text: str) -> tuple[int, int]:
    sizes = dict.fromkeys(MESH_AXES, 1)
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in sizes:
            raise ConfigError(f"mesh: {name!r} is no axis{nearest(name, sizes)}; allowed: such as seed=4,batch=2")
        if not size.isdecimal() or not 1 <= int(size) <= LARGEST:
            raise ConfigError(f"mesh: {part.strip()!r} is not possible; allowed: {name}=N with N >= 1")
        sizes[name] = int(size)
    return sizes["seed"], sizes["batch"]


def nearest(name: str, known: typing.Iterable[str], most: int = 3, prefix: str = "") -> str:
    """`" (did you mean a or b?)"` for the `most` known names closest to `name`, or `""` when none is close."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f" (did you mean {' or '.join(prefix + x for x in close)}?)" if close else ""


def value_at(config: Any, path: str) -> Any:
    """The value of the field at a dotted path."""
    return functools.reduce(getattr, path.split("."), config)


def with_field(config: Any, path: str, value: Any) -> Any:
    """`config` with the field at a dotted path replaced, such as `with_field(config, "agent.tau", 0.01)`."""
    name, _, rest = path.partition(".")
    return dataclasses.replace(config, **{name: with_field(getattr(config, name), rest, value) if rest else value})


def check(config: Config) -> None:
    """Raises `ConfigError` for the first setting that cannot work, before JAX is loaded."""
    _check_ranges(config, "")

    def need(holds: bool, path: str, allowed: str) -> None:
        if not holds:
            value = functools.reduce(getattr, path.split("."), config)
            raise ConfigError(f"{path}: {value} is not possible; allowed: {allowed}")

    _check_world(config, need)
    _check_sizes(config, need)
    if config.model_free:
        _check_model_free(config, need)
    else:
        _check_model(config, need)
    _check_agent(config, need)
    _check_mesh(config, need)


Need = Callable[[bool, str, str], None]  # (what must hold, the path of a field, what is allowed)


def _check_world(config: Config, need: Need) -> None:
    if config.world.startswith("gym/") or ":" in config.world:
        return  # not in the catalog: only what is built can tell
    if config.world.startswith("playground/"):
        _check_playground(config, need)
    else:
        _check_catalog(config, need)


def _check_playground(config: Config, need: Need) -> None:
    names = [f"playground/{name}" for name in PLAYGROUND]
    near = nearest(config.world, names)
    need(config.world in names, "world", f"MuJoCo Playground's control suite, see `branchax list`{near}")
    tabular = isinstance(config.agent, QLearningConfig) or config.model.kind == "tabular"
    need(not tabular, "world", "a world of few states, for a table")
    check_actions(config, discrete=False)


def _check_catalog(config: Config, need: Need) -> None:
    if config.world not in WORLDS:
        raise ConfigError(
            f"world: {config.world!r} is unknown{nearest(config.world, WORLDS)}; `branchax list` shows all"
        )
    entry, is_brax = WORLDS[config.world], config.world.startswith("brax/")
    need(not entry.refused, "world", f"another world: {entry.refused}")
    check_actions(config, entry.discrete)
    needs_table = isinstance(config.agent, QLearningConfig) or config.model.kind == "tabular"
    tables = [name for name, other in WORLDS.items() if other.tabular]
    need(entry.tabular or not needs_table, "world", f"{', '.join(tables)}: a table needs a world of few states")
    near = nearest(config.backend, entry.backends)
    need(not is_brax or config.backend in entry.backends, "backend", ", ".join(entry.backends) + near)
    own_length = config.world.startswith("probe/")
    need(config.episode_length is None or not own_length, "episode_length", f"unset: {config.world} has its own")


def check_actions(config: Config, discrete: bool) -> None:
    """Raises `ConfigError` unless the agent can act in a world whose actions are discrete, or are not."""
    if config.discrete is None or config.discrete == discrete:
        return
    if isinstance(config.agent, SACConfig):
        raise ConfigError(
            f"agent.through_model: True is not possible on {config.world}; allowed: False, as discrete actions have no"
            " derivative"
        )
    kind, others = ("discrete", "dqn, dyna, sac, mbpo, ppo") if discrete else ("continuous", "mbpo, sac, td3, ppo")
    raise ConfigError(
        f"agent.kind: {config.agent.kind} is not possible on {config.world}, whose actions are {kind}; allowed: agents"
        f" that take them, as in presets {others}"
    )


def _check_sizes(config: Config, need: Need) -> None:
    need(
        config.seed + config.seeds - 1 <= LARGEST,
        "seeds",
        f"<= {LARGEST - config.seed + 1}, counted from seed = {config.seed}",
    )
    need(
        config.seeds <= config.most_seeds,
        "seeds",
        f"so few that buffers hold at most {LARGEST:,} rows in all; a seed's hold {config.real_capacity:,} real"
        f" and {config.imagined_capacity:,} imagined ones",
    )
    need(config.env_steps > config.explored, "env_steps", f"> explore_steps = {config.explored}")
    for name in ("explore_steps", "collect_steps"):
        multiple = f"a multiple of parallel_worlds = {config.parallel_worlds}"
        need(getattr(config, name) % config.parallel_worlds == 0, name, multiple)
    need(
        config.epoch_steps % config.collect_steps == 0,
        "epoch_steps",
        f"a multiple of collect_steps = {config.collect_steps}",
    )
    sized = config.dataset is not None  # which says how large the buffer is, unless replay_capacity does
    per_round = config.updates_per_step * config.collect_steps
    need(
        math.isclose(per_round, round(per_round)) and round(per_round) >= 1,
        "updates_per_step",
        f"a number whose product with collect_steps = {config.collect_steps} is whole and >= 1",
    )
    need(
        not isinstance(config.agent, CRITIC_AGENTS) or config.batch_size <= config.real_capacity,
        "batch_size",
        f"<= the real buffer's capacity, {config.real_capacity}" + (", what is kept of the dataset" if sized else ""),
    )
    need(
        config.dataset is not None or config.real_capacity >= max(config.explore_steps, config.collect_steps),
        "replay_capacity",
        f">= explore_steps = {config.explore_steps} and >= collect_steps = {config.collect_steps}",
    )
    collects = isinstance(config.agent, QLearningConfig) or (config.on_policy and config.model_free)
    need(config.dataset is None or not collects, "dataset", "unset: this agent learns on what it has just collected")


def _check_model_free(config: Config, need: Need) -> None:
    need(
        not isinstance(config.agent, CRITIC_AGENTS) or config.real_fraction == 1.0,
        "rollout.horizon",
        f">= 1, because real_fraction = {config.real_fraction:g} asks for imagined data (model-free: preset sac)",
    )
    need(
        not config.looks_ahead,
        "rollout.horizon",
        ">= 1: this agent's updates look ahead in a model or the oracle (without: preset sac)",
    )
    need(
        not isinstance(config.agent, PathwiseConfig),
        "rollout.horizon",
        ">= 1: the pathwise gradient goes back through rollouts in a model or the oracle; without one: preset ppo,"
        " reinforce, a2c or sac",
    )
    need(
        not config.on_policy or config.updates_per_round == 1,
        "updates_per_step",
        f"1 / collect_steps = {1 / config.collect_steps:.10g}: model-free, an on-policy agent can use what it"
        " collects for one update",
    )
    need(not config.plans, "rollout.horizon", ">= 1: a planner needs a model")
    need(config.rollout.horizon_end is None, "rollout.horizon_end", "unset at horizon 0")


def _check_model(config: Config, need: Need) -> None:
    (low, high), learned = config.rollout.ramp, config.model.kind == "ensemble"
    need(config.model.elites <= config.model.members, "model.elites", f"<= model.members = {config.model.members}")
    need(
        not isinstance(config.agent, OFF_POLICY) or config.stores_imagined or config.looks_ahead,
        "real_fraction",
        "small enough to leave imagined rows in the batch (model-free: rollout.horizon 0)",
    )
    need(
        not learned or config.dataset is not None or config.explore_steps >= 2 * config.model.holdout_every,
        "explore_steps",
        f">= {2 * config.model.holdout_every}, so that the first fit has rows to train on and to hold out",
    )
    if config.dataset is not None:
        least = 2 * config.model.holdout_every
        enough = (config.replay_capacity or LARGEST) >= least
        need(enough, "dataset", f"at least {least} transitions to keep, so that there are some to hold out")
        need(config.model.kind != "oracle", "dataset", "unset with the oracle: a file holds no simulator states")
    need(
        config.rollout.horizon_end is None or high > low,
        "rollout.ramp",
        "two env-step counts in rising order when rollout.horizon_end is set",
    )
    need(
        config.rollout.horizon_end is not None or config.rollout.ramp == (0, 0),
        "rollout.horizon_end",
        f"the horizon at the end of rollout.ramp = {config.rollout.ramp}",
    )
    need(
        (config.rollout.horizon_end or config.rollout.horizon) >= config.rollout.horizon,
        "rollout.horizon_end",
        f">= rollout.horizon = {config.rollout.horizon}",
    )
    need(bool(config.model.weight_decay), "model.weight_decay", "at least one value")
    need(
        config.model.kind != "oracle" or not (config.looks_ahead and config.stores_imagined),
        "real_fraction",
        "1: the oracle looks ahead from simulator states, which imagined rows do not have",
    )
    need(
        not config.through_model or config.model.kind != "tabular",
        "model.kind",
        "ensemble or oracle: a table has no gradient",
    )
    need(
        config.rollout.first_action == "policy" or (config.rollout.start == "replay" and config.stores_imagined),
        "rollout.first_action",
        "policy, but for rollouts off replayed states into a buffer",
    )
    gated, ensemble = config.rollout.gate != "none", config.model.kind == "ensemble"
    if gated or config.rollout.penalty > 0:
        field, off = ("rollout.gate", "none") if gated else ("rollout.penalty", "0")
        need(config.model.kind != "oracle", field, f"{off}: the oracle is certain")
        used = config.stores_imagined or config.on_policy
        need(used, field, f"{off}: only rollouts into a buffer, or an on-policy agent's, are gated and penalised")
        several = not ensemble or config.model.elites > 1 or config.model.uncertainty == "max_std"
        need(several, "model.elites", f">= 2 for {field}: a single one never disagrees with itself")
    whole = config.rollout.gate != "rank" or not config.on_policy
    need(whole, "rollout.gate", "none or threshold: an on-policy agent's rollouts must not have holes")


def _check_agent(config: Config, need: Need) -> None:
    agent, every = config.agent, config.rollout.validate_every
    imagines = config.on_policy and not config.model_free
    need(
        every is None or (imagines and config.updates_per_round % every == 0),
        "rollout.validate_every",
        f"a divisor of the {config.updates_per_round} updates of a round"
        if imagines
        else "unset, but for an agent that learns on imagined rollouts of its own",
    )
    if isinstance(agent, CRITIC_AGENTS):
        members = agent.critic.members
        need((agent.critic.subset or 1) <= members, "agent.critic.subset", f"<= agent.critic.members = {members}")
        steve = agent.critic.expand == "steve"
        need(not steve or agent.critic.subset is None, "agent.critic.subset", "unset: STEVE averages over all critics")
        need(
            agent.critic.td_k or agent.critic.expand == "mve",
            "agent.critic.td_k",
            "true without agent.critic.expand mve",
        )
    at_once = getattr(agent, "policy_delay", 1)  # updates that go together
    whole = f"a number whose product with collect_steps = {config.collect_steps} is a multiple of {at_once}"
    need(config.updates_per_round % at_once == 0, "updates_per_step", f"{whole}, agent.policy_delay")
    once = not isinstance(agent, QLearningConfig) or config.updates_per_round == 1
    need(
        once, "updates_per_step", f"1 / collect_steps = {1 / config.collect_steps:.10g}: each real step is learned once"
    )
    if isinstance(agent, PlannerConfig):
        need(agent.elites <= agent.candidates, "agent.elites", f"<= agent.candidates = {agent.candidates}")
        need(config.model.kind == "ensemble", "model.kind", "ensemble: a planner sees observations, not states")
        whole = config.collect_steps == config.epoch_steps and config.updates_per_round == 1
        need(whole, "collect_steps", f"epoch_steps = {config.epoch_steps}, with one update: a plan lasts that long")
    if isinstance(agent, (PolicyGradientConfig, PathwiseConfig)):
        in_range = not agent.squash or 1e-4 <= agent.init_std <= 7.0
        need(in_range, "agent.init_std", ">= 0.0001 and <= 7 with agent.squash")
    if isinstance(agent, PolicyGradientConfig):
        horizon = config.collect_steps // config.parallel_worlds if config.model_free else config.rollout.longest()
        rows = horizon * (config.parallel_worlds if config.model_free else config.rollouts)
        need(agent.minibatches <= rows, "agent.minibatches", f"<= the {rows} steps of an update")
        several = agent.kl_budget is None or not config.model_free
        need(
            several, "agent.kl_budget", "unset: model-free, a collection brings one update (agent.kl_stop bounds that)"
        )
        one_rule = agent.kl_budget is None or every is None
        need(one_rule, "agent.kl_budget", "unset with rollout.validate_every: one of the two ends a round's updates")


def _check_mesh(config: Config, need: Need) -> None:
    """The axes of an explicit mesh must divide what is spread over them; a chosen one always does."""
    if config.mesh_shape is None:
        return
    over_seeds, over_batch = config.mesh_shape
    total = over_seeds * over_batch
    need(config.devices in (None, total), "devices", f"{total}, the product of mesh = {config.mesh}")
    knob = "devices" if config.mesh is None else "mesh"
    divisors = [n for n in range(1, config.seeds + 1) if config.seeds % n == 0]
    fitting = f"a seed axis that divides seeds = {config.seeds}: {', '.join(map(str, divisors))}"
    need(config.seeds % over_seeds == 0, knob, fitting)
    if over_batch == 1:
        return
    alone = config.plans or isinstance(config.agent, QLearningConfig) or (config.on_policy and config.model_free)
    need(not alone, knob, f"a batch axis of 1: agent.kind = {config.agent.kind} has nothing here to spread over it")

    def divides(path: str, count: Callable[[Config], int]) -> None:
        """`count`, a size that follows from the field at `path`, is a multiple of the batch axis."""
        value: Any = functools.reduce(getattr, path.split("."), config)

        def fits(candidate: int) -> bool:
            return candidate >= 1 and count(with_field(config, path, candidate)) % over_batch == 0

        further = range(1, 64 * over_batch)
        lower = next((value - n for n in further if fits(value - n)), None)
        higher = next((value + n for n in further if fits(value + n)), None)
        numbers = " or ".join(str(n) for n in (lower, higher) if n is not None) or "another"
        group = "" if path.endswith("batch_size") else ", so that the rollouts of a group divide"
        need(fits(value), path, f"{numbers}, for a batch axis of {over_batch}{group}")

    if not config.on_policy:
        divides("batch_size", lambda c: c.batch_size)
    if config.model_free:
        return
    if config.model.kind == "ensemble":
        divides("model.batch_size", lambda c: c.model.batch_size)
    if config.on_policy or config.stores_imagined:
        knob = "rollout.per_update" if config.on_policy else "rollout.per_step"
        divides(knob, lambda c: c.rollouts // c.rollout.groups)


# What may change when a run goes on: nothing that its state depends on. `env_steps` may, too, but only grow.
RESUMABLE = (
    *(
        "eval_every",
        "eval_episodes",
        "checkpoint_every",
        "checkpoints_kept",
        "keep_best",
        "tensorboard",
        "wandb",
        "grace",
    ),
    *PLACEMENT,
    *(f"faults.{f.name}" for f in dataclasses.fields(FaultConfig)),
)


def changes(before: Config, after: Config) -> tuple[list[str], list[str]]:
    """The settings that differ, as `"name old -> new"`: those that may when a run goes on, and those that may not."""
    old, new = flat(to_dict(before)), flat(to_dict(after))
    allowed, refused = [], []
    for name in [*old, *(n for n in new if n not in old)]:
        if (was := old.get(name)) != (now := new.get(name)):
            fine = name in RESUMABLE or (name == "env_steps" and after.env_steps > before.env_steps)
            (allowed if fine else refused).append(f"{name} {was} -> {now}")
    return allowed, refused


def decisive(config: Config) -> dict[str, Any]:
    """The settings by their paths, without those that may change when a run goes on."""
    return {name: value for name, value in flat(to_dict(config)).items() if name not in RESUMABLE}


def flat(settings: dict[str, Any], path: str = "") -> dict[str, Any]:
    """Nested settings by their paths: `{"model": {"members": 7}}` -> `{"model.members": 7}`."""
    parts = (flat(v, f"{path}{k}.") if isinstance(v, dict) else {f"{path}{k}": v} for k, v in settings.items())
    return {name: value for part in parts for name, value in part.items()}


def _check_ranges(node: Any, path: str) -> None:
    hints = typing.get_type_hints(type(node), include_extras=True)
    for f in dataclasses.fields(node):
        value, name = getattr(node, f.name), f"{path}{f.name}"
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{name}.")
        else:
            _check_value(name, value, hints[f.name])


def _check_value(name: str, value: Any, hint: Any) -> None:
    limits, base = None, hint
    if typing.get_origin(hint) is Annotated:
        base, limits = hint.__origin__, next(m for m in hint.__metadata__ if isinstance(m, Range))
    options = typing.get_args(base) if isinstance(base, types.UnionType) else (base,)
    if typing.get_origin(base) is Literal:
        if value not in typing.get_args(base):
            choices = typing.get_args(base)
            raise ConfigError(
                f"{name}: {value!r} is unknown{nearest(str(value), choices)}; allowed: {', '.join(choices)}"
            )
    elif typing.get_origin(base) is tuple:
        inner = typing.get_args(base)
        if not isinstance(value, (tuple, list)) or (inner[-1] is not Ellipsis and len(value) != len(inner)):
            raise ConfigError(f"{name}: {value!r} is not possible; allowed: {len(inner)} values")
        for i, entry in enumerate(value):
            _check_value(f"{name}[{i}]", entry, inner[0])
    else:
        kinds = tuple(float if o is float else o for o in options) + ((int,) if float in options else ())
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in options):
            wanted = " or ".join("none" if o is types.NoneType else o.__name__ for o in options)
            raise ConfigError(f"{name}: {value!r} is not possible; allowed: {wanted}")
        if limits is not None and value is not None and value not in limits:
            raise ConfigError(f"{name}: {value} is not possible; allowed: {limits}")


# --- saved beside every run, and read back ---


def to_dict(config: Any) -> dict[str, Any]:
    """A JSON-ready dictionary of a config (tuples become lists)."""
    return dataclasses.asdict(config)


def from_dict(kind: type, data: dict[str, Any], path: str = "") -> Any:
    """The inverse of `to_dict`. Raises `ConfigError` for an unknown key, naming the nearest one."""
    if not isinstance(data, dict):
        raise ConfigError(f"{path.rstrip('.') or 'config'}: {data!r} is not a set of fields")
    known = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in data.items():
        if name not in known:
            raise ConfigError(f"{path}{name}: unknown field{nearest(name, known)}")
        options = [o for o in (typing.get_args(hints[name]) or (hints[name],)) if dataclasses.is_dataclass(o)]
        if options:
            kinds = {getattr(o, "kind", None): o for o in options}
            kind_of = value.get("kind") if isinstance(value, dict) else None
            if kind_of is not None and len(kinds) > 1 and kind_of not in list(kinds):
                near = nearest(str(kind_of), map(str, kinds))
                raise ConfigError(
                    f"{path}{name}.kind: {kind_of!r} is unknown{near}; allowed: {', '.join(map(str, kinds))}"
                )
            chosen = kinds.get(kind_of if isinstance(kind_of, str) else None, options[0])
            values[name] = from_dict(typing.cast(type, chosen), value, f"{path}{name}.")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def read(path: Path) -> Config:
    """The checked settings in a JSON file, such as a run's `config.json`; what it leaves out has its default.

    Raises:
      ConfigError: when there is no such file, it cannot be read, or a setting cannot work.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"config: {path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from error
    config = from_dict(Config, data)
    check(config)
    return config
