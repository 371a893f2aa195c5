"""What is run: the tasks, the methods, the seeds, and their settings. Loads no JAX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from branchax.config import Config, with_field
from branchax.errors import ConfigError, nearest
from branchax.presets import preset

RUNS, RESULTS = Path("runs/published"), Path("results/published")
REPORTED = 100  # the first seed that results are reported of; 0 to 9 are for development, and never published
EPISODES = 10  # of an evaluation, by the policy's mode
SAVED_EVERY = 1_000  # real steps between checkpoints, about: minutes on one core


class Task(NamedTuple):
    """One of Gymnasium's tasks, `gym/<name>-v5`."""

    steps: int  # real steps of a run, unless it is told
    every: int  # real steps between evaluations, about: epochs are whole
    marks: tuple[int, ...]  # the steps of the tables


_LATE = (10_000, 20_000, 30_000, 50_000, 75_000, 100_000, 200_000, 300_000, 500_000)
_EARLY = (1_000, 2_000, 3_000, 5_000, 8_000, 10_000)
TASKS = {
    "InvertedPendulum": Task(3_000, 250, _EARLY),
    "InvertedDoublePendulum": Task(5_000, 500, _EARLY),
    "Reacher": Task(10_000, 1_000, _EARLY),
    "Swimmer": Task(50_000, 1_000, _LATE),
    "Hopper": Task(50_000, 1_000, _LATE),
    "Walker2d": Task(50_000, 1_000, _LATE),
    "HalfCheetah": Task(50_000, 1_000, _LATE),
    "Ant": Task(50_000, 2_000, _LATE),
    "Humanoid": Task(50_000, 5_000, _LATE),
}
# What a method may be with one thing changed: `dhmbpo+tf32`.
VARIANTS: dict[str, dict[str, Any]] = {
    "tf32": {"precision": "default"},
    # The double horizon without one of its pieces (without spreading states it is `svg5`), or with more of one.
    "ahead1": {"rollout.look_ahead": 1},
    "ahead3": {"rollout.look_ahead": 3},
    "ahead7": {"rollout.look_ahead": 7},
    "spread40": {"rollout.horizon": 40},
    "twice": {"updates_per_step": 2.0, "first_updates": 10_000},
    "relu": {"agent.activation": "relu"},
    "raw": {"agent.normalise_obs": False},
    "unscaled": {"agent.critic.scale": "none"},
    "possible": {"agent.critic.scale": "possible"},
    "no_norm": {"agent.critic.pre_norm": False, "model.pre_norm": False},
    "no_dropout": {"agent.critic.dropout": 0.0, "model.dropout": 0.0},
    "no_warmup": {"agent.critic_warmup": 0},
    "no_reset": {"agent.reset_optimizer": False},
    "in_range": {"model.bound_margin": 0.0},
    # What is suspected of MBPO's fallen seeds (docs/reproduction.md); with `long_fits`, `possible` and `quiet`.
    "layer_norm": {"agent.critic.layer_norm": True},
    "entropy": {"agent.target_entropy": -3.0},
    "quiet": {"agent.init_std": 0.0184},  # the noise that SAC began with before 0.2.0
    "short_fits": {"model.max_rounds": 10},
    "long_fits": {"model.max_rounds": 100, "model.patience": 15},
    "measured": {"model.noise": "measured"},
    "weights": {"model.bootstrap": "weights"},
    "mixture": {"model.stop": "mixture"},
}
# The published method that a preset is the counterpart of.
COUNTERPART = {"dhmbpo": "DHMBPO", "dhmbpo_small": "DHMBPO", "mbpo_paper": "MBPO", "mbpo": "MBPO", "sac": "SAC"}


class Arm(NamedTuple):
    """Runs that differ in their seeds alone."""

    task: str
    method: str  # a preset, or `preset+variant`
    seeds: int = 3
    steps: int = 0  # 0: as the task has it

    @property
    def name(self) -> str:
        return f"{self.task}_{self.method}"

    @property
    def world(self) -> str:
        return f"gym/{self.task}-v5"

    @property
    def env_steps(self) -> int:
        return self.steps or TASKS[self.task].steps


# What `python -m experiments.published` goes through, in this order.
PLAN = (
    Arm("InvertedPendulum", "sac"),
    Arm("InvertedPendulum", "mbpo"),
    Arm("Hopper", "dhmbpo_small"),
    Arm("Hopper", "sac"),
    Arm("Hopper", "mbpo"),
    Arm("Walker2d", "dhmbpo_small"),
    Arm("HalfCheetah", "dhmbpo_small", steps=30_000),
    Arm("InvertedPendulum", "dhmbpo_small", steps=8_000),  # it explores for 4,000
    Arm("Hopper", "dhmbpo"),
    Arm("Walker2d", "dhmbpo"),
    Arm("HalfCheetah", "dhmbpo"),
    Arm("Ant", "dhmbpo"),
    Arm("Humanoid", "dhmbpo"),
)


def check_task(task: str) -> None:
    """Raises `ConfigError` for a task that is not in `TASKS`."""
    if task not in TASKS:
        raise ConfigError(f"task: {task!r} is unknown{nearest(task, TASKS)}; allowed: {', '.join(TASKS)}")


def config_of(
    arm: Arm, first: int = REPORTED, count: int = 1, every: int | None = None, saved: int = SAVED_EVERY
) -> Config:
    """The settings of a run of `count` seeds from `first` on: the preset's own, but for how long and how it is watched.

    Args:
      arm: task, method, real steps.
      first: the first seed.
      count: seeds side by side in one program.
      every: real steps between evaluations; by default the task's.
      saved: real steps between checkpoints.

    Raises:
      ConfigError: for an unknown task, preset or variant.
    """
    check_task(arm.task)
    name, *variants = arm.method.split("+")
    config = preset(name, arm.world)
    for variant in variants:
        if variant not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise ConfigError(f"preset: {variant!r} is no variant{nearest(variant, VARIANTS)}; allowed: {known}")
        for path, value in VARIANTS[variant].items():
            config = with_field(config, path, value)
    every = every or TASKS[arm.task].every
    return replace(
        config,
        seed=first,
        seeds=count,
        env_steps=arm.env_steps,
        eval_every=max(1, round(every / config.epoch_steps)),
        eval_episodes=EPISODES,
        checkpoint_every=max(1, round(saved / config.epoch_steps)),
    )


def directory_of(arm: Arm, first: int, count: int = 1, folder: Path = RUNS) -> Path:
    """Where a run of these seeds lies."""
    return folder / f"{arm.name}_s{first}{f'-{first + count - 1}' if count > 1 else ''}"
