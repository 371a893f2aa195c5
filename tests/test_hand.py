"""A run to hold: what `branchax.run` and `branchax.load` return, and the policy live in a browser."""

import json
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import replace, toy_program
from test_report import BROWSER, Page, opened

import branchax
from branchax import build, cli, pretrained
from branchax.config import to_dict
from branchax.deploy import numpy_policy
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.runs import checkpoint, rundir, runlog
from branchax.runs.compiling import seed_keys
from branchax.sharding import of_seed, over_seeds
from branchax.views import live

TINY = {
    "env_steps": 100,
    "explore_steps": 60,
    "epoch_steps": 40,
    "batch_size": 16,
    "updates_per_step": 1.0,
    "eval_episodes": 2,
    "agent__hidden": (8,),
}
MODEL = {"model__members": 3, "model__elites": 2, "model__hidden": (8,), "rollout__per_step": 6, "rollout__groups": 2}


def saved(directory, config):
    """A run whose state after exploration is saved, without training; and that state."""
    state = jax.jit(over_seeds(build.build(config).init))(seed_keys(config))
    rundir.write_json(directory / rundir.CONFIG, to_dict(config))
    note = {"config": to_dict(config), checkpoint.SCORE: None, "environment": {}}
    checkpoint.save(directory / rundir.CHECKPOINTS, 60, state, note)
    return state


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A run of mbpo with two seeds, by its directory, its settings and its state."""
    directory = tmp_path_factory.mktemp("held") / "run"
    config = replace(preset("mbpo", "classic/pendulum"), seeds=2, seed=3, **TINY, **MODEL)
    return SimpleNamespace(directory=directory, config=config, state=saved(directory, config))


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr("branchax.build.build", toy_program)


def test_run_returns_what_load_does_and_it_goes_on(toy, toy_config, tmp_path):
    run = branchax.run(toy_config, tmp_path / "run")
    assert isinstance(run, branchax.Run) and Path(run) == run.directory == tmp_path / "run"
    assert [row["env_steps"] for row in run.metrics] == [20, 30, 40, 50, 60]
    assert run.metrics == branchax.load(run).metrics and run.config == toy_config
    assert "classic/lqr, seed 0, done at 60 steps" in repr(run)
    seen = []
    later = run.resume(80, callbacks=[lambda rows, state: seen.append(rows[0]["env_steps"])])
    assert seen == [70, 80] and later.metrics[-1]["env_steps"] == 80
    assert [record["episodes"] for record in later.evaluate(3)] == [3]
    assert branchax.evaluate(later, 3) == later.evaluate(3)


def test_a_callback_ends_a_run_at_a_return(toy, toy_config, tmp_path):
    def good_enough(rows, state):
        return rows[0].get(runlog.RETURN, -np.inf) >= goal

    goal = np.inf
    whole = branchax.run(toy_config, tmp_path / "whole", callbacks=[good_enough])
    goal = max(row[runlog.RETURN] for row in whole.metrics[1:])
    first = next(row["env_steps"] for row in whole.metrics[1:] if row[runlog.RETURN] == goal)
    run = branchax.run(toy_config, tmp_path / "run", callbacks=[good_enough])
    assert run.metrics[-1]["env_steps"] == first
    assert checkpoint.steps(run.directory / rundir.CHECKPOINTS)[-1] == first


def test_the_policy_is_the_agents_mode_of_the_seed_that_was_asked_for(held):
    agent = build.build_agent(held.config, build.make_world(held.config))
    obs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    for seed in (3, 4):
        run, params = branchax.load(held.directory, seed=seed), of_seed(held.state.agent, seed - 3)
        expected = jax.vmap(lambda x: agent.mode(params, x))(obs)  # noqa: B023
        np.testing.assert_allclose(run.policy(obs), expected, atol=1e-6)
        np.testing.assert_allclose(run.policy(obs[1].tolist()), expected[1], atol=1e-6)
    first = branchax.load(held.directory)
    assert first.seed == 3 and first.policy(obs[0]).shape == (1,)
    assert np.abs(first.policy(obs) - expected).max() > 1e-4
    draws = [first.act(obs, jax.random.key(i)) for i in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert np.abs(draws[0] - draws[2]).min() > 0 and np.abs(draws[0] - first.policy(obs)).min() > 0
    with pytest.raises(ConfigError, match=r"obs: the shape \(2,\) is not possible; allowed: \(3,\) or \(B, 3\)"):
        first.policy(obs[0, :2])
    with pytest.raises(ConfigError, match=r"seed: 5 is not in .*; allowed: 3 to 4"):
        branchax.load(held.directory, seed=5)
    with pytest.raises(ConfigError, match="holds no run"):
        branchax.load(held.directory / "none")


def test_the_model_is_one_more_world(held):
    run = branchax.load(held.directory)
    obs = np.array(run.world.reset(jax.random.key(7)).obs)
    model = run.model
    after, transition = model.world.step(jax.random.key(0), model.start(obs), run.policy(obs))
    np.testing.assert_array_equal(transition.obs, obs)
    np.testing.assert_array_equal(transition.next_obs, after.obs)
    imagined = model.imagine(np.stack([obs, obs + 0.1]), 4)
    assert imagined.transition.next_obs.shape == (2, 4, 2, 3)
    np.testing.assert_allclose(imagined.transition.action[:, 0, 0], np.tile(run.policy(obs), (2, 1)), atol=1e-6)
    np.testing.assert_array_equal(imagined.transition.obs[:, 1], imagined.transition.next_obs[:, 0])


def test_what_a_run_has_not_is_said(held, tmp_path, monkeypatch):
    rundir.write_json(tmp_path / "new" / rundir.CONFIG, to_dict(preset("sac", "classic/lqr")))
    with pytest.raises(ConfigError, match="holds no checkpoint yet"):
        branchax.load(tmp_path / "new").policy(np.zeros(2))
    free = replace(preset("sac", "classic/lqr"), **TINY)
    saved(tmp_path / "free", free)
    run = branchax.load(tmp_path / "free")
    assert run.policy(np.zeros(2)).shape == (1,)
    with pytest.raises(ConfigError, match="has none to imagine in: the run is model-free"):
        _ = run.model
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="frame: needs pandas"):
        run.frame()
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert run.frame() == ("frame", run.metrics)


PAGE = (Path(__file__).parents[1] / "docs" / "how-to" / "python.md").read_text()
HOLDING, LOGGING = re.findall(r"^``` { .python }\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def test_the_page_about_python_holds_a_run(held, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(held.directory, tmp_path / "runs" / "first")
    found = {}
    exec(compile(HOLDING, "documentation", "exec"), found)
    assert found["imagined"].transition.obs.shape == (2, 20, 1, 3)
    assert [record["episodes"] for record in found["records"]] == [4, 4]


def test_the_page_about_python_logs_to_mlflow(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = []
    note = lambda name: lambda *a, **k: calls.append((name, a, k))  # noqa: E731
    names = ("start_run", "log_metrics", "end_run")
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(**{name: note(name) for name in names}))
    exec(compile(LOGGING, "documentation", "exec"), {})
    (begun, *logged, ended) = calls
    rows = branchax.load("runs/logged").metrics
    assert begun == ("start_run", (), {"run_name": "logged"}) and ended[0] == "end_run"
    assert [call[2]["step"] for call in logged] == [row["env_steps"] for row in rows]
    assert logged[-1][1][0]["seed_0/eval/return_mean"] == rows[-1][runlog.RETURN]


def test_the_page_about_sweeps_searches_with_optuna(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = {"scores": [], "pruned": 0, "reports": []}

    class Trial:
        def __init__(self, number):
            self.number, self.seen = number, 0

        def suggest_float(self, name, low, high, log):
            return low

        def suggest_int(self, name, low, high):
            return high

        def report(self, value, step):
            self.seen += 1
            found["reports"].append((self.number, step))

        def should_prune(self):
            return self.number == 1 and self.seen >= 1

    class TrialPruned(Exception):
        pass

    def optimize(objective, n_trials):
        assert n_trials == 20
        for number in range(2):
            try:
                found["scores"].append(objective(Trial(number)))
            except TrialPruned:
                found["pruned"] += 1

    study = SimpleNamespace(optimize=optimize)
    pruners = SimpleNamespace(MedianPruner=lambda: None)
    fake = SimpleNamespace(create_study=lambda **_: study, TrialPruned=TrialPruned, pruners=pruners)
    monkeypatch.setitem(sys.modules, "optuna", fake)
    text = (Path(__file__).parents[1] / "docs" / "how-to" / "sweeps.md").read_text()
    (code,) = re.findall(r"^``` { .python }\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    exec(compile(code, "documentation", "exec"), {})
    whole, cut = (branchax.load(f"runs/search/{number}") for number in range(2))
    assert len(found["scores"]) == found["pruned"] == 1
    assert whole.metrics[-1]["env_steps"] == 1_000 > cut.metrics[-1]["env_steps"] == found["reports"][-1][1]
    assert whole.config.updates_per_step == 20 and whole.config.agent.learning_rate == 1e-4


def asked(url, **headers):
    """The answer of a server, or its refusal's number."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code


def test_a_policy_that_was_kept_plays_without_its_run(held, tmp_path, monkeypatch, capsys):
    source, kept = branchax.load(held.directory, seed=4), tmp_path / "kept" / "swing"
    shutil.copytree(branchax.export(held.directory, seed=4), kept / "policy")
    shutil.copy(held.directory / rundir.CONFIG, kept)
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path / "kept")
    assert pretrained.names() == ["swing"]
    run, obs = branchax.load("swing"), np.linspace(-1, 1, 6).reshape(2, 3)
    assert pretrained.locate(held.directory) == held.directory
    np.testing.assert_allclose(run.policy(obs), source.policy(obs), rtol=1e-5)
    np.testing.assert_array_equal(run.policy(obs[0]), run.act(obs[0], jax.random.key(0)))  # its mode is all there is
    with pytest.raises(ConfigError, match=r"^model: .* has none to imagine in: only the policy of this run was kept"):
        run.model  # noqa: B018
    with pytest.raises(ConfigError, match=r"^seed: 3 is not in .*; allowed: 4, whose policy was exported"):
        branchax.load("swing", seed=3).policy(obs)
    assert cli.main(["play", "swing", "--steps", "3", "--out", str(tmp_path / "play.html")]) == 0
    assert "only the policy of this run was kept" in (tmp_path / "play.html").read_text()
    assert cli.main(["list"]) == 0 and "(branchax play NAME): swing" in capsys.readouterr().out


@pytest.mark.parametrize("name", pretrained.names())
def test_each_pretrained_policy_is_small_and_acts(name):
    folder = pretrained.FOLDER / name
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 300_000
    run, told = branchax.load(name), json.loads((folder / "policy" / "spec.json").read_text())
    obs = np.zeros(told["observation"]["size"], np.float32)
    assert np.isfinite(run.policy(obs)).all() and run.metrics[-1]["env_steps"] == told["env_steps"]
    np.testing.assert_allclose(numpy_policy.load(folder / "policy" / "policy.npz")(obs), run.policy(obs), atol=1e-4)
    assert json.loads(Path("results/pretrained.json").read_text())["returns"][name] == told["return"]["mean"]


def test_play_serves_one_new_episode_after_the_other(held):
    player, episode = live.episodes_of(held.directory, seed=4, steps=6)
    server = live.server(live.page(held.directory, player, [episode(0)], live=True), episode)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        text = asked(url)
        page = Page(text)
        first = json.loads(page.data)["runs"][0]["diagnosis"]["player"]["episodes"]
        assert "connect-src 'self'" in text and page.links == ["data:,"] and len(first) == 1
        assert {side: len(part["total"]) for side, part in first[0].items()} == {"real": 6, "imagined": 6}
        later = [json.loads(asked(f"{url}episode/{n}")) for n in (0, 1, 1)]
        assert later[0] == first[0] and later[1] == later[2]
        starts = [each["real"]["traces"][0][0] for each in later]
        assert starts[0] != starts[1]
        assert later[1]["imagined"]["traces"][0][0] == starts[1]  # from the same start
        assert asked(f"{url}episode/x") == 404 and asked(f"{url}other") == 404
        assert asked(url, Host="elsewhere.example") == 403
        assert asked(url, Host="localhost.elsewhere.example:80") == 403  # a name that points to this machine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_play_writes_a_page_that_needs_no_server(held, tmp_path, capsys):
    out = tmp_path / "pages" / "play.html"
    assert cli.main(["play", str(held.directory), "--steps", "6", "--out", str(out)]) == 0
    said, aside = capsys.readouterr()
    assert str(out) in said and "playing the first episode" in aside
    text = out.read_text()
    data = json.loads(Page(text).data)
    assert not data["live"] and len(data["runs"][0]["diagnosis"]["player"]["episodes"]) == 3
    assert "connect-src" not in text and "Seed 3 after 60 steps" in data["about"]
    if BROWSER:
        dom, console = opened(out)
        assert not console and dom.count("<canvas") == 2 and "of 6<" in dom
    assert cli.main(["play", str(held.directory), "--steps", "0"]) == 2
    assert cli.main(["play", str(held.directory), "--seed", "9"]) == 2
    errors = capsys.readouterr().err
    assert "steps: 0 is not possible" in errors and "seed: 9 is not in" in errors


def test_play_ends_at_ctrl_c_and_opens_a_browser_only_where_there_is_a_screen(held, monkeypatch, capsys):
    from branchax.commands import play

    def serve(self):
        raise KeyboardInterrupt

    urls = []
    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", serve)
    monkeypatch.setattr(play.webbrowser, "open", urls.append)
    monkeypatch.setattr(live, "episodes_of", lambda *_: (None, lambda n: {}))
    monkeypatch.setattr(live, "page", lambda *_, **__: "")
    for screen, flags in ((False, []), (True, []), (True, ["--no-browser"])):
        monkeypatch.setattr(play, "_has_screen", lambda: screen)  # noqa: B023
        assert cli.main(["play", str(held.directory), *flags]) == 0
    assert len(urls) == 1 and capsys.readouterr().out.count("(Ctrl-C ends it)\n\nended") == 3


MINE = """
import branchax
import numpy as np

config = branchax.preset("mbpo", "classic/pendulum", env_steps=500)
run = branchax.run(config, "runs/x", callbacks=[lambda rows, state: rows[0]["env_steps"] > 9])
reveal_type(run)
reveal_type(branchax.load("runs/x", seed=1).policy(np.zeros(3)))
reveal_type(branchax.evaluate(run))
branchax.run(config, 3)
branchax.load()
"""


@pytest.mark.slow
def test_a_users_checker_sees_the_types(tmp_path):
    """`py.typed`, as mypy sees it from outside."""
    pytest.importorskip("mypy")
    (tmp_path / "mine.py").write_text(MINE)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-error-summary", "mine.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = [line.partition(": ")[2] for line in done.stdout.splitlines()]
    assert 'note: Revealed type is "branchax.views.run.Run"' in lines, done.stdout + done.stderr
    assert sum("ndarray" in line for line in lines) == 1
    assert sum(line.startswith("error") for line in lines) == 2, done.stdout
    assert any('incompatible type "int"' in line for line in lines) and any("Missing" in line for line in lines)
