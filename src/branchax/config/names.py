"""How settings are called: their dotted paths, and the short forms that people type."""

from __future__ import annotations

from collections.abc import Collection

# What other libraries call a setting. With a group in front, the last part alone counts: `model.lr`.
ALIASES = {
    "buffer_size": "replay_capacity",
    "ensemble_size": "model.members",
    "env": "world",
    "env_id": "world",
    "gamma": "agent.discount",
    "learning_starts": "explore_steps",
    "lr": "agent.learning_rate",
    "num_envs": "parallel_worlds",
    "steps": "env_steps",
    "timesteps": "env_steps",
    "total_timesteps": "env_steps",
    "utd": "updates_per_step",
}
APART = "faults."  # whose `agent`, `model` and `world` are other things than those that people mean


def find_matches(name: str, known: Collection[str]) -> list[str]:
    """The known settings that a name can mean: the one of that name, of that short form, or those that end in it.

    `lr` means `agent.learning_rate`, `tau` `agent.tau`, and `hidden` `agent.hidden` or `model.hidden`.
    """
    if name in known:
        return [name]
    group, dot, last = name.rpartition(".")
    full = ALIASES.get(last, last)
    name = f"{group}.{full.rpartition('.')[2]}" if dot else full
    if name in known:
        return [name]
    return [other for other in known if other.endswith(f".{name}") and not other.startswith(APART)]
