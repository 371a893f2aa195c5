"""Seconds to a return: whole runs of branchax and of other libraries, one after the other on one core.

    make bench-peers NAME=solve
    make bench-peers NAME=solve ARGS='--task InvertedDoublePendulum --method "sbx CrossQ" --seeds 3 --core 1'

A run has reached the return at the first of three evaluations in a row that are as good; it is given up after `--cap`
seconds. Each run is a process of its own with an empty cache of compiled programs, and seconds count from its start
(`whole.py`). The methods take turns: all of them with one seed, then with the next. Runs that are in
`results/bench/solve.json` are not run again, unless `--again` is given or they are of a preset that has changed since;
until then the table marks them with a dagger. A run that fails is said, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS
from benchmarks.peers.whole import HOLD, config_of
from branchax.config import to_dict
from branchax.errors import ConfigError
from branchax.runs import rundir
from experiments.harness import differences

RESULT = RESULTS / "solve.json"
TASKS = {"InvertedPendulum": 950.0, "InvertedDoublePendulum": 9_000.0, "Hopper": 3_000.0}  # what has to be returned
CAPS = {"InvertedPendulum": 600.0, "InvertedDoublePendulum": 600.0, "Hopper": 3_600.0}  # seconds, unless told
# Library: the environment's Python and its methods.
METHODS = {
    "branchax": (sys.executable, ("dhmbpo_tiny", "dhmbpo_small", "mbpo", "sac")),
    "sbx": (".venv-peers-sbx/bin/python", ("SAC", "DroQ", "CrossQ")),
    "stable-baselines3": (".venv-peers-sbx/bin/python", ("SAC",)),
    "mbrl-lib": (".venv-peers-mbrl/bin/python", ("MBPO",)),
}
# Methods that have settings for some of the tasks.
ONLY = {
    "branchax dhmbpo_tiny": ("InvertedPendulum", "InvertedDoublePendulum"),
    "branchax dhmbpo_small": ("Hopper",),
    "mbrl-lib MBPO": ("InvertedPendulum",),
}
Runs = dict[str, dict[str, Any]]  # by seed


def run(library: str, method: str, task: str, seed: int, cap: float, core: int | None) -> dict[str, Any]:
    """One run. Raises `RuntimeError` with what a run said that failed."""
    python = METHODS[library][0]
    if not Path(python).exists():
        raise FileNotFoundError(f"{python} is missing; make bench-peers makes it")
    words = [
        library,
        method,
        task,
        str(seed),
        str(TASKS[task]),
        str(cap),
        "" if core is None else str(core),
        str(time.time()),
    ]
    left_out = ("OPENBLAS_", "JAX_COMPILATION_CACHE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [python, "-m", "benchmarks.peers.whole", *words],
            env=environment | {"BRANCHAX_CACHE": cache, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
            timeout=cap + 600,  # for an evaluation that it is in when the cap is reached, and for compiling
        )
    if done.returncode:
        raise RuntimeError(f"{library} {method} on {task}, seed {seed}: {done.stderr[-2_000:]}")
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise RuntimeError(f"{library} {method} on {task}, seed {seed} said nothing: {done.stderr[-2_000:]}") from None


def reached(run: dict[str, Any]) -> tuple[float, float]:
    """Env steps and seconds of the first of the good evaluations; infinite where there are none."""
    steps, seconds, _ = run["evaluations"][-HOLD] if run["solved"] else (math.inf, math.inf, None)
    return steps, seconds


def summarise(runs: Runs) -> dict[str, Any]:
    """How many runs of a method reached the return, and medians over all; infinite where half of them did not."""
    steps, seconds = zip(*map(reached, runs.values()), strict=True)
    learning = [at - run["compile_s"] for at, run in zip(seconds, runs.values(), strict=True)]
    return {
        "solved": sum(run["solved"] for run in runs.values()),
        "of": len(runs),
        "env_steps": statistics.median(steps),
        "seconds": statistics.median(seconds),
        "seconds_range": [min(seconds), max(seconds)],
        "seconds_without_compiling": statistics.median(learning),
    }


def is_stale(library: str, method: str, task: str, seed: int, run: dict[str, Any]) -> bool:
    """Whether a run is of a preset with other settings than today's, or of one whose settings were not kept."""
    if library != "branchax":
        return False
    try:
        return "config" not in run or bool(differences(run["config"], config_of(method, task, seed)))
    except ConfigError:  # there is no such preset any more
        return True


def show(found: dict[str, dict[str, Runs]]) -> None:
    """A table for each task."""
    for task, methods in found.items():
        columns = ("method", "reached it", "env steps", "seconds", "range", "without compiling", "cores")
        table = Table(*columns, title=f"{task}: {TASKS[task]:,.0f}")
        for method, runs in methods.items():
            each, cap = summarise(runs), min(run["cap"] for run in runs.values())
            text = lambda value, cap=cap: f"{value:,.0f}" if math.isfinite(value) else f"> {cap:,.0f}"  # noqa: E731
            stale = any(is_stale(*method.split(" ", 1), task, int(seed), run) for seed, run in runs.items())
            table.add_row(
                method + " †" * stale,
                f"{each['solved']} of {each['of']}",
                f"{each['env_steps']:,.0f}" if math.isfinite(each["env_steps"]) else "-",
                text(each["seconds"]),
                " to ".join(map(text, each["seconds_range"])),
                text(each["seconds_without_compiling"]),
                ", ".join(sorted({str(run["cores"]) for run in runs.values()})),
            )
        Console(width=120).print(table)


def methods_of(task: str) -> list[tuple[str, str]]:
    """The libraries and methods for a task."""
    return [
        (library, method)
        for library, (_, methods) in METHODS.items()
        for method in methods
        if task in ONLY.get(f"{library} {method}", TASKS)
    ]


def load() -> dict[str, dict[str, Runs]]:
    """The runs that there are, by task and method."""
    return json.loads(RESULT.read_text(encoding="utf-8"))["runs"] if RESULT.exists() else {}


def main(words: list[str] | None = None) -> None:
    """Runs what is missing of what was asked for, and saves after each run."""
    parser = argparse.ArgumentParser("python -m benchmarks.peers solve", description=__doc__)
    names = sorted({" ".join(pair) for task in TASKS for pair in methods_of(task)})
    parser.add_argument("--task", choices=TASKS, action="append", help="default: all")
    parser.add_argument("--method", choices=names, action="append", help="default: all")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cap", type=float, help="seconds after which a run is given up (600; Hopper: 3,600)")
    parser.add_argument("--core", type=int, help="of the machine, for each run; default: all cores")
    parser.add_argument("--again", action="store_true", help="also what was run before")
    options, failed = parser.parse_args(words), 0
    for seed in range(options.seeds):
        for task in options.task or TASKS:
            for library, method in methods_of(task):
                name = f"{library} {method}"
                # Read anew each time: a second process may work on another core.
                kept = load()
                runs = kept.get(task, {}).get(name, {})
                there = str(seed) in runs and not is_stale(library, method, task, seed, runs[str(seed)])
                if (options.method and name not in options.method) or (there and not options.again):
                    continue
                print(f"{task}: {name}, seed {seed}", flush=True)
                cap = CAPS[task] if options.cap is None else options.cap
                try:
                    found = run(library, method, task, seed, cap, options.core) | {"cap": cap}
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    print(f"failed: {error}", file=sys.stderr, flush=True)
                    failed += 1
                    continue
                if library == "branchax":
                    found["config"] = to_dict(config_of(method, task, seed))
                made = {"command": "make bench-peers NAME=solve", "environment": rundir.environment()}
                kept = load()
                found["commit"] = made["environment"]["commit"]
                kept.setdefault(task, {}).setdefault(name, {})[str(seed)] = found
                rundir.write_json(RESULT, {"benchmark": "solve", "runs": kept, "made": made})
    show(load())
    if failed:
        sys.exit(f"{failed} runs failed")


if __name__ == "__main__":
    main()
