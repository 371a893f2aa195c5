"""Worlds: real simulators and analytic systems. `make` is the one place where a world's name becomes a world."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from branchax.worlds.base import World


def make(name: str, backend: str = "generalized", episode_length: int | None = None) -> World:
    """The world called `name` in the catalog (`branchax list`).

    Args:
      name: `"classic/..."`, `"probe/..."` or `"brax/..."`.
      backend: Brax's physics backend; the other worlds ignore it.
      episode_length: steps until an episode is truncated; the default is the world's own.

    Raises:
      ConfigError: the name is unknown, or the world cannot have this backend or episode length.
    """
    # Imported here: the configuration reads this package's catalog before JAX is loaded.
    from branchax.config import ConfigError, nearest
    from branchax.worlds.catalog import WORLDS

    if episode_length is not None and episode_length < 1:
        raise ConfigError(f"episode_length: {episode_length} is not possible; allowed: >= 1")
    family, _, short = name.partition("/")
    if family == "brax":
        from branchax.worlds.brax import brax_world

        return brax_world(short, backend, episode_length)
    if name not in WORLDS:
        raise ConfigError(f"world: {name!r} is unknown{nearest(name, WORLDS)}; `branchax list` shows all")
    if family == "classic":
        from branchax.worlds.classic import CLASSIC

        return CLASSIC[short]() if episode_length is None else CLASSIC[short](episode_length=episode_length)
    from branchax.worlds.probes import PROBES

    if episode_length is not None:
        raise ConfigError(f"episode_length: {episode_length} is not possible for {name}; allowed: unset")
    return PROBES[short].world()
