"""How long a newcomer waits: for help, for a refusal, for the first line of a run, for a short run from start to end.

    help        `branchax --help` and `branchax train mbpo --help`                       aim: 0.5 s
    typo        a command, a flag, a preset and a world, misspelt                        aim: 1 s
    first_line  of `branchax train mbpo`, from the return key on                         aim: 3 s
    smoke       `branchax train mbpo` on the inverted pendulum, 500 real steps: cold, when nothing is compiled yet, and
                warm, for a second time                                                  aims: 60 s and 20 s

    make bench NAME=first_steps      # three minutes: results/first_steps.json

Each is a process of its own. The clock is what a user waits and what the aims are for; on a machine that is busy (the
load average stands beside it) the seconds of processor time say more.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from branchax.runs import rundir

RESULT = Path("results/first_steps.json")
AIMS = {"help": 0.5, "typo": 1.0, "first_line": 3.0, "smoke_cold": 60.0, "smoke_warm": 20.0}
REPEATS = 5
HELP = (["--help"], ["train", "mbpo", "--help"])
TYPOS = (
    ["tran"],
    ["train", "mbpo", "--env-stps", "9"],
    ["train", "mbop"],
    ["train", "mbpo", "--world", "brax/hoper"],
    ["plot", "--curvs"],
)
SMOKE = ["train", "mbpo", "--world", "brax/inverted_pendulum", "--env-steps", "500"]


def timed(arguments: Sequence[str], work: Path, code: int = 0) -> dict[str, float]:
    """Runs `branchax` in the folder `work`: seconds until it has ended, until its first line, and of processor time."""
    environment = {**os.environ, "BRANCHAX_CACHE": str(work / "cache")}
    command = [sys.executable, "-m", "branchax", *arguments]
    before, start = os.times(), time.perf_counter()
    with subprocess.Popen(
        command, cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        first, at = process.stdout.readline(), time.perf_counter() - start
        rest = process.stdout.read()
    wall, after = time.perf_counter() - start, os.times()
    assert process.returncode == code, first + rest
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"wall_s": round(wall, 3), "first_line_s": round(at, 3), "cpu_s": round(cpu, 3)}


def quickest(arguments: Sequence[str], work: Path, code: int = 0) -> dict[str, Any]:
    """The quickest of several: what is slower is the machine's other work."""
    found = [timed(arguments, work, code) for _ in range(REPEATS)]
    return {"command": " ".join(["branchax", *arguments]), **min(found, key=lambda x: x["wall_s"]), "of": REPEATS}


def main() -> None:
    """Measures and writes `results/first_steps.json`."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        cases = {"help": [quickest(a, work) for a in HELP], "typo": [quickest(a, work, code=2) for a in TYPOS]}
        for name in ("smoke_cold", "smoke_warm"):
            cases[name] = [{"command": " ".join(["branchax", *SMOKE]), **timed(SMOKE, work)}]
    slowest = {name: max(case["wall_s"] for case in each) for name, each in cases.items()}
    slowest["first_line"] = max(cases[name][0]["first_line_s"] for name in ("smoke_cold", "smoke_warm"))
    data = {
        "seconds": {name: {"slowest": slowest[name], "aim": aim} for name, aim in AIMS.items()},
        "cases": cases,
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],  # before and after
        "made": {"command": "make bench NAME=first_steps", "environment": rundir.environment()},
    }
    rundir.write_json(RESULT, data)
    for name, aim in AIMS.items():
        print(
            f"{name:<11} {slowest[name]:6.2f} s   {'within' if slowest[name] <= aim else 'OVER'} the aim of {aim:g} s"
        )
    print("written to", RESULT)


if __name__ == "__main__":
    main()
