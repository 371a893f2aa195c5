"""Memory: the exact bytes of a run's state per device, before compilation; and the bytes that an epoch also needs, as
reported by the compiler.

If seeds are computed one after the other, the state counts more than twice: the loop reads one state, writes another,
and works on a copy of one seed's state.
"""

from __future__ import annotations

import functools
import math
import os
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from branchax.config import Config
from branchax.epoch.state import TrainState
from branchax.errors import ConfigError
from branchax.replay import Ring
from branchax.sharding import SEED, in_turn

# What decides how much a function needs beside the state.
_DECIDE = ("model.batch_size", "batch_size", "rollout.per_step", "rollout.per_update", "agent.candidates", "seeds")


class Part(NamedTuple):
    """A part of the memory on each device."""

    name: str
    size: int  # bytes per device
    knobs: str  # the settings that determine the size, the most important one first


def plan(template: TrainState, mesh: Mesh) -> list[Part]:
    """The parts of the state of all lanes of a program (seeds of one run or several); `template` is from
    `mesh.placed`."""
    seeds = template.key.shape[0] // mesh.shape[SEED]
    turns = seeds > 1 and in_turn(mesh.shape[SEED])

    def held(tree: Any) -> int:
        size = bytes_of(tree)
        return 2 * size + size // seeds if turns else size

    rest = template.key, template.world, template.counts, template.fault, template.model, template.agent
    parts = [Part("real buffer", held(template.real), "replay_capacity, seeds"), Part("networks", held(rest), "seeds")]
    if isinstance(template.imagined, Ring):
        knobs = "rollout.per_step, rollout.keep_epochs, rollout.horizon"
        parts.append(Part("model buffer", held(template.imagined), knobs))
    return parts


def describe(parts: list[Part]) -> str:
    """The plan in one line."""
    each = ", ".join(f"{part.name} {_short(part.size)}" for part in parts)
    return f"state per device: {_short(sum(part.size for part in parts))} ({each})"


def describe_reserved(compiled: Any) -> str:
    """One line about the memory that the compiler reserves for a function with donated state; `""` if unknown."""
    found = compiled.memory_analysis()
    if found is None:
        return ""
    state, rest = found.argument_size_in_bytes, found.temp_size_in_bytes
    return f"reserved per device: {_short(state + rest)} (state {_short(state)}, temporaries {_short(rest)})"


def check_reserved(config: Config, name: str, compiled: Any, limit: int | None, device: str) -> None:
    """Raises `ConfigError`, which names the settings that decide it, if the function `name` as it was compiled reserves
    more than `limit` bytes."""
    found = compiled.memory_analysis()
    if limit is None or found is None:
        return
    needed = found.argument_size_in_bytes + found.temp_size_in_bytes
    if needed <= limit:
        return
    sizes = {path: value for path in _DECIDE if (value := _value_of(config, path))}
    each = ", ".join(f"{path} = {value:,}" for path, value in sorted(sizes.items(), key=lambda item: -item[1]))
    raise ConfigError(
        f"{name}: {_short(needed)} is not possible, because {device} has {_short(limit)}; allowed: smaller values of"
        f" {each}"
    )


def check(config: Config, parts: list[Part], limit: int | None, device: str, runs: int = 1) -> None:
    """Raises `ConfigError`, which names the setting of the largest part, if the plan exceeds `limit` bytes.

    `config` has the user's settings of each of the `runs` in one program.
    """
    total = sum(part.size for part in parts)
    if limit is None or total <= limit:
        return
    worst = max(parts, key=lambda part: part.size)
    knob = worst.knobs.partition(",")[0]
    value = _value_of(config, knob)
    others = [f"a smaller value of {name}" for name in worst.knobs.split(", ")[1:]] + ["fewer values in --grid"] * (
        runs > 1
    )
    said = "its default" if value is None else f"{value:,}"
    group = f" in each of {runs} runs in one program" if runs > 1 else ""
    raise ConfigError(
        f"{knob}: {said}{group} is not possible; allowed: {' or '.join(['a smaller value', *others])}. The state needs"
        f" {_short(total)} per device ({worst.name}: {_short(worst.size)}), but {device} has {_short(limit)}"
    )


def limit_of(mesh: Mesh) -> int | None:
    """Memory of a device of this process, in bytes; on a CPU, its share of the machine's. `None`: unknown."""
    mine = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    stats = [device.memory_stats() or {} for device in mine]
    if all("bytes_limit" in found for found in stats):
        return min(found["bytes_limit"] for found in stats)
    if mine[0].platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(mine)
    return None


def bytes_of(tree: Any, per_device: bool = True) -> int:
    """The bytes of a tree of arrays or `ShapeDtypeStruct`s, per device or in total."""
    shape = lambda x: x.sharding.shard_shape(x.shape) if per_device else x.shape  # noqa: E731
    return sum(math.prod(shape(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _value_of(config: Config, path: str) -> Any:
    """The setting at a dotted path; `None` where these settings have no such part."""
    return functools.reduce(lambda part, name: getattr(part, name, None), path.split("."), config)


def _short(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.1f} GiB"
