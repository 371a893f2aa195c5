"""What a task brings to presets: MBPO's own settings for MuJoCo's bodies, and what was measured there and elsewhere."""

from __future__ import annotations

from typing import Any

from branchax.config import flat, to_dict
from branchax.presets.methods import PRESETS

# Updates, SAC's settings and rollouts of MBPO's own configurations (its code, examples/config), for the presets that
# learn off-policy as it does; how much a run explores first, and all else, stays the preset's. They are Gymnasium's
# tasks, and serve Brax's versions of them as well.
_COMMON = {"agent.tau": 0.005, "epoch_steps": 250, "rollout.horizon": 1}
# The paper's pool holds the rollouts of 1,000 real steps. Ant and Humanoid do without: their rows are wide and their
# rollouts long, so that the pool would take up to 27 GB.
_POOL = {"rollout.per_step": 400, "rollout.keep_epochs": 4}
WORLD_SETTINGS: dict[str, dict[str, Any]] = {
    "hopper": {
        "updates_per_step": 20.0,
        "agent.target_entropy": -1.0,
        **_COMMON,
        **_POOL,
        "rollout.horizon_end": 15,
        "rollout.ramp": (20_000, 150_000),
    },
    "walker2d": {"updates_per_step": 20.0, "agent.target_entropy": -3.0, **_COMMON, **_POOL},
    "halfcheetah": {"updates_per_step": 40.0, "agent.target_entropy": -3.0, **_COMMON, **_POOL},
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

# Bodies are harder to predict than small worlds: a wider model, normalised, whose mean is learned sooner
# (docs/algorithms/mbpo.md).
BODY_SETTINGS: dict[str, Any] = {"model.hidden": (128, 128, 128), "model.pre_norm": True, "model.beta": 0.5}
LAPTOP = ("mbpo", "mbpo_td3")  # the presets that take them

# Tasks whose episodes end by a fall (docs/algorithms/mbpo.md says which were measured). There the unknown counts as a
# fall: rollouts end at the edge of the data, so that no policy learns to lean on it, and they may be longer.
FALLS = ("cartpole", "cartpole_discrete", "inverted_pendulum", "invertedpendulum")
FALL_SETTINGS: dict[str, Any] = {"model.beyond": "end", "model.bound_margin": 0.1, "rollout.horizon": 20}
ENDS = ("mbpo", "oracle_mbpo")  # the presets that take them

# Tasks that are learned in fewer real steps without standardised observations (docs/algorithms/mbpo.md).
RAW = ("acrobot", "inverteddoublependulum")
RAW_SETTINGS: dict[str, Any] = {"agent.normalise_obs": False}
STANDARDISES = (*ENDS, "dhmbpo_tiny")  # the presets that standardise elsewhere, and see these as they are

# The presets that are MBPO, or vary its model or its agent: they take a task's epochs and rollouts ...
BRANCHES = ("mbpo", "mbpo_paper", "oracle_mbpo", "mbpo_td3")
# ... and those that learn from batches as it does, with other rollouts or none: they take its updates and its agent's
# settings. The others follow papers of their own.
LEARNS = (
    *("sac", "td3", "redq", "m2ac", "macura", "mopo", "mad_td"),
    *("mve", "steve", "svg", "oracle_mve", "oracle_steve", "oracle_svg"),
)


def settings_of(name: str, world: str) -> dict[str, Any]:
    """The settings, by their paths, that a world brings to the preset `name`."""
    family, _, task = world.lower().partition("/")
    task = task.partition("-v")[0]
    if name in ENDS and task in FALLS:
        return FALL_SETTINGS
    if name in STANDARDISES and task in RAW:
        return RAW_SETTINGS
    if family not in ("brax", "gym") or name not in BRANCHES + LEARNS:
        return {}
    there = flat(to_dict(PRESETS[name]))  # TD3 has no target entropy
    own = () if name in BRANCHES else ("epoch_steps", "rollout")
    found = WORLD_SETTINGS.get(task, {})
    if found and name in LAPTOP:
        found = found | BODY_SETTINGS
    return {path: value for path, value in found.items() if path in there and path.partition(".")[0] not in own}
