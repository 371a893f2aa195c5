"""Configs to begin with: a method's preset, with what a world brings to it, at one's own or a paper's sizes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from branchax.config import Config, SACConfig
from branchax.config.fields import check_ranges, with_fields
from branchax.errors import ConfigError, nearest
from branchax.presets.methods import ABOUT, PRESETS
from branchax.presets.tasks import WORLD_SETTINGS, settings_of

__all__ = ["ABOUT", "PRESETS", "WORLD_SETTINGS", "at_paper_sizes", "preset"]


def at_paper_sizes(config: Config) -> Config:
    """A config at the sizes of MBPO's paper, the defaults of `Config`: 7 x (4 x 200), 2 x 256, 400 rollouts per step.

    What makes the method is left as it is. Raises `ConfigError` for agents that the paper has no sizes for.
    """
    paper, agent = Config(), SACConfig()
    if config.agent.traits.critic is None:
        known = ", ".join(name for name, preset in PRESETS.items() if preset.agent.traits.critic is not None)
        raise ConfigError(f"paper: MBPO's paper has no sizes for {config.agent.kind!r}; allowed: {known}")
    model, rollout = config.model, config.rollout
    if model.has_networks:
        sizes = ("members", "elites", "hidden", "round_steps", "max_rounds")
        all_kept = model.elites == model.members  # a part of the method
        model = replace(model, **{name: getattr(paper.model, name) for name in sizes})
        model = replace(model, elites=model.members) if all_kept else model
    if rollout.horizon:
        rollout = replace(rollout, per_step=paper.rollout.per_step, groups=paper.rollout.groups)
    return replace(
        config,
        env_steps=paper.env_steps,
        explore_steps=paper.explore_steps,
        model=model,
        rollout=rollout,
        agent=replace(config.agent, hidden=agent.hidden, learning_rate=agent.learning_rate),
    )


def preset(name: str, world: str | None = None, paper: bool = False, **fields: Any) -> Config:
    """The config of a preset, with the world's own settings and then `fields` applied.

        preset("mbpo", "classic/pendulum", env_steps=2_000, agent__tau=0.01, **{"model.hidden": (64, 64)})

    Args:
      name: of `branchax list`.
      world: where to act; by default the preset's own.
      paper: at the sizes of MBPO's paper.
      **fields: further settings by their paths, where `__` may stand for a dot.

    Raises:
      ConfigError: for an unknown name of a preset or a setting, or a value that is out of its range.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is unknown{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}")
    config = PRESETS[name]
    world = config.world if world is None else world
    config = replace(with_fields(config, settings_of(name, world)), world=world)
    config = at_paper_sizes(config) if paper else config
    if fields:
        config = with_fields(config, {path.replace("__", "."): value for path, value in fields.items()})
        check_ranges(config, "")
    return config
