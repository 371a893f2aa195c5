"""Reads Minari datasets (https://minari.farama.org) by name. The package is imported when one is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from branchax.errors import ConfigError, nearest


def read(name: str) -> dict[str, np.ndarray]:
    """The N transitions of a local Minari dataset, in the form of `dataset.read`.

    Actions are converted to those of worlds: Box actions are scaled from their bounds to [-1, 1], and Discrete actions
    are numbered from 0.

    Raises:
      ConfigError: Minari is not installed, has no such dataset here, or the dataset has other spaces than a Box of
        observations and a Box or Discrete of actions.
    """
    try:
        import minari
        from gymnasium import spaces
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"dataset: minari:{name} needs {error.name}, which is not installed: pip install 'branchax[minari]'"
        ) from error
    try:
        found = minari.load_dataset(name)
    except Exception as error:  # Minari passes on any error of its storage
        near = nearest(name, minari.list_local_datasets())
        raise ConfigError(
            f"dataset: minari:{name} is not on this machine{near}; `minari download {name}` fetches it ({error})"
        ) from error
    space = found.action_space
    if not isinstance(found.observation_space, spaces.Box) or not isinstance(space, (spaces.Box, spaces.Discrete)):
        raise ConfigError(
            f"dataset: minari:{name} has observations {found.observation_space} and actions {space}; allowed: a Box of"
            " observations, a Box or Discrete of actions"
        )
    parts: list[dict[str, Any]] = [_rows(episode) for episode in found.iterate_episodes()]
    if not parts:
        raise ConfigError(f"dataset: minari:{name} has no episodes")
    arrays = {field: np.concatenate([part[field] for part in parts]) for field in parts[0]}
    arrays["action"] = _to_actuators(arrays["action"], space, name)
    return arrays


def _rows(episode: Any) -> dict[str, np.ndarray]:
    """The transitions of one episode, [T, ...] each; the last row is always marked as terminated or truncated."""
    obs = np.asarray(episode.observations)
    obs = obs.reshape(len(obs), -1)
    terminated, truncated = (np.array(x, bool) for x in (episode.terminations, episode.truncations))
    truncated[-1:] |= ~terminated[-1:]
    reward = np.asarray(episode.rewards).reshape(-1)
    found = (obs[:-1], np.asarray(episode.actions), reward, obs[1:], terminated, truncated)
    return dict(zip(("obs", "action", "reward", "next_obs", "terminated", "truncated"), found, strict=True))


def _to_actuators(action: np.ndarray, space: Any, name: str) -> np.ndarray:
    """Box actions [N, ...] -> [N, A] in [-1, 1]; Discrete actions [N] -> numbers from 0."""
    if hasattr(space, "start"):
        return action - space.start
    low, high = (np.asarray(x, float).ravel() for x in (space.low, space.high))
    if not np.isfinite(high - low).all():
        raise ConfigError(f"dataset: minari:{name} has actions without bounds, {space}; allowed: finite ones")
    flat = action.reshape(len(action), -1)
    return np.clip((flat - (low + high) / 2) / np.where(high > low, (high - low) / 2, 1.0), -1.0, 1.0)
