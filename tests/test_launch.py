"""Launchers run each command once, no more at a time than asked for, and hand back what became of it."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from branchax.errors import ConfigError
from branchax.runs import rundir, runlog
from branchax.sweeps import sweep
from branchax.sweeps.launch import Command, launch

NEEDS = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is an extra")


def settings_of(launcher):
    return {"cluster": "local"} if launcher == "submitit" else {}


@pytest.mark.parametrize("launcher", ["local", pytest.param("submitit", marks=NEEDS)])
def test_exit_codes_in_order(launcher, tmp_path):
    commands = [[sys.executable, "-c", f"raise SystemExit({code})"] for code in (0, 3, 0)]
    assert launch(commands, 2, launcher, tmp_path, settings_of(launcher)) == [0, 3, 0]


@pytest.mark.parametrize("launcher", ["local", pytest.param("submitit", marks=[NEEDS, pytest.mark.slow])])
def test_no_more_at_once_than_jobs(launcher, tmp_path):
    look = (
        "import pathlib, sys, time; me = pathlib.Path(sys.argv[1]); me.touch(); time.sleep(0.3);"
        "n = len(list(me.parent.glob('*.on'))); me.unlink(); sys.exit(n)"
    )
    commands = [[sys.executable, "-c", look, str(tmp_path / f"{i}.on")] for i in range(3)]
    assert launch(commands, 1, launcher, tmp_path / "jobs", settings_of(launcher)) == [1, 1, 1]


CHILD = """
import pathlib, signal, sys, time
me = pathlib.Path(sys.argv[1])
def end(*_):
    time.sleep(1.5)  # saving takes a while
    me.write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, end)
me.write_text("runs")
time.sleep(60)
"""
STOPPED = """
import sys
from pathlib import Path
from branchax.sweeps.launch import launch
from branchax.runs.signals import Preempted
launcher, folder, child = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
commands = [[sys.executable, "-c", child, str(folder / str(i))] for i in range(3)]
try:
    launch(commands, 2, launcher, folder / "jobs", {"cluster": "local"} if launcher == "submitit" else {})
except Preempted as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("launcher", ["local", pytest.param("submitit", marks=NEEDS)])
def test_a_launcher_that_is_stopped_ends_what_it_has_started_and_waits_for_it(launcher, tmp_path):
    command = [sys.executable, "-c", STOPPED, launcher, str(tmp_path), CHILD]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: all((tmp_path / x).exists() and (tmp_path / x).read_text() for x in "01"), process)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 75 and said == "stopped by SIGTERM\n"
    assert [(tmp_path / x).read_text() for x in "01"] == ["saved"] * 2 and not (tmp_path / "2").exists()


def until(true, process, seconds=120):
    end = time.monotonic() + seconds
    while not true() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["local", pytest.param("submitit", marks=NEEDS)])
def test_a_sweep_that_is_stopped_goes_on_and_ends_with_one_table(launcher, tmp_path):
    """Two values of a float, three seeds each: stopped by SIGTERM, then the same command again."""
    words = (
        "sweep sac --world classic/lqr --explore-steps 20 --epoch-steps 10 --batch-size 8 --updates-per-step 1"
        " --eval-every 20 --eval-episodes 2 --episode-length 10 --agent.hidden 8 --env-steps 4020 --seeds 3"
        f" --checkpoint-every 20 --grid agent.tau=0.01,0.02 --launcher {launcher}"
    ).split()
    words += ["--launch", "cluster=local"] if launcher == "submitit" else []

    def start(run):
        command = [sys.executable, "-m", "branchax", *words, "--run", str(tmp_path / run)]
        env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

    def rows(run):
        return [
            [
                {k: v for k, v in row.items() if k != "wall_s"}
                for row in runlog.read(tmp_path / run / p / rundir.METRICS)
            ]
            for p in ("agent.tau=0.01", "agent.tau=0.02")
        ]

    process = start("cut")
    until(lambda: len(rows("cut")[1]) > 30, process, 300)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "stopped by SIGTERM" in err and "the same command goes on" in err and "Traceback" not in out + err
    points = sweep.load(tmp_path / "cut")
    states = [rundir.status(tmp_path / "cut" / point.name) for point in points]
    assert [state["state"] for state in states] == ["preempted"] * 2
    saved = {state["last_good_step"] for state in states}
    assert saved == {rows("cut")[0][-1]["env_steps"]} and saved.pop() < 4020

    both = [start("cut"), start("whole")]
    outs = [process.communicate(timeout=600) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    assert rows("cut") == rows("whole") and len(rows("cut")[0]) == 401 * 3
    assert outs[0][0].count("last evaluations, mean ± SD over 3 seeds") == 1
    assert len(re.findall(r"^ +0\.0[12] +-?[0-9.]+ ± [0-9.]+ +4,020 ", outs[0][0], re.M)) == 2


@NEEDS
def test_a_preempted_job_is_submitted_again():
    again = Command(("true",)).checkpoint()
    assert again.function == Command(("true",))


@NEEDS
def test_a_setting_that_the_executor_does_not_know(tmp_path):
    with pytest.raises(ConfigError, match=r"launch: .*gpus"):
        launch([["true"]], 1, "submitit", tmp_path, {"cluster": "local", "gpus": "1"})


def test_refused(monkeypatch):
    with pytest.raises(ConfigError, match="did you mean submitit"):
        launch([], 1, "submit")
    with pytest.raises(ConfigError, match="with --launcher submitit only"):
        launch([], 1, "local", settings={"timeout_min": "3"})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"branchax\[cluster\]"):
        launch([], 1, "submitit")
