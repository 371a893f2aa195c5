"""The settings of a run; they contain all others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from branchax.config.agents import AS_BUILT, AgentConfig, OwnAgentConfig, SACConfig
from branchax.config.fields import LARGEST, Count, Fraction, Natural, OptionalCount, Positive, Range
from branchax.config.model import ModelConfig
from branchax.config.rollout import RolloutConfig
from branchax.errors import ConfigError, nearest

LEAST_CAPACITY = 4_096  # smallest number of rows of the real buffer, unless `replay_capacity` is set


@dataclass(frozen=True)
class FaultConfig:
    """How a run reacts to non-finite numbers. Finite data and parameters are never affected."""

    world: Literal["stop", "drop"] = "stop"
    """In a real observation or reward: stop the run, or drop the row and start a new episode."""
    model: Literal["stop", "skip"] = "skip"
    """In a member of the ensemble: stop the run, or roll back only that member."""
    agent: Literal["stop", "skip"] = "skip"
    """In the agent's losses or gradients: stop the run, or skip the update."""


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """Evaluation, checkpoints, logs and devices of a run. They do not affect its result, so a resumed run may change
    them."""

    eval_every: Count = 1
    """Epochs between evaluations."""
    eval_episodes: Count = 16
    """Episodes per evaluation, run in parallel with the policy's mode."""
    checkpoint_every: Count = 10
    """Epochs between checkpoints; the last epoch is always saved."""
    checkpoints_kept: Count = 2
    """Number of newest checkpoints kept on disk."""
    keep_best: bool = False
    """Also keep the checkpoint with the highest evaluation return (mean over seeds)."""
    tensorboard: bool = True
    """Write the metrics for TensorBoard, to `tb/`."""
    wandb: bool = False
    """Send the metrics to Weights & Biases (pip install 'branchax[wandb]'). Its own variables apply, such as
    WANDB_MODE=offline."""
    grace: Annotated[float | None, Range(0, 1e9)] = None
    """Seconds the current epoch may still take after SIGTERM or Ctrl-C. After that, the state from before the epoch is
    saved instead. States over 256 MiB and multi-process runs keep no such copy; they fall back to the last checkpoint.
    Default: 3 with a copy, 20 without."""
    faults: FaultConfig = field(default_factory=FaultConfig)
    env_workers: Natural = 0
    """Number of processes that step environments on the host (Gymnasium's). 0: the run's own process."""
    devices: OptionalCount = None
    """Number of devices. Seeds are spread over them first, then rollouts and batches. Default: as in `mesh`, or the
    largest number that divides the seeds."""
    mesh: str | None = None
    """Layout of the devices. `seed=4,batch=2` spreads seeds over 4 devices, and each seed's imagined rollouts, model
    buffer and gradient batches over 2 (docs/scale.md)."""


@dataclass(frozen=True)
class Config(Upkeep):
    """One run. Every field can be set on the command line by its name."""

    world: str = "brax/inverted_pendulum"
    """The environment: a name from `branchax list`, or your own as `module:function` (the function returns it)."""
    backend: str = "generalized"
    """Brax's physics backend. With `spring` part of the state is hidden, so no model can be accurate."""
    episode_length: OptionalCount = None
    """Steps after which an episode is truncated. Default: the environment's own limit."""
    world_args: tuple[str, ...] = ()
    """Arguments of Gymnasium's `make`: NAME=VALUE ..., such as include_cfrc_ext_in_observation=False."""
    parallel_worlds: Count = 1
    """Number of real environments stepped in parallel."""
    seed: Natural = 0
    """The first seed."""
    seeds: Count = 1
    """Number of seeds trained in one program: `seed`, `seed + 1`, ..."""
    env_steps: Count = 5_000
    """Total number of real steps, including exploration; the last epoch is always completed."""
    explore_steps: Count = 500
    """Real steps with uniformly random actions before the first epoch."""
    dataset: str | None = None
    """A file of transitions (`runs/dataset.py`) for offline learning. There is no exploration and no collecting;
    `env_steps` only sets how long to train."""
    epoch_steps: Count = 250
    """Real steps per epoch. An epoch fits the model and imagines rollouts,
    then alternates collecting and updating; if it is one round, it collects first."""
    collect_steps: Count = 1
    """Real steps between two rounds of updates."""
    updates_per_step: Positive = 10.0
    """Gradient updates of the agent per real step."""
    first_updates: OptionalCount = None
    """Gradient updates in the first epoch, a multiple of those in later epochs. Default: as many as in later epochs."""
    batch_size: Count = 256
    """Transitions per update."""
    real_fraction: Fraction = 0.05
    """Fraction of real transitions in each batch; the others are imagined."""
    replay_capacity: OptionalCount = None
    """Size of the replay buffer, in real transitions. Default: large enough for all."""
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    agent: AgentConfig = field(default_factory=SACConfig)
    stages: str | None = None
    """Your own stages of an epoch: `module:name` of a `Stages` value or of a function that returns one."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Precision of matrix products. On a GPU, lower ones round to TF32 or less: faster, but training may fail silently
    (measurements: docs/how-to/gpu.md)."""

    @property
    def own_parts(self) -> dict[str, str]:
        """The names (`module:function`) of parts that are not the library's, by their fields."""
        named = {
            "world": self.world if ":" in self.world else "",
            "agent.factory": getattr(self.agent, "factory", ""),
            "model.factory": self.model.factory if self.model.is_own and not self.model_free else "",
            "stages": self.stages or "",
        }
        return {field: name for field, name in named.items() if name}

    # --- derived sizes ---

    def place_of(self, seed: int | None, run: object) -> int:
        """The place of a seed among those of a run, from 0 on; None is the first one.

        Raises `ConfigError`, which names the `run`, for a seed that is not its own.
        """
        last = self.seed + self.seeds - 1
        if seed is not None and not self.seed <= seed <= last:
            raise ConfigError(f"seed: {seed} is not in {run}; allowed: {self.seed} to {last}")
        return 0 if seed is None else seed - self.seed

    @property
    def model_free(self) -> bool:
        """Whether the run imagines nothing and builds no model."""
        return self.rollout.horizon == 0

    @property
    def on_policy(self) -> bool:
        """Whether the agent learns on fresh rollouts of its own policy instead of a buffer."""
        return self.agent.traits.learns_from == "rollouts"

    @property
    def looks_ahead(self) -> bool:
        """Whether updates roll out the model from the states of their batch."""
        return self.agent.traits.looks_ahead

    @property
    def stores_imagined(self) -> bool:
        """Whether imagined rollouts are stored in a buffer that batches are drawn from."""
        mixes = self.agent.traits.learns_from == "replay" and self.real_rows < self.batch_size
        return mixes and not self.model_free

    @property
    def discrete(self) -> bool | None:
        """Whether the agent needs discrete actions (True), continuous ones (False) or takes both (None)."""
        return self.agent.traits.discrete

    @property
    def plans(self) -> bool:
        """Whether the agent plans in the model as it acts and learns no policy."""
        return self.agent.traits.learns_from == "plans"

    @property
    def through_model(self) -> bool:
        """Whether the policy's gradient goes through the model."""
        return self.agent.traits.through_model

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
    def real_kept(self) -> int:
        """Largest number of stored real transitions, rounded up to whole holdout blocks."""
        wanted = self.replay_capacity or self.explore_steps + self.epochs * self.epoch_steps
        return -(-wanted // self.model.holdout_every) * self.model.holdout_every

    @property
    def real_capacity(self) -> int:
        """Rows of the real buffer, in whole holdout blocks: `replay_capacity`, or the next power of two that holds all
        transitions, so that runs of different lengths often share compiled programs."""
        if self.replay_capacity is not None:
            return self.real_kept
        wanted = 1 << (max(LEAST_CAPACITY, self.real_kept) - 1).bit_length()
        return -(-wanted // self.model.holdout_every) * self.model.holdout_every

    @property
    def rollouts(self) -> int:
        """Rollouts imagined at a time (on-policy: per update), rounded up to whole groups."""
        return self.rollouts_of(self.on_policy)

    def rollouts_of(self, on_policy: bool) -> int:
        """`rollouts` of an on-policy or off-policy agent."""
        every = self.rollout.every
        steps = self.epoch_steps if every is None else math.ceil(every / self.updates_per_step)
        wanted = self.rollout.per_update if on_policy else self.rollout.per_step * steps
        return -(-wanted // self.rollout.groups) * self.rollout.groups

    @property
    def imagined_capacity(self) -> int:
        """Rows of the model buffer, for the largest horizon that the run reaches; 0 if there is none."""
        return (
            self.rollouts * self.rollout.reached(self.env_steps) * self.rollout.keep_epochs
            if self.stores_imagined
            else 0
        )

    @property
    def most_seeds(self) -> int:
        """Largest number of seeds in one program, of one run or several: 32-bit counters count all seeds' rows."""
        return LARGEST // max(self.real_capacity, self.imagined_capacity, 1)

    @property
    def updates_per_round(self) -> int:
        """Updates after each `collect_steps` real steps."""
        return round(self.updates_per_step * self.collect_steps)

    @property
    def first_repeats(self) -> int:
        """How many rounds of updates the first epoch makes."""
        return 1 if self.first_updates is None else max(1, round(self.first_updates / self.updates_per_round))

    @property
    def mesh_shape(self) -> tuple[int, int] | None:
        """Devices along the axes `seed` and `batch`; `None`: chosen from the available devices.

        Raises:
          ConfigError: when `mesh` cannot be parsed.
        """
        if self.mesh is not None:
            return _parse_mesh(self.mesh)
        if self.devices is None:
            return None
        over_seeds = math.gcd(self.devices, self.seeds)
        return over_seeds, self.devices // over_seeds


MESH_AXES = ("seed", "batch")


def _parse_mesh(text: str) -> tuple[int, int]:
    sizes = dict.fromkeys(MESH_AXES, 1)
    for part in text.split(","):
        name, _, size = part.strip().partition("=")
        if name not in sizes:
            raise ConfigError(f"mesh: {name!r} is not an axis{nearest(name, sizes)}; allowed: such as seed=4,batch=2")
        if not size.isdecimal() or not 1 <= int(size) <= LARGEST:
            raise ConfigError(f"mesh: {part.strip()!r} is not possible; allowed: {name}=N with N >= 1")
        sizes[name] = int(size)
    return sizes["seed"], sizes["batch"]


def with_own(
    config: Config, agent: str | None = None, model: str | None = None, args: tuple[str, ...] | None = None
) -> Config:
    """`config` with an agent or a model of one's own, by their names `module:function`; None: as it is.

    If the agent was one of one's own before, its other settings stay, and so do the arguments of the same function.
    """
    if agent is not None:
        before = config.agent
        own = before if isinstance(before, OwnAgentConfig) else OwnAgentConfig(discount=before.discount)
        given = args or (own.args if own.factory in ("", agent) else ())  # those of another function are not its own
        config = replace(config, agent=replace(own, factory=agent, args=given, reads=AS_BUILT))
    if model is not None:
        config = replace(config, model=replace(config.model, kind="own", factory=model))
    return config
