"""Launchers run each command once, no more at a time than asked for, and hand back what became of it."""

import importlib.util
import sys

import pytest

from branchax.config import ConfigError
from branchax.host.launch import Command, launch

NEEDS = pytest.mark.skipif(importlib.util.find_spec("submitit") is None, reason="submitit is an extra")


def settings_of(launcher):
    return {"cluster": "local"} if launcher == "submitit" else {}


@pytest.mark.parametrize("launcher", ["local", pytest.param("submitit", marks=NEEDS)])
def test_exit_codes_in_order(launcher, tmp_path):
    commands = [[sys.executable, "-c", f"raise SystemExit({code})"] for code in (0, 3, 0)]
    assert launch(commands, 2, launcher, tmp_path, settings_of(launcher)) == [0, 3, 0]


@pytest.mark.parametrize("launcher", ["local", pytest.param("submitit", marks=NEEDS)])
def test_no_more_at_once_than_jobs(launcher, tmp_path):
    look = (
        "import pathlib, sys, time; me = pathlib.Path(sys.argv[1]); me.touch(); time.sleep(0.3);"
        "n = len(list(me.parent.glob('*.on'))); me.unlink(); sys.exit(n)"
    )
    commands = [[sys.executable, "-c", look, str(tmp_path / f"{i}.on")] for i in range(3)]
    assert launch(commands, 1, launcher, tmp_path / "jobs", settings_of(launcher)) == [1, 1, 1]


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
