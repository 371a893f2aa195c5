"""Which settings may change when a run is resumed."""

from __future__ import annotations

from typing import Any

from branchax.config.agents import AS_BUILT
from branchax.config.fields import flat, to_dict
from branchax.config.run import Config, Upkeep

# Settings that do not affect the run's state. `env_steps` may also change, but only grow.
RESUMABLE = (*flat(to_dict(Upkeep())), "rollout.parallel_groups")


def changes(before: Config, after: Config) -> tuple[list[str], list[str]]:
    """The settings that differ, as `"name old -> new"`: first those that a resumed run may change, then the others."""
    old, new = flat(to_dict(before)), flat(to_dict(after))
    allowed, refused = [], []
    for name in [*old, *(n for n in new if n not in old)]:
        if (was := old.get(name)) != (now := new.get(name)) and now != AS_BUILT:
            fine = name in RESUMABLE or (name == "env_steps" and after.env_steps > before.env_steps)
            (allowed if fine else refused).append(f"{name} {was} -> {now}")
    return allowed, refused


def decisive(config: Config) -> dict[str, Any]:
    """The settings by their paths, without those that a resumed run may change."""
    return {name: value for name, value in flat(to_dict(config)).items() if name not in RESUMABLE}
