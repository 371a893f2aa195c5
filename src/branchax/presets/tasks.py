"""What MBPO's own configurations set for a task."""

from __future__ import annotations

from typing import Any

from branchax.config import Config, flat, to_dict
from branchax.presets.methods import PRESETS

# Updates, SAC's settings and rollouts of MBPO's own configurations (its code, examples/config), for the presets that
# learn off-policy as it does; how much a run explores first, and all else, stays the preset's. They are Gymnasium's
# tasks, and serve Brax's versions of them as well.
_COMMON = {"agent.tau": 0.005, "epoch_steps": 250, "rollout.horizon": 1}
WORLD_SETTINGS: dict[str, dict[str, Any]] = {
    "hopper": {
        "updates_per_step": 20.0,
        "agent.target_entropy": -1.0,
        **_COMMON,
        "rollout.horizon_end": 15,
        "rollout.ramp": (20_000, 150_000),
    },
    "walker2d": {"updates_per_step": 20.0, "agent.target_entropy": -3.0, **_COMMON},
    "halfcheetah": {"updates_per_step": 40.0, "agent.target_entropy": -3.0, **_COMMON},
    "ant": {
        "updates_per_step": 20.0,
        "agent.target_entropy": -4.0,
        **_COMMON,
        "rollout.horizon_end": 25,
        "rollout.ramp": (20_000, 100_000),
    },
    "humanoid": {
        "updates_per_step": 20.0,
        "agent.target_entropy": -2.0,
        **_COMMON,
        "rollout.horizon_end": 25,
        "rollout.ramp": (20_000, 300_000),
    },
}


def settings_of(name: str, world: str) -> dict[str, Any]:
    """The settings, by their paths, that a world brings to the preset `name`, as far as that follows MBPO."""
    family, _, task = world.lower().partition("/")
    if family not in ("brax", "gym"):
        return {}
    own = PRESETS[name]  # with other updates, or other rollouts, it follows another paper
    critic = own.agent.traits.critic
    as_mbpo = own.updates_per_step in _UPDATES and critic is not None and critic.expand != "fresh"
    branches = as_mbpo and own.rollout in _ROLLOUTS
    applies = {
        "updates_per_step": as_mbpo,
        "agent": as_mbpo and not own.agent.traits.discrete,
        "epoch_steps": branches,
        "rollout": branches,
    }
    found = WORLD_SETTINGS.get(task.partition("-v")[0], {})
    there = flat(to_dict(own))  # TD3 has no target entropy
    return {path: value for path, value in found.items() if applies[path.partition(".")[0]] and path in there}


_UPDATES = (PRESETS["sac"].updates_per_step, PRESETS["mbpo"].updates_per_step)
_ROLLOUTS = (PRESETS["mbpo"].rollout, Config().rollout)
