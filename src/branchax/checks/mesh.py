"""Checks of how a run is laid out over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from branchax.checks.world import Need
from branchax.config.fields import value_at, with_field
from branchax.config.run import Config


def check_mesh(config: Config, need: Need) -> None:
    """Checks that the axes of a mesh divide the sizes spread over them; an automatic mesh always does."""
    if config.mesh_shape is None:
        return
    over_seeds, over_batch = config.mesh_shape
    total = over_seeds * over_batch
    need(config.devices in (None, total), "devices", f"{total}, the product of mesh = {config.mesh}")
    knob = "devices" if config.mesh is None else "mesh"
    divisors = [n for n in range(1, config.seeds + 1) if config.seeds % n == 0]
    fitting = f"a seed axis that divides seeds = {config.seeds}: {', '.join(map(str, divisors))}"
    need(config.seeds % over_seeds == 0, knob, fitting)
    if over_batch == 1:
        return
    alone = config.plans or config.agent.traits.online or (config.on_policy and config.model_free)
    need(not alone, knob, f"a batch axis of 1: agent.kind = {config.agent.kind} has no work to spread over it")

    def divides(path: str, count: Callable[[Config], int]) -> None:
        """Checks that `count`, a size that follows from the field at `path`, is a multiple of the batch axis."""
        value: Any = value_at(config, path)

        def fits(candidate: int) -> bool:
            return candidate >= 1 and count(with_field(config, path, candidate)) % over_batch == 0

        further = range(1, 64 * over_batch)
        lower = next((value - n for n in further if fits(value - n)), None)
        higher = next((value + n for n in further if fits(value + n)), None)
        numbers = " or ".join(str(n) for n in (lower, higher) if n is not None) or "another"
        group = "" if path.endswith("batch_size") else ", so that the rollouts of a group divide"
        need(fits(value), path, f"{numbers}, for a batch axis of {over_batch}{group}")

    if not config.on_policy:
        divides("batch_size", lambda c: c.batch_size)
    if config.model_free:
        return
    if config.model.has_networks:
        divides("model.batch_size", lambda c: c.model.batch_size)
    if config.on_policy or config.stores_imagined:
        knob = "rollout.per_update" if config.on_policy else "rollout.per_step"
        divides(knob, lambda c: c.rollouts // c.rollout.groups)
