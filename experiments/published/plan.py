"""What is run: the tasks, the methods, the seeds, and their settings. Loads no JAX."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from branchax.config import Config
from branchax.errors import ConfigError, nearest
from branchax.presets import preset
from experiments.variants import varied

RUNS, RESULTS = Path("runs/published"), Path("results/published")
REPORTED = 100  # the first seed that results are reported of; those below are for development, and never published
EPISODES = 10  # of an evaluation, by the policy's mode
SAVED_EVERY = 1_000  # real steps between checkpoints, about: minutes on one core


class Task(NamedTuple):
    """One of Gymnasium's tasks, `gym/<name>-v5`."""

    steps: int  # real steps of a run, unless it is told
    every: int  # real steps between evaluations, about: epochs are whole
    marks: tuple[int, ...]  # the steps of the tables
    world_args: tuple[str, ...] = ()  # of Gymnasium's `make`


_LATE = (10_000, 20_000, 30_000, 50_000, 75_000, 100_000, 200_000, 300_000, 500_000)
_EARLY = (1_000, 2_000, 3_000, 5_000, 8_000, 10_000)


def _without(*parts: str) -> tuple[str, ...]:
    """Arguments that leave these parts out of the observation."""
    return tuple(f"include_{part}_in_observation=False" for part in parts)


TASKS = {
    "InvertedPendulum": Task(3_000, 250, _EARLY),
    "InvertedDoublePendulum": Task(5_000, 500, _EARLY),
    "Reacher": Task(10_000, 1_000, _EARLY),
    "Swimmer": Task(50_000, 1_000, _LATE),
    "Hopper": Task(50_000, 1_000, _LATE),
    "Walker2d": Task(50_000, 1_000, _LATE),
    "HalfCheetah": Task(50_000, 1_000, _LATE),
    # Without forces and inertias, as papers on learned models have them: 27 and 45 entries.
    "Ant": Task(50_000, 2_000, _LATE, _without("cfrc_ext")),
    "Humanoid": Task(50_000, 5_000, _LATE, _without("cinert", "cvel", "qfrc_actuator", "cfrc_ext")),
}
# The published method that a preset is the counterpart of.
COUNTERPART = {
    "dhmbpo": "DHMBPO",
    "dhmbpo_small": "DHMBPO",
    "mbpo_paper": "MBPO",
    "mbpo_paper+explore": "MBPO",
    "mbpo": "MBPO",
    "sac": "SAC",
}


class Arm(NamedTuple):
    """Runs that differ in their seeds alone."""

    task: str
    method: str  # a preset, or `preset+variant` (`experiments.variants`)
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
    Arm("Walker2d", "sac"),
    Arm("Walker2d", "mbpo"),
    Arm("HalfCheetah", "sac", steps=30_000),
    Arm("HalfCheetah", "mbpo", steps=30_000),
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
    config = varied(preset(name, arm.world), *variants)
    every = every or TASKS[arm.task].every
    return replace(
        config,
        world_args=TASKS[arm.task].world_args,
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
