"""Weights & Biases: the rows that TensorBoard has, a resumed run in the same place; and the package, if it is there."""

import importlib.util
import json
import os
import sys
import types

import pytest
from conftest import replace, toy_program

from branchax.config import ConfigError
from branchax.host import run as host
from branchax.host import rundir, runlog, wandb


class Server:
    """What W&B would know: for each run's id, `{step: numbers}`. It takes no step that it is past."""

    Error = RuntimeError

    def __init__(self):
        self.runs, self.opened, self.refuses = {}, [], False

    def init(self, **options):
        if self.refuses:
            raise self.Error("api_key not configured (no-tty)\nmore")
        self.opened.append(options)
        history = self.runs.setdefault(options["id"], {})

        def log(numbers, step, commit):
            assert step >= run.step
            history[step], run.step = numbers, step + 1

        past = max(history, default=-1) + 1
        run = types.SimpleNamespace(step=past, log=log, finish=lambda: None, offline=False, url="https://example.com")
        return run

    def Settings(self, **options):
        return types.SimpleNamespace(project=None, **options)


@pytest.fixture
def server(monkeypatch):
    found = Server()
    monkeypatch.setitem(sys.modules, "wandb", found)
    monkeypatch.setattr(wandb, "check", lambda: None)
    monkeypatch.setattr("branchax.build.build", toy_program)
    return found


def test_it_has_the_rows_of_the_run_and_a_resumed_run_goes_on_in_it(server, toy_config, tmp_path):
    config = replace(toy_config, env_steps=40, seeds=2, wandb=True)
    host.train(config, tmp_path)
    host.train(replace(config, env_steps=60), tmp_path)
    ids = json.loads((tmp_path / rundir.WANDB / "ids.json").read_text())
    assert list(ids) == ["0", "1"] and set(server.runs) == set(ids.values())
    for seed, name in ids.items():
        rows = [row for row in runlog.read(tmp_path / rundir.METRICS) if row["seed"] == int(seed)]
        expected = {
            row["env_steps"]: {n: x for n, x in row.items() if n not in runlog.SKIPPED and x is not None}
            for row in rows
        }
        assert list(expected) == [20, 30, 40, 50, 60] and server.runs[name] == expected
    assert {options["group"] for options in server.opened} == {tmp_path.name}


def test_a_run_that_had_none_brings_its_past(server, toy_config, tmp_path):
    host.train(replace(toy_config, env_steps=40), tmp_path)
    assert not server.runs and not (tmp_path / rundir.WANDB).exists()
    host.train(replace(toy_config, env_steps=60, wandb=True), tmp_path)
    assert [list(history) for history in server.runs.values()] == [[20, 30, 40, 50, 60]]


def test_a_refusal_is_one_line(server, toy_config, tmp_path):
    server.refuses = True
    with pytest.raises(
        ConfigError, match=r"^wandb: api_key not configured \(no-tty\); allowed: wandb login, .*offline"
    ):
        host.train(replace(toy_config, wandb=True), tmp_path)


def test_a_missing_package_is_named_with_the_cure(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'branchax\[wandb\]'"):
        wandb.check()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")
def test_offline(toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr("branchax.build.build", toy_program)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    for env_steps in (40, 60):
        host.train(replace(toy_config, env_steps=env_steps, wandb=True), tmp_path)
    (name,) = json.loads((tmp_path / rundir.WANDB / "ids.json").read_text()).values()
    assert len(list((tmp_path / rundir.WANDB).glob(f"offline-run-*-{name}/run-{name}.wandb"))) == 2
