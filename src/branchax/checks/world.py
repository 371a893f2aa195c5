"""Checks of the environment, and of the kind of actions it takes."""

from __future__ import annotations

from collections.abc import Callable

from branchax.config.run import Config
from branchax.errors import ConfigError, nearest
from branchax.worlds.catalog import PLAYGROUND, WORLDS

Need = Callable[[bool, str, str], None]  # (the condition, the field's path, the allowed values)


def check_world(config: Config, need: Need) -> None:
    """Checks that the environment exists and suits the agent, as far as the catalog knows it."""
    if config.world.startswith("gym/") or ":" in config.world:
        return  # not in the catalog: checked when the environment is built
    if config.world.startswith("playground/"):
        _check_playground(config, need)
    else:
        _check_catalog(config, need)


def _check_playground(config: Config, need: Need) -> None:
    names = [f"playground/{name}" for name in PLAYGROUND]
    near = nearest(config.world, names)
    need(config.world in names, "world", f"MuJoCo Playground's control suite, see `branchax list`{near}")
    need(not needs_table(config), "world", "a world of few states, because tables need one")
    check_actions(config, discrete=False)


def _check_catalog(config: Config, need: Need) -> None:
    if config.world not in WORLDS:
        raise ConfigError(
            f"world: {config.world!r} is unknown{nearest(config.world, WORLDS)}; `branchax list` shows all"
        )
    entry, is_brax = WORLDS[config.world], config.world.startswith("brax/")
    check_actions(config, entry.discrete)
    tables = [name for name, other in WORLDS.items() if other.tabular]
    need(entry.tabular or not needs_table(config), "world", f"{', '.join(tables)}: a table needs a world of few states")
    near = nearest(config.backend, entry.backends)
    need(not is_brax or config.backend in entry.backends, "backend", ", ".join(entry.backends) + near)
    own_length = config.world.startswith("probe/")
    need(config.episode_length is None or not own_length, "episode_length", f"unset: {config.world} has its own")


def needs_table(config: Config) -> bool:
    """Whether the agent or the model is a table, which needs an environment with few states."""
    return config.agent.traits.tabular or config.model.counts


def check_actions(config: Config, discrete: bool) -> None:
    """Raises `ConfigError` unless the agent supports the environment's kind of actions."""
    if config.discrete is None or config.discrete == discrete:
        return
    critic = config.agent.traits.critic
    if critic is not None and critic.atoms is not None:
        raise ConfigError(
            f"agent.critic.atoms: {critic.atoms} is not possible on {config.world}; allowed: None, because critics of"
            " discrete actions have an output for each action"
        )
    if hasattr(config.agent, "through_model"):  # the setting that excludes discrete actions
        raise ConfigError(
            f"agent.through_model: True is not possible on {config.world}; allowed: False, because discrete actions"
            " have no derivative"
        )
    kind, others = ("discrete", "dqn, dyna, sac, mbpo, ppo") if discrete else ("continuous", "mbpo, sac, td3, ppo")
    raise ConfigError(
        f"agent.kind: {config.agent.kind} is not possible on {config.world}, whose actions are {kind}; allowed: agents"
        f" that take them, as in presets {others}"
    )
