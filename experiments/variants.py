"""A preset with one thing changed: `dhmbpo+relu`. Loads no JAX."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from branchax.config import Config
from branchax.config.fields import with_fields
from branchax.errors import ConfigError, nearest

Changes = dict[str, Any]  # values by the fields' dotted paths


def _twice(config: Config) -> Changes:
    """Twice the updates per real step, those of the first epoch too; as many rollouts at a time as before."""
    first = None if config.first_updates is None else 2 * config.first_updates
    changes: Changes = {"updates_per_step": 2 * config.updates_per_step, "first_updates": first}
    if config.rollout.every is not None:
        steps = math.ceil(config.rollout.every / changes["updates_per_step"])
        changes["rollout.per_step"] = config.rollouts // steps
    return changes


VARIANTS: dict[str, Changes | Callable[[Config], Changes]] = {
    "tf32": {"precision": "default"},
    "explore": {"explore_steps": 5_000},  # as MBPO's paper has it
    "larger": {"model.max_rounds": 100, "agent.hidden": (128, 128)},  # `mbpo` nearer to the paper's sizes
    # The double horizon without one of its pieces, or with more of one. `no_spread` is `svg5`.
    "no_spread": {"real_fraction": 1.0, "rollout.horizon": 5, "rollout.every": None},
    "ahead1": {"rollout.look_ahead": 1},
    "ahead3": {"rollout.look_ahead": 3},
    "ahead7": {"rollout.look_ahead": 7},
    "spread40": {"rollout.horizon": 40},
    "twice": _twice,
    "relu": {"agent.activation": "relu"},
    "raw": {"agent.normalise_obs": False},
    "unscaled": {"agent.critic.scale": "none", "model.beyond": "clip"},
    "possible": {"agent.critic.scale": "possible"},
    "no_norm": {"agent.critic.pre_norm": False, "model.pre_norm": False},
    "before_end": {"agent.value_before_end": True},
    "past_end": {"agent.value_before_end": False},
    "clip_actor": {"agent.critic.clip_actor": True},
    "no_dropout": {"agent.critic.dropout": 0.0, "model.dropout": 0.0},
    "no_warmup": {"agent.critic_warmup": 0},
    "no_reset": {"agent.reset_optimizer": False},
    "warmup": {"agent.critic_warmup": 250},
    "reset": {"agent.reset_optimizer": True},
    "all_targets": {"agent.critic.subset": None},
    "last_layer": {"agent.critic.zero_last": False},
    "crossq": {"agent.critic.batch_norm": True, "agent.critic.pre_norm": False},
    "xqc": {"agent.critic.batch_norm": True, "agent.critic.pre_norm": False, "agent.critic.atoms": 101},
    "in_range": {"model.bound_margin": 0.0, "model.beyond": "clip"},
    "unclipped": {"model.bound_margin": 1e6, "model.beyond": "clip"},
    "walls": {"model.beyond": "clip"},
    # What is suspected of MBPO's fallen seeds (docs/reproduction.md); with `long_fits`, `possible` and `quiet`.
    "layer_norm": {"agent.critic.layer_norm": True},
    "entropy": {"agent.target_entropy": -3.0},
    "quiet": {"agent.init_std": 0.0184},  # the noise that SAC began with before 0.2.0
    "short_fits": {"model.max_rounds": 10},
    "long_fits": {"model.max_rounds": 100, "model.patience": 15},
    "constant": {"model.noise": "constant"},
    "measured": {"model.noise": "measured"},
    "beta": {"model.noise": "state", "model.beta": 0.5},
    "weights": {"model.bootstrap": "weights"},
    "mixture": {"model.stop": "mixture"},
}


def changes_of(variant: str, config: Config) -> Changes:
    """What a variant changes in `config`. Raises `ConfigError` for an unknown one."""
    if variant not in VARIANTS:
        known = ", ".join(VARIANTS)
        raise ConfigError(f"preset: {variant!r} is no variant{nearest(variant, VARIANTS)}; allowed: {known}")
    changes = VARIANTS[variant]
    return changes(config) if callable(changes) else changes


def varied(config: Config, *variants: str) -> Config:
    """`config` with these variants, one after the other. Raises `ConfigError` for an unknown one."""
    for variant in variants:
        config = with_fields(config, changes_of(variant, config))
    return config
