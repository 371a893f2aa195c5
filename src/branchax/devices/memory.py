"""Memory that is planned: the bytes that a run needs on a device, from its shapes, before anything is compiled.

The state is counted exactly, and more than twice where seeds take turns: the loop over them reads one state, writes
another, and works on a copy of one seed's. Beside it stand the largest of what lives only while an epoch runs: rollouts
on their way into the buffer, the widest layers of the groups that are imagined side by side, and a fit's copies and
bootstraps. What the compiler adds to that (temporaries of an update, evaluation) is small for the presets, and not
counted.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from branchax.config import Config
from branchax.epoch.state import TrainState
from branchax.errors import ConfigError
from branchax.replay import Ring
from branchax.sharding import BATCH, SEED, in_turn, side_by_side


class Part(NamedTuple):
    """What takes memory on each device."""

    name: str
    size: int  # bytes per device
    knobs: str  # the fields that it follows from, the most telling one first


def plan(config: Config, template: TrainState, mesh: Mesh) -> list[Part]:
    """The parts of the memory of all lanes of a program, the seeds of one run or of several that share `config`'s
    shapes; `template` is what `mesh.placed` returns."""
    seeds = template.key.shape[0] // mesh.shape[SEED]
    turns = seeds > 1 and in_turn(mesh.shape[SEED])
    at_once = 1 if turns else seeds

    def held(tree: Any) -> int:
        size = bytes_of(tree)
        return 2 * size + size // seeds if turns else size

    rest = template.key, template.world, template.counts, template.fault, template.model, template.agent
    parts = [Part("real buffer", held(template.real), "replay_capacity, seeds"), Part("networks", held(rest), "seeds")]
    if config.model_free:
        return parts
    if isinstance(template.imagined, Ring):
        knobs = "rollout.per_step, rollout.keep_epochs, rollout.horizon"
        parts.append(Part("model buffer", held(template.imagined), knobs))
    row = sum(math.prod(x.shape[2:]) * x.dtype.itemsize for x in jax.tree.leaves(template.real.data.transition))
    if config.stores_imagined or config.on_policy:
        # On their way into a buffer that is spread over devices, all rows pass through each of them.
        there = config.rollouts // (1 if config.stores_imagined else mesh.shape[BATCH])
        wide = max(config.model.hidden, default=1) if config.model.kind == "ensemble" else 1
        width = side_by_side(config.rollout) * config.rollouts // config.rollout.groups // mesh.shape[BATCH] * wide * 4
        size = at_once * (there * config.rollout.longest() * (row + 1) + 2 * width)
        knob = "rollout.per_step" if config.stores_imagined else "rollout.per_update"
        parts.append(Part("rollouts", size, f"{knob}, rollout.parallel_groups, rollout.horizon"))
    if config.model.kind == "ensemble":
        bootstrap = at_once * config.model.members * config.real_capacity * 4
        size = bootstrap + 2 * bytes_of(template.model) * at_once // seeds  # the latest and the best of each member
        parts.append(Part("fit", size, "replay_capacity, model.members"))
    return parts


def says(parts: list[Part]) -> str:
    """The plan in a line."""
    each = ", ".join(f"{part.name} {_short(part.size)}" for part in parts)
    return f"memory per device: about {_short(sum(part.size for part in parts))} ({each})"


def check(config: Config, parts: list[Part], limit: int | None, device: str, runs: int = 1) -> None:
    """Raises `ConfigError`, which names the knob of the largest part, when the plan exceeds `limit` bytes.

    `config` is that of each of the `runs` in one program, as the user set it.
    """
    total = sum(part.size for part in parts)
    if limit is None or total <= limit:
        return
    worst = max(parts, key=lambda part: part.size)
    knob = worst.knobs.partition(",")[0]
    value: Any = config
    for name in knob.split("."):
        value = getattr(value, name)
    others = ", ".join([*worst.knobs.split(", ")[1:], *(["values in --grid"] if runs > 1 else [])])
    said = "its default" if value is None else f"{value:,}"
    group = f" in each of {runs} runs in one program" if runs > 1 else ""
    raise ConfigError(
        f"{knob}: {said}{group} is not possible; allowed: less of it{f', or of {others}' if others else ''}: of about"
        f" {_short(total)} per device, where {device} has {_short(limit)}, {worst.name} takes {_short(worst.size)}"
    )


def limit_of(mesh: Mesh) -> int | None:
    """The bytes that a device of this process may hold; on a CPU its share of the machine's. `None`: nobody says."""
    mine = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    stats = [device.memory_stats() or {} for device in mine]
    if all("bytes_limit" in found for found in stats):
        return min(found["bytes_limit"] for found in stats)
    if mine[0].platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(mine)
    return None


def bytes_of(tree: Any, per_device: bool = True) -> int:
    """The bytes of a tree of arrays or `ShapeDtypeStruct`s: what lies on each device, or the whole."""
    shape = lambda x: x.sharding.shard_shape(x.shape) if per_device else x.shape  # noqa: E731
    return sum(math.prod(shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _short(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
