"""The settings of the agents, one dataclass per agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from branchax.config.critic import CriticConfig, Traits
from branchax.config.fields import Count, Fraction, Natural, NonNegative, OptionalCount, Positive, Range


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
    """Step size of the target critics' Polyak average."""
    target_entropy: Annotated[float | None, Range(-1e9, 1e9)] = None
    """Nats. Default: `entropy_per_action` times the number of action entries (discrete actions: half the maximum)."""
    entropy_per_action: Annotated[float, Range(-5, 5)] = -0.5
    """Target entropy per entry of a continuous action, in nats."""
    init_std: Annotated[float, Range(1e-4, 7)] = 0.5
    """Initial standard deviation of the policy's noise before squashing (continuous actions)."""
    init_temperature: Annotated[float, Range(1e-9, 1e9)] = 0.1
    """Initial alpha."""
    learn_temperature: bool = True
    """Adjust alpha so that the policy's entropy stays at `target_entropy`."""
    through_model: bool = False
    """The actor's gradient goes through `rollout.look_ahead` model steps, then through the critic (SVG)."""
    value_before_end: bool = False
    """With `critic.expand fresh`: a rollout that ends has the critics' value of its last action in the actor's
    objective. An end has no derivative: otherwise the gradient follows only the rollouts that go on."""
    activation: Literal["relu", "silu", "tanh"] = "relu"
    """Activation of actor and critics."""
    normalise_obs: bool = False
    """Standardise observations by the statistics of the real data, computed again at each fit."""
    reset_optimizer: bool = False
    """Reset Adam's moments at each fit."""
    critic_warmup: Natural = 0
    """Updates of only the critics after each fit."""
    critic: CriticConfig = field(default_factory=CriticConfig)

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        ahead = self.critic.expand != "none" or self.through_model
        discrete = False if self.through_model or self.critic.atoms else None
        fresh = not self.value_before_end or self.critic.expand == "fresh"
        layered = self.critic.dropout == 0 or self.hidden != ()
        return Traits(
            discrete=discrete,
            critic=self.critic,
            scales=True,
            looks_ahead=ahead,
            through_model=self.through_model,
            rules=(
                (fresh, "value_before_end", "false: it needs agent.critic.expand fresh"),
                (layered, "critic.dropout", "0: agent.hidden = () has no layers to drop from"),
            ),
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
    """Step size of the target networks' Polyak average."""
    policy_delay: Count = 2
    """Critic updates per update of the actor and the targets."""
    exploration: NonNegative = 0.1
    """Standard deviation of the noise added to every action taken."""
    target_noise: NonNegative = 0.2
    """Standard deviation of the noise added to the target policy's actions."""
    target_noise_clip: NonNegative = 0.5
    """Largest absolute value of that noise."""
    critic: CriticConfig = field(default_factory=CriticConfig)

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        ahead = self.critic.expand != "none"
        return Traits(discrete=False, critic=self.critic, looks_ahead=ahead, updates_at_once=self.policy_delay)


@dataclass(frozen=True)
class DQNConfig:
    """Deep Q-learning (Mnih et al. 2015), double (van Hasselt et al. 2016) and dueling (Wang et al. 2016)."""

    kind: Literal["dqn"] = "dqn"
    """Off-policy, for discrete actions."""
    hidden: tuple[Count, ...] = (64, 64)
    """Widths of the hidden layers; without hidden layers, Q is linear (on a tabular environment: a table)."""
    learning_rate: Positive = 1e-3
    """Adam's step size."""
    discount: Fraction = 0.99
    """Gamma."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.005
    """Step size of the target critics' Polyak average."""
    epsilon: Fraction = 0.1
    """Probability of a uniformly random action."""
    double: bool = True
    """Double Q-learning: the online critics choose the next action, and the target critics give its value."""
    dueling: bool = False
    """Dueling heads: Q = V + A - mean A, from one trunk."""
    critic: CriticConfig = field(default_factory=lambda: CriticConfig(members=1))

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        return Traits(discrete=True, critic=self.critic, looks_ahead=self.critic.expand != "none")


@dataclass(frozen=True)
class QLearningConfig:
    """Q-learning with a table (Watkins 1989), one transition at a time; with a model, tabular Dyna-Q."""

    kind: Literal["q_learning"] = "q_learning"
    """Off-policy, for environments with few states and discrete actions."""
    learning_rate: Annotated[float, Range(0, 1, above=True)] = 0.1
    """Alpha."""
    discount: Fraction = 0.95
    """Gamma."""
    epsilon: Fraction = 0.1
    """Probability of a uniformly random action."""

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        return Traits(discrete=True, tabular=True, online=True)


@dataclass(frozen=True)
class PolicyGradientConfig:
    """Likelihood-ratio gradients. These fields select REINFORCE, advantage actor-critic or PPO."""

    kind: Literal["policy_gradient"] = "policy_gradient"
    """On-policy: learns on fresh rollouts of its own policy in every update."""
    weight: Literal["to_go", "baseline", "gae"] = "gae"
    """Weight of the score: `to_go`: rewards to go; `baseline`: rewards to go minus a learned value; `gae`: generalised
    advantage estimates."""
    gae_lambda: Fraction = 0.95
    """Lambda of the advantage estimates."""
    passes: Count = 1
    """Passes over the rollouts of one update."""
    minibatches: Count = 1
    """Gradient steps per pass."""
    clip: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """PPO's clip range: the probability ratio is clipped to 1 +- clip. Default: no clipping."""
    kl_penalty: NonNegative = 0.0
    """Initial weight of KL(old policy || new); it doubles or halves to keep the divergence near `kl_target`."""
    kl_target: Positive = 0.01
    """Target KL per update, in nats (used with `kl_penalty`)."""
    kl_stop: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """An update stops early once its KL exceeds this, in nats. Default: never."""
    kl_budget: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """Largest KL between two collections, in nats. The update that exceeds it is undone, and the rest of the round is
    skipped. Default: unlimited."""
    entropy_weight: NonNegative = 0.0
    """Weight of the policy's entropy in the objective."""
    normalise: bool = True
    """Standardise the advantages of each update."""
    hidden: tuple[Count, ...] = (64, 64)
    """Widths of the policy's hidden layers; without hidden layers, its mean is linear."""
    value_hidden: tuple[Count, ...] = (64, 64)
    """Widths of the value network's hidden layers."""
    init_std: Positive = 0.5
    """Initial standard deviation of the Gaussian policy, in units of half the actuators' range."""
    squash: bool = False
    """Squash actions by tanh; otherwise the environment clips them."""
    learning_rate: Positive = 3e-4
    """Adam's step size for the policy."""
    value_learning_rate: Positive = 1e-3
    """Adam's step size for the value."""
    value_passes: Count = 1
    """Gradient steps of the value per step of the policy."""
    max_gradient_norm: Annotated[float | None, Range(0, 1e9, above=True)] = 0.5
    """Gradients with a larger norm are scaled down to this norm."""
    discount: Fraction = 0.99
    """Gamma."""

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        return Traits(
            learns_from="rollouts",
            minibatches=self.minibatches,
            has_budget=self.kl_budget is not None,
            rules=(_fits_squash(self.squash, self.init_std),),
        )


@dataclass(frozen=True)
class PathwiseConfig:
    """Gradients through the model and the policy. These fields select SVG(infinity), SVG(k), APG or SHAC."""

    kind: Literal["pathwise"] = "pathwise"
    """On-policy: differentiates through fresh rollouts of its own policy in every update."""
    deterministic: bool = False
    """Use a policy without noise. Otherwise it is a reparameterised Gaussian."""
    critic: bool = True
    """Bootstrap with a learned value where rollouts are cut."""
    window: OptionalCount = None
    """Cut the derivative after this many steps; with a critic, its slope replaces the missing part. Default: no cut."""
    gae_lambda: Fraction = 0.95
    """Lambda of the returns that the value is fitted to."""
    tau: Annotated[float, Range(0, 1, above=True)] = 0.05
    """Step size of the target value's Polyak average."""
    value_passes: Count = 8
    """Gradient steps of the value per update."""
    hidden: tuple[Count, ...] = (64, 64)
    """Widths of the policy's hidden layers; without hidden layers, its mean is linear."""
    value_hidden: tuple[Count, ...] = (64, 64)
    """Widths of the value network's hidden layers."""
    init_std: Positive = 0.3
    """Initial standard deviation of the Gaussian policy, in units of half the actuators' range."""
    squash: bool = True
    """Squash actions by tanh (clipped actions have no derivative)."""
    learning_rate: Positive = 1e-3
    """Adam's step size for the policy."""
    value_learning_rate: Positive = 1e-3
    """Adam's step size for the value."""
    max_gradient_norm: Annotated[float | None, Range(0, 1e9, above=True)] = 1.0
    """Gradients with a larger norm are scaled down to this norm."""
    discount: Fraction = 0.99
    """Gamma."""

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        rules = (_fits_squash(self.squash, self.init_std),)
        return Traits(learns_from="rollouts", discrete=False, through_model=True, rules=rules)


@dataclass(frozen=True)
class PlannerConfig:
    """Planning in the model at every step. These fields select random shooting, CEM, iCEM or MPPI."""

    kind: Literal["planner"] = "planner"
    """Learns no policy: it searches over action sequences in the latest model (PETS)."""
    horizon: Count = 25
    """Steps in a plan."""
    candidates: Count = 200
    """Plans evaluated in the first iteration."""
    iterations: Count = 5
    """Iterations per environment step. Each draws plans, evaluates them and fits the next distribution."""
    elites: Count = 20
    """Number of best plans that the next distribution is fitted to (MPPI: all plans)."""
    temperature: Annotated[float | None, Range(0, 1e9, above=True)] = None
    """Elites are weighted by exp(return / temperature), in the return's units (MPPI). Default: equal weights (CEM)."""
    momentum: Fraction = 0.1
    """Weight of the old mean in a fit."""
    std_momentum: Fraction = 0.1
    """Weight of the old standard deviation in a fit; 1 keeps it at `init_std` (MPPI)."""
    init_std: Positive = 0.5
    """Standard deviation in the first iteration of each step, in units of half the actuators' range."""
    uniform: bool = False
    """Draw actions uniformly from mean +- std, not from a Gaussian (random shooting: with `init_std` 1)."""
    noise_exponent: Annotated[float, Range(0, 10)] = 0.0
    """Beta: the power of the noise along a plan falls as 1 / frequency^beta (iCEM). 0 is white noise."""
    keep: Fraction = 0.0
    """Fraction of the elites evaluated again in the next iteration and, shifted, at the next step (iCEM)."""
    decay: Annotated[float, Range(1, 1e9)] = 1.0
    """Each iteration divides the number of plans by this, down to two per elite (iCEM)."""
    warm_start: bool = True
    """Start from the previous step's mean, shifted by one step; otherwise from zero."""
    execute: Literal["mean", "best"] = "mean"
    """Take the first action of the fitted mean, or of the best plan in the last iteration."""
    particles: Count = 1
    """Rollouts of each plan in each elite member; a plan's score is the mean return of all of them."""
    discount: Fraction = 1.0
    """Gamma."""

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        fewer = self.elites <= self.candidates, "elites", f"<= agent.candidates = {self.candidates}"
        return Traits(learns_from="plans", discrete=False, rules=(fewer,))


def _fits_squash(squash: bool, init_std: float) -> tuple[bool, str, str]:
    return not squash or 1e-4 <= init_std <= 7.0, "init_std", ">= 0.0001 and <= 7 with agent.squash"


AS_BUILT = "as built"  # the value of `OwnAgentConfig.reads` until the agent is built


@dataclass(frozen=True)
class OwnAgentConfig:
    """Your own agent: `--agent module:make_agent`, a function `(WorldSpec, **args) -> Agent`."""

    kind: Literal["own"] = "own"
    """The agent that the function returns."""
    factory: str = ""
    """The function, as `module:function`. Its module is searched in the current directory, then in Python's path."""
    args: tuple[str, ...] = ()
    """Further arguments of the function, each as `name=value`. A value is JSON, a Python literal or a plain word; true,
    false and none, however they are written, are no words."""
    discount: Fraction = 0.99
    """Gamma of its critic, if it has one (only for diagnostics)."""
    looks_ahead: bool = False
    """Whether its updates roll out the model (`sources.ahead`), `rollout.look_ahead` steps."""
    reads: Literal["as built", "replay", "rollouts", "plans"] = "as built"
    """Which data its updates read. The run records `Agent.learns_from` here; do not set it."""

    @property
    def traits(self) -> Traits:
        """The agent's properties."""
        reads = None if self.reads == AS_BUILT else self.reads
        named = ":" in self.factory, "factory", "module:function (also --agent module:function)"
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
