"""What the optimisations are worth: each with and without, in turns; predictions and verdicts are in `NOTES.md`.

    groups       100,000 rollouts of one step, in 50 groups against all at once
    one_member   10,000 rollouts of 5 steps, group after group (plain products) against 5 side by side (batched ones)
    one_program  50 SAC updates as one scan against 50 calls of one update
    donated      10 SAC updates and a model buffer of 10^6 rows, the state donated against copied
    alone        10 SAC updates of one seed, and the same as the only lane of a `vmap`
    alone_fit    20 minibatches of the fit, likewise
    in_turn      epochs of 50 steps of `mbpo` of 5 seeds, seed after seed against all of them under `vmap`
    in_turn_sac  likewise of `sac`

    python -m benchmarks steps

Writes `results/bench/steps.json`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import fit, improve, linear, seeds
from benchmarks.cost import Call
from benchmarks.harness import RESULTS, Case, prepared
from benchmarks.imagine import config_of
from benchmarks.mbpo_paper import seconds
from branchax.build import build
from branchax.config import RolloutConfig
from branchax.presets import preset
from branchax.runs import rundir
from branchax.runs.compiling import seed_keys
from branchax.sharding import over_seeds

TURNS = 9


def imagining(batch: int, horizon: int, **rollout: Any) -> Call:
    """Imagines by a config whose groups are set."""
    config = config_of(batch, horizon)
    function, state = linear.imagined(replace(config, rollout=replace(config.rollout, **rollout)))
    return Call(Case({}, function, (state, jnp.int32(horizon)), 1, carried=True))


def only_lane(case: Case) -> Case:
    """The same work under `vmap`, whose axis has one entry."""
    state, *rest = case.arguments
    function = jax.vmap(case.function, (0, *[None] * len(rest)))
    return case._replace(function=function, arguments=(jax.tree.map(lambda x: x[None], state), *rest))


def of_seeds(name: str, over: Callable[..., Any]) -> Call:
    """Epochs of 5 seeds of a preset, taken over them by `over`."""
    method = preset(name)
    config = replace(seeds.BASE, seeds=5, rollout=method.rollout, real_fraction=method.real_fraction)
    program = build(config)
    state = jax.jit(jax.vmap(program.init))(seed_keys(config))
    epoch = over(program.epoch, (0, None))
    horizon = jnp.int32(config.rollout.horizon)
    return Call(Case({}, lambda s, h: epoch(s, h)[0], (state, horizon), 5, carried=True))


def one_by_one(often: int) -> Callable[[], float]:
    """Single updates, each a call."""
    call = Call(improve.case((256, 256), 256, 2, updates=1))
    return lambda: sum(call() for _ in range(often))


def with_buffer(donate: bool) -> Callable[[], float]:
    """10 updates beside a model buffer of 10^6 rows."""
    config = replace(preset("mbpo_paper"), updates_per_step=10, rollout=RolloutConfig(per_step=4_000))
    program, state = prepared(config)
    assert program.stages is not None
    function = program.stages.improve
    jitted = jax.jit(lambda s: function(s, None, jnp.int32(1))[0], donate_argnums=0 if donate else ())
    filled = state._replace(imagined=state.imagined._replace(size=jnp.int32(10_000)))  # type: ignore[union-attr]
    compiled, holder = jitted.lower(filled).compile(), [filled]

    def once() -> float:
        elapsed, holder[0] = seconds(compiled, holder[0])
        return elapsed

    once()
    return once


STEPS: dict[str, tuple[Callable[[], Callable[[], float]], Callable[[], Callable[[], float]]]] = {
    "groups": (lambda: imagining(100_000, 1, groups=50), lambda: imagining(100_000, 1, groups=1)),
    "one_member": (
        lambda: imagining(10_000, 5, groups=5),
        lambda: imagining(10_000, 5, groups=5, parallel_groups=5),
    ),
    "one_program": (lambda: Call(improve.case((256, 256), 256, 2, updates=50)), lambda: one_by_one(50)),
    "donated": (lambda: with_buffer(True), lambda: with_buffer(False)),
    "alone": (
        lambda: Call(improve.case((256, 256), 256, 2, updates=10)),
        lambda: Call(only_lane(improve.case((256, 256), 256, 2, updates=10))),
    ),
    "alone_fit": (
        lambda: Call(fit.case("7 x (4 x 200)", rounds=1)),
        lambda: Call(only_lane(fit.case("7 x (4 x 200)", rounds=1))),
    ),
    "in_turn": (lambda: of_seeds("mbpo", over_seeds), lambda: of_seeds("mbpo", jax.vmap)),
    "in_turn_sac": (lambda: of_seeds("sac", over_seeds), lambda: of_seeds("sac", jax.vmap)),
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The gain of each step, and its range over the turns."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 0.9 + 0.28 * len(rows)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, row in enumerate(rows):
        axes.barh(i, row["gain"], color="#0072B2", height=0.65)
        axes.plot([min(row["gains"]), max(row["gains"])], [i, i], color="#000000", linewidth=1.5)
    axes.axvline(1, color="#555555", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row["step"] for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("seconds without / seconds with; the line is the range over the turns", fontsize=8)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Measures and writes."""
    rows = []
    table = Table("step", "with", "without", "of medians", "of each turn", title="what the optimisations are worth")
    for name, (make_with, make_without) in STEPS.items():
        sides = make_with(), make_without()
        turns = [(sides[0](), sides[1]()) for _ in range(TURNS)]
        gains = [without / with_it for with_it, without in turns]
        with_s, without_s = (statistics.median(side) for side in zip(*turns, strict=True))
        rows.append({"step": name, "with_s": with_s, "without_s": without_s, "of_medians": without_s / with_s})
        rows[-1] |= {"gain": statistics.median(gains), "gains": gains}
        spread = f"{min(gains):.2f} to {max(gains):.2f}"
        of_medians, gain = f"x{without_s / with_s:.2f}", f"x{rows[-1]['gain']:.2f}"
        print(f"{name}: {of_medians}; of each turn {gain} ({spread})", flush=True)
        table.add_row(name, f"{with_s * 1e3:.1f} ms", f"{without_s * 1e3:.1f} ms", of_medians, f"{gain} ({spread})")
    made = {"command": "python -m benchmarks steps", "environment": rundir.environment()}
    rundir.write_json(RESULTS / "steps.json", {"benchmark": "steps", "rows": rows, "made": made})
    draw(rows, RESULTS / "steps.png")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
