"""What the measurements share: how a call is timed, the ceilings of this machine, and how results are written.

A case is one compiled call. It is compiled (timed apart, without the persistent cache), run `WARM` times, then
`REPEATS` times, each until its results are there. Rates are by the median; the spread is from the fastest to the
slowest. Fractions of the ceiling count the operations of matrix products alone (`flops`), so they are lower bounds.
Ceilings are measured in the same process, before and after: the machine may be busy.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.flops import HOPPER
from branchax import replay
from branchax.build import build
from branchax.config import Config
from branchax.epoch.program import Program
from branchax.epoch.state import TrainState
from branchax.runs import rundir
from branchax.types import Row, Transition
from branchax.worlds.base import World, WorldSpec, make_world, never

RESULTS = Path("results/bench")
WARM, REPEATS = 2, 7


class Case(NamedTuple):
    """One compiled call and what it does."""

    settings: dict[str, Any]
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    work: float  # units done in one call
    flops: float | None = None  # operations of matrix products in one call
    carried: bool = False  # the first argument is donated, and what is returned takes its place


def run(case: Case, repeats: int = REPEATS) -> dict[str, Any]:
    """Compiles and times a case."""
    start = time.perf_counter()
    jitted = jax.jit(case.function, donate_argnums=0 if case.carried else ())
    compiled = jitted.lower(*case.arguments).compile()
    compile_s = time.perf_counter() - start
    first, *rest = case.arguments
    seconds = []
    for _ in range(WARM + repeats):
        begun = time.perf_counter()
        out = jax.block_until_ready(compiled(first, *rest))
        seconds.append(time.perf_counter() - begun)
        first = out if case.carried else first
    seconds = seconds[WARM:]
    memory = compiled.memory_analysis()
    analysed = compiled.cost_analysis() or {}
    median = statistics.median(seconds)
    return {
        "settings": case.settings,
        "work": case.work,
        "per_second": case.work / median,
        "seconds": seconds,
        "median_s": median,
        "compile_s": compile_s,
        "temporary_bytes": None if memory is None else memory.temp_size_in_bytes,
        "argument_bytes": None if memory is None else memory.argument_size_in_bytes,
        "bytes_accessed_by_xla_s_count": analysed.get("bytes accessed"),  # the body of a loop counts once
        "flops": case.flops,
        "flops_per_second": None if case.flops is None else case.flops / median,
    }


def ceilings() -> dict[str, float]:
    """GFLOP/s of the best large float32 matrix product (XLA's or, on a processor, NumPy's) and GB/s of a copy.

    An accelerator is given larger ones: 2,048 rows reach seven tenths of what 8,192 do on an H200.
    """
    size, megabytes = (2_048, 256) if jax.default_backend() == "cpu" else (8_192, 2_048)

    def best(function: Callable[[], Any], times: int = 5) -> float:
        jax.block_until_ready(function())
        found = []
        for _ in range(times):
            begun = time.perf_counter()
            jax.block_until_ready(function())
            found.append(time.perf_counter() - begun)
        return min(found)

    a = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda x: jnp.matmul(x, x, precision="highest"))
    fastest = best(lambda: product(a))
    if jax.default_backend() == "cpu":
        b = np.asarray(a)
        fastest = min(fastest, best(lambda: b @ b))
    row = jnp.zeros(megabytes * 2**18, jnp.float32)
    copy = jax.jit(lambda x: x + 1, donate_argnums=0)
    holder = [copy(row)]

    def again() -> Any:
        holder[0] = copy(holder[0])
        return holder[0]

    return {"matmul_gflops": 2 * size**3 / fastest / 1e9, "copy_gbs": 2 * megabytes * 2**20 / best(again) / 1e9}


def synthetic(obs: int = HOPPER[0], action: int = HOPPER[1]) -> World:
    """A world of given sizes that costs nothing, so that what is measured is not the simulator."""

    def step(key: Any, inner: Any, act: jax.Array) -> tuple[Any, ...]:
        return inner, inner, act.sum(), jnp.zeros((), bool)

    def reset(key: Any) -> tuple[Any, Any]:
        value = jax.random.normal(key, (obs,))
        return value, value

    return make_world(WorldSpec("synthetic", obs, action, 1_000, termination=never), reset, step)


def prepared(config: Config, rows: int = 10_000) -> tuple[Program, TrainState]:
    """The program of `config` in a synthetic world, and a state whose replay buffer holds `rows` random transitions.

    What follows in them is a smooth function of what was, so that a model can be fitted.
    """
    world = synthetic()
    program = build(replace(config, replay_capacity=max(rows, config.explore_steps)), world)
    state = jax.jit(program.init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(rows, world.spec.obs_size))
    action = rng.uniform(-1, 1, (rows, world.spec.action_size))
    mix = rng.normal(size=(obs.shape[1] + action.shape[1], obs.shape[1])) / 4
    after = obs + np.tanh(np.concatenate([obs, action], 1) @ mix)
    none = jnp.zeros(rows, bool)
    t = Transition(*(jnp.asarray(x, jnp.float32) for x in (obs, action, after[:, 0], after)), none, none)
    return program, state._replace(real=jax.jit(replay.add)(state.real, Row(t)))


def built(config: Config) -> tuple[Program, TrainState]:
    """The program of `config` in its own world, explored."""
    program = build(config)
    return program, jax.jit(program.init)(jax.random.key(config.seed))


def publish(name: str, unit: str, rows: list[dict[str, Any]], ceiling: dict[str, float], path: Path) -> Path:
    """Writes `<path>/<name>.json`, prints the table and draws the figure beside it."""
    after = ceilings()
    ceiling = {key: max(ceiling[key], after[key]) for key in ceiling}
    for row in rows:
        if row["flops_per_second"] is not None:
            row["of_matmul_ceiling"] = row["flops_per_second"] / ceiling["matmul_gflops"] / 1e9
    made = {"command": " ".join(["python", "-m", "benchmarks", *sys.argv[1:]]), "environment": rundir.environment()}
    file = path / f"{name}.json"
    rundir.write_json(file, {"benchmark": name, "unit": unit, "ceilings": ceiling, "rows": rows, "made": made})
    show(name, unit, rows, ceiling)
    draw(name, unit, rows, file.with_suffix(".png"))
    return file


def label(settings: dict[str, Any]) -> str:
    """A row's settings in one line."""
    return ", ".join(f"{k} {v:,}" if isinstance(v, int) else f"{k} {v}" for k, v in settings.items())


def show(name: str, unit: str, rows: Iterable[dict[str, Any]], ceiling: dict[str, float]) -> None:
    """The table of a measurement."""
    title = f"{name}: {unit}/s (ceilings: {ceiling['matmul_gflops']:.0f} GFLOP/s, {ceiling['copy_gbs']:.0f} GB/s)"
    table = Table("case", f"{unit}/s", "slowest to fastest", "of the matmul ceiling", "compile", "memory", title=title)
    for row in rows:
        fastest, slowest = row["work"] / min(row["seconds"]), row["work"] / max(row["seconds"])
        share = row.get("of_matmul_ceiling")
        memory = row["temporary_bytes"]
        table.add_row(
            label(row["settings"]),
            f"{row['per_second']:,.4g}",
            f"{slowest:,.4g} to {fastest:,.4g}",
            "" if share is None else f"{share:.0%}",
            f"{row['compile_s']:.1f} s",
            "" if memory is None else f"{memory / 2**20:,.0f} MiB",
        )
    Console(width=150).print(table)


def draw(name: str, unit: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Rates as bars with their spread."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 0.9 + 0.28 * len(rows)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, row in enumerate(rows):
        fastest, slowest = row["work"] / min(row["seconds"]), row["work"] / max(row["seconds"])
        axes.barh(i, row["per_second"], color="#0072B2", height=0.65)
        axes.plot([slowest, fastest], [i, i], color="#000000", linewidth=1.5)
        if (share := row.get("of_matmul_ceiling")) is not None:
            axes.annotate(f" {share:.0%}", (fastest, i), va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), [label(row["settings"]) for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel(f"{unit} per second; the line is the spread, % the share of the matmul ceiling", fontsize=8)
    axes.set_title(name, loc="left", fontsize=10)
    axes.tick_params(axis="x", labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)
