"""All settings, as frozen dataclasses, one file per part of a run. Nothing here imports JAX.

A preset is a `Config` value (`presets`); a run is a preset with some fields replaced. `checks.check` refuses
settings that cannot work, before anything is compiled: it names the field, its value and the allowed values.
"""

from __future__ import annotations

from branchax.config.agents import (
    AgentConfig,
    DQNConfig,
    OwnAgentConfig,
    PathwiseConfig,
    PlannerConfig,
    PolicyGradientConfig,
    QLearningConfig,
    SACConfig,
    TD3Config,
)
from branchax.config.changes import RESUMABLE, changes, decisive
from branchax.config.critic import CriticConfig, Traits
from branchax.config.fields import (
    LARGEST,
    Count,
    Fraction,
    Natural,
    NonNegative,
    OptionalCount,
    Positive,
    Range,
    flat,
    from_dict,
    to_dict,
    value_at,
    with_field,
)
from branchax.config.model import ModelConfig
from branchax.config.rollout import RolloutConfig
from branchax.config.run import MESH_AXES, Config, FaultConfig, Upkeep, with_own
from branchax.errors import ConfigError, nearest

__all__ = [
    "LARGEST",
    "MESH_AXES",
    "RESUMABLE",
    "AgentConfig",
    "Config",
    "ConfigError",
    "Count",
    "CriticConfig",
    "DQNConfig",
    "FaultConfig",
    "Fraction",
    "ModelConfig",
    "Natural",
    "NonNegative",
    "OptionalCount",
    "OwnAgentConfig",
    "PathwiseConfig",
    "PlannerConfig",
    "PolicyGradientConfig",
    "Positive",
    "QLearningConfig",
    "Range",
    "RolloutConfig",
    "SACConfig",
    "TD3Config",
    "Traits",
    "Upkeep",
    "changes",
    "decisive",
    "flat",
    "from_dict",
    "nearest",
    "to_dict",
    "value_at",
    "with_field",
    "with_own",
]
