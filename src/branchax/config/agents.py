"""The knobs of the agents, a dataclass for each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from branchax.config.fields import Count, Fraction, Natural, NonNegative, OptionalCount, Positive, Range


@dataclass(frozen=True)
class CriticConfig:
    """An ensemble of Q-functions, and how its targets are made."""

    members: Count = 2
    """Q-functions."""
    subset: OptionalCount = None
    """The target takes the least of so many of them, drawn afresh for each update (REDQ). Default: of all."""
    layer_norm: bool = False
    """LayerNorm after each hidden layer (keeps values bounded when updates are many)."""
    expand: Literal["none", "mve", "steve", "fresh"] = "none"
    """Targets look ahead `rollout.look_ahead` steps in the model after a stored action (`mve`), average all horizons up
    to it, weighted by inverse variance over model and critics (`steve`), or start with a fresh action at the batch's
    states and share that rollout with the actor's gradient (`fresh`: SAC with `through_model`)."""
    td_k: bool = True
    """MVE: learn on the imagined states too, each with what is left of the horizon."""
    pre_norm: bool = False
    """LayerNorm without parameters before each layer but the first."""
    dropout: Annotated[float, Range(0, 0.9)] = 0.0
    """Share of each hidden layer that is dropped while the critics learn."""
    zero_last: bool = False
    """Start at zero."""
    scale: Literal["none", "quantile"] = "none"
    """Values in units of what is possible: between the running 1 % and 99 % quantiles of rewards (soft ones, with their
    entropy), over 1 - discount. Targets are clipped to it (Kubo et al. 2025)."""
    scale_rate: Fraction = 3e-4
    """Step of the running quantiles."""


class Traits(NamedTuple):
    """What an agent's settings say of it, for whoever reads a config before anything is built."""

    learns_from: Literal["replay", "rollouts", "plans"] | None = "replay"  # as `agents.base.Agent`; None: not known yet
    discrete: bool | None = None  # whether it needs discrete actions (True), continuous ones (False) or takes both
    critic: CriticConfig | None = None  # of its ensemble of Q-functions, where it has one ...
    scales: bool = False  # ... and whether that can scale its values and drop units
    tabular: bool = False  # it needs a world of few states
    online: bool = False  # it learns each real step once, as it comes
    looks_ahead: bool = False  # its updates roll the model out themselves, from the states of their batch
    through_model: bool = False  # its policy's gradient goes back through the model
    # Of its own fields: what must hold, the field, what is allowed.
    rules: tuple[tuple[bool, str, str], ...] = ()


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
    """Nats; the default is `entropy_per_action` times the number of action entries (of discrete actions: half of the
    largest)."""
    entropy_per_action: Annotated[float, Range(-5, 5)] = -0.5
    """Nats of the target entropy for each entry of a continuous action."""
    init_std: Annotated[float, Range(1e-4, 7)] = 0.5
    """Deviation of the policy's noise at the start, before it is squashed; of continuous actions."""
    init_temperature: Annotated[float, Range(1e-9, 1e9)] = 0.1
    """Alpha at the start."""
    learn_temperature: bool = True
    """Adjust alpha so that the policy's entropy stays at `target_entropy`."""
    through_model: bool = False
    """The actor's gradient goes back through `rollout.look_ahead` model steps before the critic takes over (SVG)."""
    activation: Literal["relu", "silu", "tanh"] = "relu"
    """Between the layers of actor and critics."""
    normalise_obs: bool = False
    """Standardise observations by the statistics of the real data, which are measured anew at each fit."""
    reset_optimizer: bool = False
    """Forget Adam's moments at each fit."""
    critic_warmup: Natural = 0
    """Updates of the critics alone after each fit."""
    critic: CriticConfig = field(default_factory=CriticConfig)

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        ahead, discrete = self.critic.expand != "none" or self.through_model, False if self.through_model else None
        return Traits(
            discrete=discrete, critic=self.critic, scales=True, looks_ahead=ahead, through_model=self.through_model
        )


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

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        return Traits(discrete=False, critic=self.critic, looks_ahead=self.critic.expand != "none")


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

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        return Traits(discrete=True, critic=self.critic, looks_ahead=self.critic.expand != "none")


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

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        return Traits(discrete=True, tabular=True, online=True)


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

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        return Traits(learns_from="rollouts", rules=(_fits_squash(self.squash, self.init_std),))


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

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        rules = (_fits_squash(self.squash, self.init_std),)
        return Traits(learns_from="rollouts", discrete=False, through_model=True, rules=rules)


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

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        fewer = self.elites <= self.candidates, "elites", f"<= agent.candidates = {self.candidates}"
        return Traits(learns_from="plans", discrete=False, rules=(fewer,))


def _fits_squash(squash: bool, init_std: float) -> tuple[bool, str, str]:
    return not squash or 1e-4 <= init_std <= 7.0, "init_std", ">= 0.0001 and <= 7 with agent.squash"


@dataclass(frozen=True)
class OwnAgentConfig:
    """An agent of one's own: `--agent module:make_agent`, a function `(WorldSpec, **args) -> Agent`."""

    kind: Literal["own"] = "own"
    """Whatever the function returns."""
    factory: str = ""
    """The function, `module:function`; its module is looked for in the current directory, then where Python looks."""
    args: tuple[str, ...] = ()
    """What else it is given, each as `name=value`."""
    discount: Fraction = 0.99
    """Gamma of its values, where it has any: for what is measured of its critic."""
    looks_ahead: bool = False
    """Its updates roll the model out themselves (`sources.ahead`), `rollout.look_ahead` steps."""
    reads: Literal["as built", "replay", "rollouts", "plans"] = "as built"
    """What its updates read: the agent itself says that (`Agent.learns_from`), and the run writes it down here."""

    @property
    def traits(self) -> Traits:
        """What is said of the agent."""
        reads = None if self.reads == "as built" else self.reads
        named = ":" in self.factory, "factory", "module:function, which --agent names as well"
        return Traits(learns_from=reads, looks_ahead=self.looks_ahead, rules=(named,))


AgentConfig = (
    SACConfig
    | TD3Config
    | DQNConfig
    | QLearningConfig
    | PolicyGradientConfig
    | PathwiseConfig
    | PlannerConfig
    | OwnAgentConfig
)
