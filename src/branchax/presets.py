"""The methods, as values: a preset is a `Config` literal, and a world may bring settings that a paper reports."""

from __future__ import annotations

import dataclasses
from typing import Any

from branchax.config import Config, ConfigError, ModelConfig, RolloutConfig, SACConfig, nearest

PRESETS: dict[str, Config] = {
    # Short branched rollouts, sized for a laptop: the same method as `mbpo_paper` with smaller networks.
    "mbpo": Config(
        model=ModelConfig(hidden=(64, 64, 64)),
        agent=SACConfig(hidden=(64, 64), learning_rate=1e-3),
        explore_steps=250,
        env_steps=4_000,
    ),
    # MBPO at the sizes of its paper (Janner et al. 2019, arXiv:1906.08253).
    "mbpo_paper": Config(),
    # The model-free baseline: the same code with nothing imagined.
    "sac": Config(
        rollout=RolloutConfig(horizon=0),
        real_fraction=1.0,
        agent=SACConfig(hidden=(64, 64), learning_rate=1e-3),
        explore_steps=250,
        env_steps=4_000,
    ),
    # MBPO with the simulator in place of the model: what is left of the error is not the model's.
    "oracle_mbpo": Config(
        model=ModelConfig(kind="oracle"),
        agent=SACConfig(hidden=(64, 64), learning_rate=1e-3),
        explore_steps=250,
        env_steps=4_000,
    ),
}

ABOUT: dict[str, str] = {
    "mbpo": "short branched rollouts in a learned ensemble, improved by SAC; sized for a laptop",
    "mbpo_paper": "the same at the MBPO paper's sizes: 7 x (4 x 200), SAC 2 x 256, 400 rollouts per step",
    "sac": "model-free soft actor-critic: the same code at horizon 0",
    "oracle_mbpo": "mbpo with the simulator itself as the model",
}

# What a world changes, for every preset that has the field (dotted path -> value).
WORLD_SETTINGS: dict[str, dict[str, Any]] = {}


def preset(name: str, world: str | None = None) -> Config:
    """The config of a preset, with the world's own settings applied. Raises `ConfigError` for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is unknown{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}")
    config = PRESETS[name]
    return config if world is None else dataclasses.replace(config, world=world)
