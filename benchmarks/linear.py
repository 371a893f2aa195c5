"""That imagining costs what it should: seconds in proportion to batch x horizon, and memory by the group.

    time     10^3 to 10^6 model steps in groups of 2,000 rollouts (the smallest: 1,000), rollouts of 1 and of 5 steps:
             seconds per model step within 15 % of the median
    memory   what the compiler reserves besides the state; what it grows by is the rows on their way into the buffer

    python -m benchmarks linear

Writes `results/bench/linear.json`. All sizes take turns, so that what else the machine does befalls them all. That the
work is exactly linear, and that nothing is compiled again when the horizon moves or the replay buffer grows, is tested
(`tests/test_benchmarks.py`).
"""

from __future__ import annotations

import statistics
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from benchmarks import imagine
from benchmarks.harness import RESULTS, prepared
from benchmarks.mbpo_paper import seconds
from branchax.config import Config
from branchax.host import rundir

SIZES = ((1_000, 1), (10_000, 1), (100_000, 1), (1_000_000, 1), (2_000, 5), (20_000, 5), (200_000, 5))
TOLERANCE, TURNS = 1.15, 5


def imagined(config: Config, shapes: bool = False) -> tuple[Any, Any]:
    """What imagines by a config, (state, horizon) -> state; and a state for it, or its `shapes` alone."""
    parts: Any = None

    def state() -> Any:
        nonlocal parts
        program, filled = prepared(config)
        parts = program.parts
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


def main() -> None:
    """Measures and writes."""
    calls, rows = {}, []
    for batch, horizon in SIZES:
        config = imagine.config_of(batch, horizon)
        function, state = imagined(config)
        program = jax.jit(function, donate_argnums=0).lower(state, jnp.int32(horizon)).compile()
        calls[batch, horizon] = [program, state, jnp.int32(horizon), memory(config)]
    times: dict[tuple[int, int], list[float]] = {size: [] for size in SIZES}
    for turn in range(TURNS + 1):
        for size, call in calls.items():
            # Small calls repeat until they take about as long as a large one, so that the clock sees the same of both.
            often, total = max(20_000 // (size[0] * size[1]), 1), 0.0
            for _ in range(often):
                elapsed, call[1] = seconds(call[0], call[1], call[2])
                total += elapsed
            if turn:
                times[size].append(total / often)
    for size, each in times.items():
        steps = size[0] * size[1]
        row = {"rollouts": size[0], "horizon": size[1], "seconds": each, "memory": calls[size][3]}
        rows.append(row | {"microseconds_per_step": statistics.median(each) / steps * 1e6})
    middle = statistics.median(row["microseconds_per_step"] for row in rows)
    table = Table("rollouts", "horizon", "µs per model step", "of the median", "temporary", title="imagining is linear")
    for row in rows:
        row["of_the_median"] = row["microseconds_per_step"] / middle
        table.add_row(
            f"{row['rollouts']:,}",
            str(row["horizon"]),
            f"{row['microseconds_per_step']:.2f}",
            f"{row['of_the_median']:.2f}",
            f"{row['memory']['temporary'] / 2**20:,.1f} MiB",
        )
    holds = all(1 / TOLERANCE <= row["of_the_median"] <= TOLERANCE for row in rows)
    made = {"command": "python -m benchmarks linear", "environment": rundir.environment()}
    rundir.write_json(RESULTS / "linear.json", {"benchmark": "linear", "rows": rows, "linear": holds, "made": made})
    Console(width=120).print(table)
    print("within 15 %" if holds else "NOT within 15 %")


if __name__ == "__main__":
    main()
