"""`branchax runs`, `branchax completion`, and what the command line says of itself."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from test_plots import make_run

from branchax import cli
from branchax.config import to_dict
from branchax.presets import preset
from branchax.runs import lock, progress, rundir, runlog
from branchax.runs.overview import overview
from branchax.runs.signals import Preempted, Stop


def a_run(directory, state=None, seeds=1, steps=250, world="classic/pendulum", **fields):
    """A run's directory with one evaluation of each seed."""
    config = preset("sac", world, env_steps=1_000, seeds=seeds, **fields)
    rundir.write_json(directory / rundir.CONFIG, to_dict(config))
    rows = [
        {"seed": i, "env_steps": steps, "epoch": 1, "wall_s": 65.4, runlog.RETURN: -200.0 - 10 * i}
        for i in range(seeds)
    ]
    (directory / rundir.METRICS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    if state is not None:
        rundir.write_status(directory, state, steps)
    return directory


def test_a_line_for_each_run(tmp_path):
    one = a_run(tmp_path / "one", "done", steps=1_000)
    other = a_run(tmp_path / "other", "running", seeds=2, **{"agent.tau": 0.05})
    new = tmp_path / "new"
    rundir.write_json(new / rundir.CONFIG, to_dict(preset("mbpo", "classic/pendulum")))
    with lock.held(other):
        lines = overview([one, other, new])
    assert [(x.state, x.steps, x.wanted, x.returned, x.seconds) for x in lines] == [
        ("done", 1_000, 1_000, -200.0, 65.4),
        ("running", 250, 1_000, -205.0, 65.4),
        ("new", 0, 1_500, None, 0.0),
    ]
    assert [x.differs for x in lines] == ["tau=0.02", "tau=0.05", ""]
    assert overview([other])[0].state == "killed"  # nobody holds its lock


def test_the_table_takes_folders_and_looks_into_runs_by_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["runs"]) == 2 and "runs holds no run" in capsys.readouterr().err
    a_run(tmp_path / "runs" / "one", "done", steps=1_000)
    a_run(tmp_path / "runs" / "two", "preempted", agent__tau=0.05)
    assert cli.main(["runs"]) == 0
    said = capsys.readouterr().out
    rows = [line.split() for line in said.splitlines() if "runs/" in line]
    assert rows == [
        ["runs/one", "done", "1,000", "-200.0", "1:05", "tau=0.02"],
        ["runs/two", "preempted", "250/1,000", "-200.0", "1:05", "tau=0.05"],
    ]
    assert cli.main(["runs", "runs/two"]) == 0
    said = capsys.readouterr().out
    assert "runs/one" not in said and "differs" not in said and "world" not in said  # nothing to compare it with
    a_run(tmp_path / "runs" / "three", "done", steps=1_000, world="classic/lqr")
    assert cli.main(["runs", "runs/three", "runs/one"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "runs/" in line]
    assert [row[:3] for row in rows] == [
        ["runs/three", "classic/lqr", "done"],
        ["runs/one", "classic/pendulum", "done"],
    ]


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_shell_completes(capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    typed = {
        "branchax pl": "play plot",
        "branchax train mbpo_": "mbpo_paper mbpo_td3",
        "branchax train mbpo --agent.le": "--agent.learning-rate --agent.learn-temperature",
        "branchax train mbpo --world classic/po": "classic/point_mass",
        "branchax sweep mbpo --gri": "--grid",
        "branchax resume DIR --env": "--env-workers --env-steps",
        "branchax play DIR --st": "--steps",
        "branchax completion ": "bash zsh --help",
        "branchax evaluate DI": "",  # a file
    }
    asks = [
        f"COMP_WORDS=({' '.join(repr(w) for w in line.split(' '))}); COMP_CWORD={line.count(' ')}; _branchax;"
        ' echo "${COMPREPLY[@]}"'
        for line in typed
    ]
    done = subprocess.run(["bash", "-c", "\n".join([script, *asks])], capture_output=True, text=True, check=True)
    assert dict(zip(typed, done.stdout.split("\n"), strict=False)) == typed and not done.stderr
    assert cli.main(["completion", "zsh"]) == 0 and capsys.readouterr().out.endswith(script)
    assert cli.main(["completion", "fish"]) == 2


def test_a_signal_is_acknowledged_while_the_epoch_goes_on():
    stop, said, future = Stop(grace=3.0), [], Future()
    stop.say = said.append
    threading.Timer(0.7, future.set_result, ["done"]).start()
    with stop.handled(), stop.deferred():
        os.kill(os.getpid(), signal.SIGINT)
        start = time.monotonic()
        assert stop.wait(future) == "done" and time.monotonic() - start > 0.5
    assert said == ["  Ctrl-C: stopping after this epoch (within 3 s); Ctrl-C again stops at once"]
    quiet = Stop(grace=0.0)
    quiet.say = said.append
    assert quiet.wait(future) == "done" and len(said) == 1
    with quiet.handled(), quiet.deferred(), pytest.raises(Preempted):
        os.kill(os.getpid(), signal.SIGTERM)
        quiet.wait(Future())
    assert len(said) == 2


def test_what_is_advised_can_be_pasted(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/branchax")
    assert progress.called() == "branchax"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    for argument, said in {
        ".venv/bin/branchax": ".venv/bin/branchax",
        "/lib/branchax/__main__.py": f"{sys.executable} -m branchax",
        "mine.py": "branchax",
    }.items():
        monkeypatch.setattr(sys, "argv", [argument])
        assert progress.called() == said
    words = shlex.split(progress.advised("resume", Path("my runs/a [1] $x")))
    assert words == ["branchax", "resume", "my runs/a [1] $x"]


def test_plot_says_what_it_draws(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a", preset("sac", "classic/pendulum"))
    assert cli.main(["plot", "a"]) == 0
    assert capsys.readouterr().err == "drawing the curves of 1 run\n"
