"""That imagining costs what it should: seconds in proportion to batch x horizon, and memory by the group.

    time     10^3 to 10^6 model steps in groups of 2,000 rollouts (the smallest: 1,000), rollouts of 1 and of 5 steps:
             seconds per model step within 15 % of the median; on a processor also those that it gave to this process,
             which other work does not lengthen
    memory   what the compiler reserves besides the state; what it grows by is the rows on their way into the buffer

    python -m benchmarks linear

Writes `results/bench/linear.json`. All sizes take turns, so that what else the machine does befalls them all. That the
work is exactly linear, and that nothing is compiled again when the horizon moves or the replay buffer grows, is tested
(`tests/test_benchmarks.py`).
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import imagine
from benchmarks.harness import RESULTS, prepared
from benchmarks.mbpo_paper import seconds
from branchax.config import Config
from branchax.runs import rundir

SIZES = ((1_000, 1), (10_000, 1), (100_000, 1), (1_000_000, 1), (2_000, 5), (20_000, 5), (200_000, 5))
TOLERANCE, TURNS = 1.15, 5


def imagined(config: Config, shapes: bool = False) -> tuple[Any, Any]:
    """What imagines by a config, (state, horizon) -> state; and a state for it, or its `shapes` alone."""
    parts: Any = None

    def state() -> Any:
        nonlocal parts
        program, filled = prepared(config)
        parts = program.stages
        return filled

    made = jax.eval_shape(state) if shapes else state()
    return lambda s, h: parts.imagine(s, h)[0], made


def memory(config: Config) -> dict[str, int]:
    """Bytes that the compiler reserves, and those of the rows that one call stores."""
    function, state = imagined(config, shapes=True)
    jitted = jax.jit(function, donate_argnums=0).lower(state, jnp.int32(config.rollout.horizon))
    reserved: Any = jitted.compile().memory_analysis()
    stored = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state.imagined.data))
        // state.imagined.data.reward.shape[0]
    )
    rows = config.rollouts * config.rollout.longest()
    return {"temporary": reserved.temp_size_in_bytes, "row": stored, "rows": rows, "groups": config.rollout.groups}


def draw(rows: list[dict[str, Any]], clocks: list[str], path: Path) -> None:
    """Time per model step, as a share of the median, over the number of steps."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.0), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhspan(1 / TOLERANCE, TOLERANCE, color="#DDDDDD", label="within 15 %")
    for clock, color in zip(clocks, ("#0072B2", "#D55E00"), strict=False):
        for horizon, marker in ((1, "o"), (5, "^")):
            some = [row for row in rows if row["horizon"] == horizon]
            steps = [row["rollouts"] * horizon for row in some]
            shares = [row[clock]["of_the_median"] for row in some]
            axes.plot(steps, shares, marker, color=color, label=f"{clock} time, horizon {horizon}")
    axes.set_xscale("log")
    axes.set_ylim(0.5, max(1.5, axes.get_ylim()[1]))
    axes.set_xlabel("model steps in one call", fontsize=8)
    axes.set_ylabel("time per step / the median", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main() -> None:
    """Measures and writes."""
    calls, rows = {}, []
    for batch, horizon in SIZES:
        config = imagine.config_of(batch, horizon)
        function, state = imagined(config)
        program = jax.jit(function, donate_argnums=0).lower(state, jnp.int32(horizon)).compile()
        calls[batch, horizon] = [program, state, jnp.int32(horizon), memory(config)]
    times: dict[tuple[int, int], list[float]] = {size: [] for size in SIZES}
    given: dict[tuple[int, int], list[float]] = {size: [] for size in SIZES}
    for turn in range(TURNS + 1):
        for size, call in calls.items():
            # Small calls repeat until they take about as long as a large one, so that the clock sees the same of both.
            often, total, begun = max(20_000 // (size[0] * size[1]), 1), 0.0, time.process_time()
            for _ in range(often):
                elapsed, call[1] = seconds(call[0], call[1], call[2])
                total += elapsed
            if turn:
                times[size].append(total / often)
                given[size].append((time.process_time() - begun) / often)
    clocks = {"wall": times, "processor": given} if jax.default_backend() == "cpu" else {"wall": times}
    for size in SIZES:
        row: dict[str, Any] = {"rollouts": size[0], "horizon": size[1], "memory": calls[size][3]}
        for clock, found in clocks.items():
            micro = statistics.median(found[size]) / (size[0] * size[1]) * 1e6
            row[clock] = {"seconds": found[size], "microseconds_per_step": micro}
        rows.append(row)
    for clock in clocks:
        middle = statistics.median(row[clock]["microseconds_per_step"] for row in rows)
        for row in rows:
            row[clock]["of_the_median"] = row[clock]["microseconds_per_step"] / middle
    titles = (title for clock in clocks for title in (f"µs per model step, {clock}", "of the median"))
    table = Table("rollouts", "horizon", *titles, "temporary", title="imagining is linear")
    for row in rows:
        cells = [f"{row[c][k]:.2f}" for c in clocks for k in ("microseconds_per_step", "of_the_median")]
        reserved = f"{row['memory']['temporary'] / 2**20:,.1f} MiB"
        table.add_row(f"{row['rollouts']:,}", str(row["horizon"]), *cells, reserved)
    holds = {c: all(1 / TOLERANCE <= row[c]["of_the_median"] <= TOLERANCE for row in rows) for c in clocks}
    made = {"command": "python -m benchmarks linear", "environment": rundir.environment()}
    rundir.write_json(RESULTS / "linear.json", {"benchmark": "linear", "rows": rows, "linear": holds, "made": made})
    draw(rows, list(clocks), RESULTS / "linear.png")
    Console(width=120).print(table)
    for clock, within in holds.items():
        print(f"{clock} time: {'within' if within else 'NOT within'} 15 %")


if __name__ == "__main__":
    main()
