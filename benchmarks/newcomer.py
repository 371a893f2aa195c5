"""The newcomer's path, from README and docs: each command, how long it takes, and that it did what it says.

Train and press Ctrl-C, resume, train another run, plot both, a report, a GIF, take the policy away and use it with
NumPy alone, evaluate, diagnose; then a world of one's own, as `docs/worlds.md` has it, checked and trained in. Runs are
as short and networks as small as can be: what is measured is the way, not the learning.

    make bench NAME=newcomer      # minutes: results/newcomer.json

Each is a process of its own, and nothing is compiled when the first one starts. The clock is what a user waits.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from branchax.runs import rundir

RESULT = Path("results/newcomer.json")
WORLDS = Path("docs/worlds.md")
EVALUATION = re.compile(r"\s+[\d,]+\s+\d+ .*±")  # a line of a run's table


class Step(NamedTuple):
    """One command of the path."""

    command: str
    makes: str = ""  # a file that is there afterwards
    says: str = ""  # what it prints, among other things
    interrupt: int = 0  # Ctrl-C when it has printed as many evaluations
    code: int = 0  # that it exits with
    folder: str = ""  # where


SMALL = "--explore-steps 200 --epoch-steps 100 --model.hidden 32 --agent.hidden 32 --updates-per-step 2"
TRAIN = f"branchax train mbpo --world classic/pendulum {SMALL}"
USE = "import numpy as np; from policy import load; print(load()(np.zeros((2, 3))).shape)"
STEPS = (
    Step(f"{TRAIN} --env-steps 1500 --run runs/A", interrupt=2, code=75, says="branchax resume runs/A"),
    Step("branchax resume runs/A", "runs/A/plots/learning_curve.png", "goes on after"),
    Step(f"{TRAIN} --env-steps 400 --seed 1 --agent.tau 0.02 --run runs/B", "runs/B/plots/learning_curve.png"),
    Step("branchax plot runs/A runs/B", "plots/learning_curve.png"),
    Step("branchax report runs/A runs/B --diagnose", "plots/report.html"),
    Step("branchax render runs/A", "runs/A/plots/policy.gif"),
    Step("branchax export runs/A", "runs/A/policy/policy.npz"),
    Step(f"python -c {shlex.quote(USE)}", says="(2, 1)", folder="runs/A/policy"),
    Step("branchax evaluate runs/A --episodes 20", says="return"),
    Step("branchax diagnose runs/A", says="model"),
    Step("branchax doctor runs/A", says="every file is what was written"),
    Step("branchax check-world hill:hill", says="ok  10"),
    Step(
        f"branchax train mbpo --world hill:hill {SMALL} --env-steps 400 --run runs/hill",
        "runs/hill/plots/learning_curve.png",
    ),
)


def walk(step: Step, work: Path) -> float:
    """Runs a command in the folder `work` and returns the seconds that it took. Fails unless it did what it should."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "BRANCHAX_CACHE": str(work / "cache"), "PATH": path}
    where = {"cwd": work / step.folder, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    start, text, evaluations = time.perf_counter(), "", 0
    with subprocess.Popen(shlex.split(step.command), text=True, **where) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text += line
            if EVALUATION.match(line):
                evaluations += 1
                if evaluations == step.interrupt:
                    process.send_signal(signal.SIGINT)
    seconds = time.perf_counter() - start
    assert process.returncode == step.code, f"{step.command}: exit code {process.returncode}\n{text}"
    assert step.says in text, f"{step.command}: does not say {step.says!r}\n{text}"
    assert not step.makes or (work / step.makes).exists(), f"{step.command}: no {step.makes}\n{text}"
    return round(seconds, 1)


def main() -> None:
    """Walks the path and writes `results/newcomer.json`."""
    found, load = [], os.getloadavg()[0]
    (own,) = re.findall(r"```python\n(.*?)```", WORLDS.read_text(encoding="utf-8"), re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "hill.py").write_text(own, encoding="utf-8")
        for step in STEPS:
            found.append({"command": step.command, "seconds": walk(step, work)})
            if step.interrupt:
                found[-1]["interrupted"] = f"Ctrl-C after {step.interrupt} evaluations"
            print(f"{found[-1]['seconds']:7.1f} s   {step.command}", flush=True)
    data = {
        "steps": found,
        "seconds": round(sum(step["seconds"] for step in found), 1),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],  # before and after
        "made": {"command": "make bench NAME=newcomer", "environment": rundir.environment()},
    }
    rundir.write_json(RESULT, data)
    print(f"{data['seconds']:7.1f} s   in all; written to {RESULT}")


if __name__ == "__main__":
    main()
