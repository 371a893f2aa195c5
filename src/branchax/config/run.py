"""The knobs of a run, which hold all others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from branchax.config.agents import (
    AgentConfig,
    SACConfig,
)
from branchax.config.fields import LARGEST, Count, Fraction, Natural, OptionalCount, Positive, Range
from branchax.config.model import ModelConfig
from branchax.config.rollout import RolloutConfig
from branchax.errors import ConfigError, nearest

LEAST_CAPACITY = 4_096  # rows of the real buffer, unless `replay_capacity` says how many


@dataclass(frozen=True)
class FaultConfig:
    """What is done about a number that is not finite. Whatever it is, nothing that is good is touched by it."""

    world: Literal["stop", "drop"] = "stop"
    """Observations and rewards of the real world: end the run, or leave the row out and start a new episode."""
    model: Literal["stop", "skip"] = "skip"
    """A member of the ensemble: end the run, or roll that member back, alone, to what it was."""
    agent: Literal["stop", "skip"] = "skip"
    """Losses and gradients of the agent: end the run, or leave the update out."""


@dataclass(frozen=True, kw_only=True)
class Upkeep:
    """How a run is looked after and where it is computed: no part of what it computes, so all of it may change when the
    run goes on."""

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


@dataclass(frozen=True)
class Config(Upkeep):
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
    """A file of transitions (`runs/dataset.py`) to learn from offline: nothing is explored or collected, and
    `env_steps` only says how long to train."""
    epoch_steps: Count = 250
    """Real steps per epoch; an epoch fits the model, imagines, then alternates collecting and improving."""
    collect_steps: Count = 1
    """Real steps between two rounds of updates."""
    updates_per_step: Positive = 10.0
    """Gradient updates of the agent per real step."""
    first_updates: OptionalCount = None
    """Gradient updates in the first epoch, a multiple of those of the others. Default: as many as in the others."""
    batch_size: Count = 256
    """Transitions per update."""
    real_fraction: Fraction = 0.05
    """Share of each batch that is real; the rest is imagined."""
    replay_capacity: OptionalCount = None
    """Real transitions kept, in a buffer of just that size; the default keeps all."""
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    agent: AgentConfig = field(default_factory=SACConfig)
    stages: str | None = None
    """Stages of one's own for an epoch: `module:name` of a `Stages` value, or of a function that returns one."""
    precision: Literal["highest", "high", "default"] = "highest"
    """Of matrix products. On a GPU anything below `highest` rounds to TF32 or less: faster, and it can break training
    quietly (docs/how-to/gpu.md has what was measured)."""

    # --- derived sizes ---

    @property
    def model_free(self) -> bool:
        """Whether nothing is imagined, so that no model is built at all."""
        return self.rollout.horizon == 0

    @property
    def on_policy(self) -> bool:
        """Whether the agent learns on fresh rollouts of its own policy, and not from a buffer."""
        return self.agent.traits.learns_from == "rollouts"

    @property
    def looks_ahead(self) -> bool:
        """Whether updates roll the model out themselves, from the states of their batch."""
        return self.agent.traits.looks_ahead

    @property
    def stores_imagined(self) -> bool:
        """Whether rollouts are imagined at the start of an epoch, into a buffer that batches draw on."""
        mixes = self.agent.traits.learns_from == "replay" and self.real_rows < self.batch_size
        return mixes and not self.model_free

    @property
    def discrete(self) -> bool | None:
        """Whether the agent needs discrete actions (True), continuous ones (False) or takes both (None)."""
        return self.agent.traits.discrete

    @property
    def plans(self) -> bool:
        """Whether the agent plans in the model as it acts, and learns nothing else."""
        return self.agent.traits.learns_from == "plans"

    @property
    def through_model(self) -> bool:
        """Whether the policy's gradient goes back through the model."""
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
        """Real transitions that there are at most, rounded up to whole holdout blocks."""
        wanted = self.replay_capacity or self.explore_steps + self.epochs * self.epoch_steps
        return -(-wanted // self.model.holdout_every) * self.model.holdout_every

    @property
    def real_capacity(self) -> int:
        """Rows of the real buffer, in whole holdout blocks: `replay_capacity`, or a power of two with room for all, so
        that runs of other lengths mostly share their compiled programs."""
        if self.replay_capacity is not None:
            return self.real_kept
        wanted = 1 << (max(LEAST_CAPACITY, self.real_kept) - 1).bit_length()
        return -(-wanted // self.model.holdout_every) * self.model.holdout_every

    @property
    def rollouts(self) -> int:
        """Imagined rollouts per imagining (on-policy: per update), rounded up to whole groups."""
        return self.rollouts_of(self.on_policy)

    def rollouts_of(self, on_policy: bool) -> int:
        """`rollouts` for an agent that learns on rollouts of its own policy, or does not."""
        every = self.rollout.every
        steps = self.epoch_steps if every is None else math.ceil(every / self.updates_per_step)
        wanted = self.rollout.per_update if on_policy else self.rollout.per_step * steps
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
    def first_repeats(self) -> int:
        """How many times the first epoch makes the updates of a round."""
        return 1 if self.first_updates is None else max(1, round(self.first_updates / self.updates_per_round))

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
