"""The methods, as values: a preset is a `Config` literal, and a world may bring settings that a paper reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from branchax.config import Config, ConfigError, ModelConfig, RolloutConfig, SACConfig, nearest, with_field

# Sized for a laptop's processor: a small world needs no 4 x 200, and time goes into updates, not into a perfect fit.
_MODEL = ModelConfig(members=5, elites=3, hidden=(64, 64, 64), round_steps=50, max_rounds=30)
_AGENT = SACConfig(hidden=(64, 64), learning_rate=1e-3)
_SMALL = Config(
    env_steps=4_000,
    explore_steps=250,
    model=_MODEL,
    rollout=RolloutConfig(per_step=100, groups=6),
    agent=_AGENT,
)

PRESETS: dict[str, Config] = {
    # Short branched rollouts (Janner et al. 2019, arXiv:1906.08253).
    "mbpo": _SMALL,
    # The same at the sizes of the paper.
    "mbpo_paper": Config(),
    # The model-free baseline: the same code with nothing imagined.
    "sac": replace(_SMALL, rollout=RolloutConfig(horizon=0), real_fraction=1.0),
    # The simulator in place of the model: what is left of the error is not the model's.
    "oracle_mbpo": replace(_SMALL, model=ModelConfig(kind="oracle")),
}

ABOUT: dict[str, str] = {
    "mbpo": "short branched rollouts in a learned ensemble, improved by SAC; sized for a laptop",
    "mbpo_paper": "the same at the MBPO paper's sizes: 7 x (4 x 200), SAC 2 x 256, 400 rollouts per step",
    "sac": "model-free soft actor-critic: the same code at horizon 0",
    "oracle_mbpo": "mbpo with the simulator itself as the model",
}

# Updates, target entropy and horizon of MBPO's own configurations (its code, examples/config), for whatever preset can
# use them; how much a run explores first, and all else, stays the preset's.
WORLD_SETTINGS: dict[str, dict[str, Any]] = {
    "brax/hopper": {
        "updates_per_step": 20.0,
        "agent.target_entropy": -1.0,
        "rollout.horizon_end": 15,
        "rollout.ramp": (20_000, 150_000),
    },
    "brax/walker2d": {"updates_per_step": 20.0, "agent.target_entropy": -3.0},
    "brax/halfcheetah": {"updates_per_step": 40.0, "agent.target_entropy": -3.0},
    "brax/ant": {
        "updates_per_step": 20.0,
        "agent.target_entropy": -4.0,
        "rollout.horizon_end": 25,
        "rollout.ramp": (20_000, 100_000),
    },
    "brax/humanoid": {
        "updates_per_step": 20.0,
        "agent.target_entropy": -2.0,
        "rollout.horizon_end": 25,
        "rollout.ramp": (20_000, 300_000),
    },
}


def preset(name: str, world: str | None = None) -> Config:
    """The config of a preset, with the world's own settings applied. Raises `ConfigError` for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"preset: {name!r} is unknown{nearest(name, PRESETS)}; known: {', '.join(PRESETS)}")
    config = PRESETS[name]
    for path, value in WORLD_SETTINGS.get(world or "", {}).items():
        if not (config.model_free and path.startswith("rollout.")):
            config = with_field(config, path, value)
    return config if world is None else replace(config, world=world)
