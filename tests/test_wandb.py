"""Weights & Biases: the rows that TensorBoard has, a resumed run in the same place; and the package, if it is there."""

import importlib.util
import json
import os
import subprocess
import sys
import types

import pytest
from conftest import replace, toy_program

from branchax.commands.train import launch
from branchax.devices.distributed import Processes
from branchax.errors import ConfigError
from branchax.runs import rundir, runlog, trackers
from branchax.runs import train as host

needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="needs wandb")


class Server:
    """What W&B would know: for each run's id, `{step: numbers}`. It takes no step that it is past."""

    Error = RuntimeError

    def __init__(self):
        self.runs, self.opened, self.refuses = {}, [], False
        self.mode, self.key, self.run = "online", "0" * 40, None

    def setup(self, settings=None):
        return types.SimpleNamespace(settings=types.SimpleNamespace(mode=self.mode))

    def login(self, prompt, verify):
        assert not prompt and not verify and self.mode != "offline"
        if self.key is not None and len(self.key) < 40:
            raise self.Error("WANDB_API_KEY invalid: too short.")
        return self.key is not None

    def init(self, **options):
        if self.refuses:
            raise self.Error("no network\nmore")
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
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: types.SimpleNamespace(origin=name))
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
    with pytest.raises(ConfigError, match=r"^wandb: no network; allowed: wandb login, .*offline"):
        host.train(replace(toy_config, wandb=True), tmp_path)


@pytest.mark.parametrize(("key", "why"), [(None, "not logged in"), ("abc", "WANDB_API_KEY invalid: too short")])
def test_a_missing_login_is_refused_before_anything_is_built(server, toy_config, tmp_path, monkeypatch, key, why):
    server.key = key
    monkeypatch.setattr("branchax.build.build", lambda *_: pytest.fail("built"))
    with pytest.raises(ConfigError, match=rf"^wandb: {why}; allowed: wandb login, WANDB_MODE=offline or --no-wandb$"):
        host.train(replace(toy_config, wandb=True), tmp_path)
    assert not server.opened and not list(tmp_path.iterdir())


def test_offline_needs_no_login(server):
    server.key, server.mode = None, "offline"
    trackers.check_wandb()


def test_loggers_of_ones_own_get_what_is_written_from_now_on(toy_config, tmp_path):
    told, places = [], []
    mine = [trackers.Logger(lambda rows, i=i: told.append((i, rows)), lambda i=i: told.append(i)) for i in range(2)]
    both = trackers.open_curves(replace(toy_config, tensorboard=False), tmp_path, [{"seed": 0}], places.append, mine)
    both.write([{"seed": 0, "env_steps": 3}])
    both.close()
    assert told == [(i, [{"seed": 0, "env_steps": 3}]) for i in range(2)] + [0, 1]
    assert not places and not list(tmp_path.iterdir())


def test_who_has_a_run_of_their_own_is_logged_in(server):
    server.key, server.run = None, object()
    trackers.check_wandb()


def test_of_several_processes_the_first_alone_needs_a_login(server, toy_config, tmp_path, monkeypatch):
    server.key, config = None, replace(toy_config, wandb=True)
    monkeypatch.setattr("branchax.devices.distributed.start", lambda processes: None)
    monkeypatch.setattr("branchax.runs.train.train_together", lambda *arguments, **options: None)
    second = Processes(coordinator="localhost:1234", process_id=1, processes=2)
    launch(config, tmp_path, False, "", second)
    with pytest.raises(ConfigError, match="not logged in"):
        launch(config, tmp_path, False, "")


@pytest.mark.parametrize("found", [None, types.SimpleNamespace(origin=None)], ids=["nothing", "a folder of that name"])
def test_a_missing_package_is_named_with_the_cure(monkeypatch, found):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(ConfigError, match=r"pip install 'branchax\[wandb\]'"):
        trackers.check_wandb()


@needs_wandb
@pytest.mark.parametrize(("variables", "why"), [({}, "not logged in"), ({"WANDB_API_KEY": "abc"}, "WANDB_API_KEY inv")])
def test_the_command_exits_with_2_before_jax_is_loaded(tmp_path, variables, why):
    nobody = {"HOME": str(tmp_path), "WANDB_CONFIG_DIR": str(tmp_path), "NETRC": str(tmp_path / "none"), **variables}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [sys.executable, "-m", "branchax", "train", "sac", "--world", "classic/lqr", "--wandb"]
    done = subprocess.run(command, cwd=tmp_path, env=kept | nobody, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"wandb: {why}" in done.stderr and "WANDB_MODE=offline" in done.stderr
    assert done.stdout == "" and not (tmp_path / "runs").exists()


@needs_wandb
def test_offline(toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr("branchax.build.build", toy_program)
    monkeypatch.setitem(os.environ, "WANDB_MODE", "offline")
    for env_steps in (40, 60):
        host.train(replace(toy_config, env_steps=env_steps, wandb=True), tmp_path)
    (name,) = json.loads((tmp_path / rundir.WANDB / "ids.json").read_text()).values()
    assert len(list((tmp_path / rundir.WANDB).glob(f"offline-run-*-{name}/run-{name}.wandb"))) == 2
