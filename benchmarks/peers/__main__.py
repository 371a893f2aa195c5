"""`make bench-peers`, or `python -m benchmarks.peers [CASE ...] [--rounds N]`: ratios to other libraries.

Each library has a process of its own (`worker.py`) that compiles and warms up before anything is timed. Then they take
turns, A B A B ..., so that what else the machine does befalls both; the figure is the median of the ratios of
neighbours, with the smallest and the largest. One process works at a time, with as many threads as its library takes by
itself. Fractions are of the fastest large matrix product that either managed in this run, and count the operations of
matrix products alone. Writes `results/bench/peers.json`; cases that are not named keep what stands there.

`make bench-peers NAME=solve` times whole runs to a return instead (`solve.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import flops
from benchmarks.harness import HOPPER, RESULTS
from benchmarks.peers import solve
from branchax.config import ModelConfig, SACConfig
from branchax.runs import rundir

OURS, RESULT = "branchax", RESULTS / "peers.json"
# Library: the environment's Python and the module that serves it.
LIBRARIES = {
    OURS: (sys.executable, "ours"),
    "brax": (sys.executable, "ours"),
    "mbrl-lib": (".venv-peers-mbrl/bin/python", "torch_mbrl"),
    "stable-baselines3": (".venv-peers-sbx/bin/python", "baselines"),
    "sbx": (".venv-peers-sbx/bin/python", "baselines"),
}
SIZES = {"obs": HOPPER[0], "action": HOPPER[1]}
UPDATES = {**SIZES, "hidden": 256, "batch": 256, "updates": 50}
CARTPOLE = (4, 1)  # sizes of InvertedPendulum


class Comparison(NamedTuple):
    """The same work in two libraries."""

    peer: str
    task: str  # of branchax' worker
    settings: dict[str, Any]
    unit: str
    work: float  # units in one call
    rounds: int
    about: str
    theirs: str | None = None  # the peer's task, when it goes by another name


def comparisons() -> dict[str, Comparison]:
    """All of them by name, at the paper's sizes."""
    fit = {**SIZES, "rows": 6_400, "rounds": 5}  # 5,120 rows to train on: 20 minibatches of 256 are one pass
    found = {}
    for batch, horizon in ((100_000, 1), (10_000, 5)):
        settings, about = {**SIZES, "rollouts": batch, "horizon": horizon}, f"{batch:,} rollouts of {horizon}"
        found[f"imagine_{horizon}"] = Comparison(
            "mbrl-lib", "imagine", settings, "model steps", batch * horizon, 7, about
        )
    rows = fit["rounds"] * 20 * 256 * 7
    found["fit"] = Comparison("mbrl-lib", "fit", fit, "sample members", rows, 7, "7 x (4 x 200), batches of 256")
    found["sac"] = Comparison("mbrl-lib", "sac", UPDATES, "updates", 50, 9, "SAC 2 x 256, batches of 256")
    for peer, task in (("stable-baselines3", "sb3_sac"), ("sbx", "sbx_sac"), ("brax", "brax_sac")):
        found[task] = Comparison(peer, "sac", UPDATES, "updates", 50, 9, "SAC 2 x 256, batches of 256", task)
    for name, good, about in (
        ("loop", 0.0, "MBPO on InvertedPendulum, MBPO's own stop of a fit"),
        ("loop_good_error", 3e-4, "the same; branchax stops a fit that is good enough"),
    ):
        settings = {"explore": 5_000, "good_error": good}
        found[name] = Comparison("mbrl-lib", "loop", settings, "env steps", 250, 4, about)
    return found


def floor(task: str, settings: dict[str, Any], work: float, reply: dict[str, Any]) -> float:
    """Operations of matrix products in one call."""
    model, agent = ModelConfig(), SACConfig()
    if task == "imagine":
        return work * flops.model_step(*HOPPER, model, agent)
    if task == "fit":
        return work * flops.model_fit(*HOPPER, model)
    if task == "sac":
        return work * settings["batch"] * flops.sac_row(*HOPPER, agent)
    imagined = work * 400 * flops.model_step(*CARTPOLE, model, agent)
    improved = work * 10 * 256 * flops.sac_row(*CARTPOLE, agent)
    return imagined + improved + reply["fit_sample_members"] * flops.model_fit(*CARTPOLE, model)


class Worker:
    """A library in a process of its own."""

    def __init__(self, library: str) -> None:
        python, module = LIBRARIES[library]
        if not Path(python).exists():
            raise FileNotFoundError(f"{python} is missing; make bench-peers makes it")
        command = [python, "-m", f"benchmarks.peers.{module}"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.about = self._answer()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits. Raises `RuntimeError` with the worker's trace."""
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the worker has ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.kill()
        self.process.wait()


def ceiling(worker: Worker) -> float:
    """GFLOP/s of the fastest large matrix product in a worker."""
    worker.ask(prepare="ceiling", settings={})
    return worker.ask(once="ceiling")["gflops"]


def side(seconds: list[float], replies: list[dict[str, Any]], each: Comparison, gflops: float) -> dict[str, Any]:
    """What is said of one library in one comparison."""
    rate = each.work / statistics.median(seconds)
    done = [floor(each.task, each.settings, each.work, reply) for reply in replies]
    return {
        "seconds": seconds,
        "per_second": rate,
        "of_matmul_ceiling": sum(done) / sum(seconds) / gflops / 1e9,
        **({"fit_sample_members": [r["fit_sample_members"] for r in replies]} if each.task == "loop" else {}),
    }


def compare(ours: Worker, theirs: Worker, each: Comparison, rounds: int | None) -> dict[str, Any]:
    """Times both sides in turns."""
    names = (each.task, each.theirs or each.task)
    ceilings = [ceiling(ours)] + ([ceiling(theirs)] if each.peer == "mbrl-lib" else [])
    prepare_s = [
        w.ask(prepare=name, settings=each.settings)["seconds"] for w, name in zip((ours, theirs), names, strict=True)
    ]
    turns = [(ours.ask(once=names[0]), theirs.ask(once=names[1])) for _ in range(rounds or each.rounds)]
    ceilings.append(ceiling(ours))
    sides = list(zip(*turns, strict=True))
    seconds = [[reply["seconds"] for reply in replies] for replies in sides]
    ratios = [theirs / ours for ours, theirs in zip(*seconds, strict=True)]
    return {
        "about": each.about,
        "settings": each.settings,
        "unit": each.unit,
        "peer": each.peer,
        "ratio": statistics.median(ratios),
        "ratio_of_sums": sum(seconds[1]) / sum(seconds[0]),
        "ratios": ratios,
        "matmul_gflops": max(ceilings),
        OURS: side(seconds[0], list(sides[0]), each, max(ceilings)) | {"prepare_s": prepare_s[0]},
        each.peer: side(seconds[1], list(sides[1]), each, max(ceilings)) | {"prepare_s": prepare_s[1]},
        "threads": {OURS: ours.about["threads"], each.peer: theirs.about["threads"]},
        "versions": {OURS: ours.about["versions"], each.peer: theirs.about["versions"]},
    }


def show(rows: dict[str, dict[str, Any]]) -> None:
    """The table."""
    table = Table("case", "peer", "peer takes", "of each turn", OURS, "peer", "of the matmul ceiling", title="peers")
    for row in rows.values():
        ours, theirs = row[OURS], row[row["peer"]]
        table.add_row(
            row["about"],
            row["peer"],
            f"x{row['ratio']:.2f}",
            f"{min(row['ratios']):.2f} to {max(row['ratios']):.2f}",
            f"{ours['per_second']:,.4g} {row['unit']}/s",
            f"{theirs['per_second']:,.4g}",
            f"{ours['of_matmul_ceiling']:.0%} / {theirs['of_matmul_ceiling']:.0%}",
        )
    Console(width=150).print(table)


def main() -> None:
    """Measures what was asked for."""
    if sys.argv[1:2] == ["solve"]:
        solve.main(sys.argv[2:])
        return
    known = comparisons()
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CASE", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--rounds", type=int, help="turns of each case")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}, and solve, alone")
    kept = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {"rows": {}}
    made = {"command": "python -m benchmarks.peers", "environment": rundir.environment()}
    workers: dict[str, Worker] = {}
    try:
        for name in options.names or known:
            print(name, flush=True)
            pair = [OURS, known[name].peer]
            for library in pair:
                if library not in workers:
                    workers[library] = Worker(library)
            ours, theirs = (workers[library] for library in pair)
            row = compare(ours, theirs, known[name], options.rounds)
            kept["rows"][name] = row | {"commit": made["environment"]["commit"]}
            rundir.write_json(RESULT, {"benchmark": "peers", "rows": kept["rows"], "made": made})
    finally:
        for worker in workers.values():
            worker.close()
    show(kept["rows"])


if __name__ == "__main__":
    main()
