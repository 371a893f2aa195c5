"""What gradients of long rollouts cost: memory of the pathwise one over the horizon, time of a large likelihood ratio.

On `classic/double_pendulum`: its own equations, of which a step is 10 substeps of Runge-Kutta, and the best member of
the ensemble of preset `mbpo` (3 layers of 64), fitted to 4,000 real steps.

    memory   bytes of temporary memory of the compiled pathwise gradient of 100 rollouts, as a function of the horizon;
             with `remat` each step is computed again on the way back, and only states are remembered
    time     the likelihood-ratio gradient of 100,000 rollouts of 50 steps in the ensemble, as one compiled call: all
             of them side by side, and as the mean of 100 chunks of 1,000 in turn. Wall clock and processor time of the
             fastest of 3 calls; compilation apart

    python -m benchmarks.gradients
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from branchax.devices import cache
from branchax.gradients.base import Estimator
from branchax.gradients.likelihood_ratio import likelihood_ratio
from branchax.lab import cases, measure
from branchax.runs import rundir
from branchax.runs.plots import COLOURS
from branchax.types import Key, Params

WORLD, STEPS = "classic/double_pendulum", 4_000
HORIZONS, SAMPLES = (1, 5, 20, 50, 100, 200, 500, 1_000), 100
ROLLOUTS, HORIZON, CHUNKS = 100_000, 50, 100


def in_chunks(estimator: Estimator, chunks: int) -> Estimator:
    """The mean of `chunks` independent estimates, one after the other: the memory is that of one."""

    def estimate(key: Key, params: Params) -> Params:
        each = jax.lax.map(lambda k: estimator(k, params), jax.random.split(key, chunks))
        return jax.tree.map(lambda x: x.mean(0), each)

    return estimate


def cost(estimator: Estimator, params: Params) -> tuple[dict[str, Any], Params]:
    """Seconds and memory of one call, and what it returns."""
    start = time.perf_counter()
    program = jax.jit(estimator).lower(jax.random.key(0), params).compile()
    compile_s, calls, out = time.perf_counter() - start, [], params
    for i in range(3):
        wall, processor = time.perf_counter(), time.process_time()
        out = jax.block_until_ready(program(jax.random.key(i), params))
        calls.append((time.perf_counter() - wall, time.process_time() - processor))
    analysis = program.memory_analysis()
    found = {
        "seconds": round(min(wall for wall, _ in calls), 2),
        "processor_seconds": round(min(processor for _, processor in calls), 2),
        "temporary_bytes": None if analysis is None else analysis.temp_size_in_bytes,
        "compile_s": round(compile_s, 1),
    }
    return found, out


def draw(memory: dict[str, list[dict[str, int]]], path: Path) -> None:
    """Memory over the horizon, log-log."""
    figure = Figure(figsize=(7.5, 4.2), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for colour, (name, rows) in zip(COLOURS, memory.items(), strict=False):
        for kind, dashes in (("plain", "-"), ("remat", "--")):
            x, y = [row["horizon"] for row in rows], [row[kind] / 2**20 for row in rows]
            axes.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=4, label=f"{name}, {kind}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("horizon")
    axes.set_ylabel("temporary memory [MiB]")
    axes.set_title(f"pathwise gradient of {SAMPLES} rollouts, {WORLD}", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path)


def main() -> None:
    """Measures both and writes `results/gradients_cost.json` and `results/gradients_memory.png`."""
    cache.enable()
    memory, learned = {}, cases.make_case(WORLD, "learned", steps=STEPS)
    for name, case in {"known": cases.make_case(WORLD, "known"), "learned": learned}.items():
        memory[name] = measure.memory(case.problem, case.params, HORIZONS, SAMPLES)
        for row in memory[name]:
            shares = f"{row['plain'] / 2**20:9.1f} MiB, with remat {row['remat'] / 2**20:9.1f} MiB"
            print(f"{name:<8} horizon {row['horizon']:>5}: {shares}", flush=True)
    draw(memory, Path("results/gradients_memory.png"))
    problem = learned.problem._replace(horizon=HORIZON)
    plain, whole = cost(likelihood_ratio(problem, ROLLOUTS), learned.params)
    print("side by side", plain, flush=True)
    chunked, mean = cost(in_chunks(likelihood_ratio(problem, ROLLOUTS // CHUNKS), CHUNKS), learned.params)
    print("in chunks", chunked, flush=True)
    whole, mean = (np.asarray(ravel_pytree(g)[0], np.float64) for g in (whole, mean))
    found = {
        "memory": memory,
        "likelihood_ratio": {
            "rollouts": ROLLOUTS,
            "horizon": HORIZON,
            "side_by_side": plain,
            "in_chunks": {"chunks": CHUNKS, **chunked},
            "cosine_between_them": float(measure.cosines(mean[None], whole)[0]),  # other noise: not 1
        },
        "case": learned.about,
        "processors": measure.cores(),
        "made": {"command": "python -m benchmarks.gradients", "environment": rundir.environment()},
    }
    rundir.write_json(Path("results/gradients_cost.json"), found)


if __name__ == "__main__":
    main()
