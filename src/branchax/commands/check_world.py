"""`branchax check-world`: whether a world keeps the contract of docs/worlds.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from branchax.commands.base import check_installed
from branchax.commands.flags import parse
from branchax.errors import RunError


@dataclass(frozen=True)
class CheckWorldOptions:
    """Checks that a world keeps the contract of docs/worlds.md."""

    world: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """As --world takes it, such as classic/pendulum or my_module:my_world."""
    backend: Literal["generalized", "positional", "spring", "mjx"] = "generalized"
    """Brax's physics backend."""
    episode_length: int | None = None
    """Steps until an episode is cut."""
    world_args: tuple[str, ...] = ()
    """Arguments of `gymnasium.make`, each as NAME=VALUE."""


def run(arguments: list[str]) -> None:
    """Prints each line of the contract and how it is broken. Raises `RunError` when one is."""
    options = parse(CheckWorldOptions, arguments, "branchax check-world")
    name = options.world
    check_installed(name)

    from branchax import worlds
    from branchax.devices import cache
    from branchax.worlds import contract

    cache.enable()
    world = worlds.make(name, options.backend, options.episode_length, options.world_args)
    worlds.check_precision(name)
    violations = contract.check_world(world) if world.host is None else contract.check_host(world)
    for line, text in (contract.CONTRACT if world.host is None else contract.HOST_CONTRACT).items():
        seen = [violation for violation in violations if violation.line == line]
        print(f"  {'BAD' if any(v.sure for v in seen) else '?  ' if seen else 'ok '} {line:>2}  {text}")
        for violation in seen:
            print(f"          {violation.seen}")
    if broken := {violation.line for violation in violations if violation.sure}:
        raise RunError(f"{name} breaks {len(broken)} of {len(contract.CONTRACT)} lines of the contract")
    if world.host is not None:
        exact = world.host.comes_back()
        print(
            f"  a run resumes {'exactly' if exact else 'with fresh episodes: its state cannot be read and set again'}"
        )
