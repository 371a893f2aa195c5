"""The host loop, driven by a program that is a few lines long: rows, checkpoints, resume, faults."""

import json

import jax
import numpy as np
import pytest
from conftest import replace, toy_program

from branchax.devices import cache
from branchax.errors import ConfigError
from branchax.runs import checkpoint, compiling, evaluate, restoring, rundir, runlog
from branchax.runs import train as host
from branchax.runs.faults import NonFinite


@pytest.fixture
def toy(monkeypatch):
    """Makes `build` return the toy program; the dictionary that it gives counts traces and takes `fault_at`."""
    options = {"traces": {}}
    monkeypatch.setattr("branchax.build.build", lambda config, world=None: toy_program(config, world, **options))
    return options


def rows(directory):
    return runlog.read(directory / rundir.METRICS)


def without_clock(directory):
    return [{k: v for k, v in row.items() if k != "wall_s"} for row in rows(directory)]


def final(directory, config):
    """The bits of the newest checkpoint."""
    template = jax.eval_shape(jax.vmap(toy_program(config).init), compiling.seed_keys(config))
    step = checkpoint.steps(directory / rundir.CHECKPOINTS)[-1]
    state = restoring.load(directory, step, config, template)
    state = state._replace(key=jax.random.key_data(state.key))
    state.agent["key"] = jax.random.key_data(state.agent["key"])
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


@pytest.mark.drawn
def test_writes_everything(toy, toy_config, tmp_path, capsys):
    config = replace(toy_config, seed=3, seeds=2)
    host.train(config, tmp_path / "run", command="branchax train toy")
    found = sorted(str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").glob("*"))
    assert found == [
        *(
            "checkpoints",
            "command.txt",
            "config.json",
            "environment.json",
            "metrics.jsonl",
            "plots",
            "status.json",
            "tb",
        )
    ]
    assert rundir.status(tmp_path / "run") | {"state": "done", "last_good_step": 60} == rundir.status(tmp_path / "run")
    assert rundir.load_config(tmp_path / "run") == config
    assert (tmp_path / "run" / rundir.COMMAND).read_text() == "branchax train toy\n"
    environment = json.loads((tmp_path / "run" / rundir.ENVIRONMENT).read_text())
    assert environment["jax"] == jax.__version__
    assert environment["device"].startswith("cpu")
    assert (tmp_path / "run" / rundir.CURVE).read_bytes().startswith(b"\x89PNG")
    written = rows(tmp_path / "run")
    assert [(r["seed"], r["epoch"]) for r in written] == [(seed, epoch) for epoch in range(5) for seed in (3, 4)]
    last = written[-1]
    assert (last["env_steps"], last["updates"], last["model_steps"], last["horizon"]) == (60, 28, 0, 0)
    assert last["critic/loss"] is None  # NaN
    assert {runlog.RETURN, runlog.RETURN_SPREAD, runlog.LENGTH, "policy/entropy", "wall_s"} <= last.keys()
    assert toy["traces"] == {"init": 1, "epoch": 1, "evaluate": 1}
    output = capsys.readouterr().out
    for part in ("compiled epoch in", "env steps", "learning_curve.png", "branchax evaluate"):
        assert part in output
    assert "\x1b" not in output  # not a terminal


def test_evaluates_and_saves_when_asked_to(toy, toy_config, tmp_path, monkeypatch):
    saved = []
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda d, step, *rest: (saved.append(step), save(d, step, *rest)))
    host.train(replace(toy_config, env_steps=90, eval_every=3, checkpoint_every=2), tmp_path / "run")
    written = rows(tmp_path / "run")
    assert [r["epoch"] for r in written] == list(range(8))
    assert [r["epoch"] for r in written if runlog.RETURN in r] == [0, 3, 6, 7]
    assert saved == [40, 60, 80, 90]


def test_evaluation_does_not_touch_training(toy, toy_config, tmp_path):
    seldom = replace(toy_config, eval_every=100, eval_episodes=3)
    host.train(toy_config, tmp_path / "often")
    host.train(seldom, tmp_path / "seldom")
    assert final(tmp_path / "often", toy_config) == final(tmp_path / "seldom", seldom)


def test_resume_with_more_steps_equals_one_long_run(toy, toy_config, tmp_path):
    long = replace(toy_config, env_steps=100, seeds=2)
    host.train(long, tmp_path / "straight")
    host.train(replace(long, env_steps=60), tmp_path / "halves")
    host.train(long, tmp_path / "halves")
    assert final(tmp_path / "straight", long) == final(tmp_path / "halves", long)
    assert without_clock(tmp_path / "straight") == without_clock(tmp_path / "halves")
    clocks = [row["wall_s"] for row in rows(tmp_path / "halves")]
    assert clocks == sorted(clocks)
    assert rundir.load_config(tmp_path / "halves") == long


def test_resume_after_a_crash_rewrites_the_lost_rows(toy, toy_config, tmp_path, monkeypatch):
    config = replace(toy_config, env_steps=80, checkpoint_every=2)
    host.train(config, tmp_path / "straight")
    save = checkpoint.save

    def die(directory, step, *rest):
        if step == 80:
            raise KeyboardInterrupt
        save(directory, step, *rest)

    monkeypatch.setattr(checkpoint, "save", die)
    with pytest.raises(KeyboardInterrupt):
        host.train(config, tmp_path / "crashed")
    assert rows(tmp_path / "crashed")[-1]["env_steps"] == 80
    monkeypatch.undo()
    monkeypatch.setattr("branchax.build.build", toy_program)
    host.train(config, tmp_path / "crashed")
    assert without_clock(tmp_path / "straight") == without_clock(tmp_path / "crashed")
    assert final(tmp_path / "straight", config) == final(tmp_path / "crashed", config)


def test_says_where_a_model_has_to_learn_how_episodes_end(toy, toy_config, tmp_path, capsys):
    host.train(replace(toy_config, rollout__horizon=1, real_fraction=0.5), tmp_path / "run")
    assert "classic/lqr has no predicate for the ends of its episodes" in capsys.readouterr().out


def test_resume_without_a_checkpoint_starts_again(toy, toy_config, tmp_path):
    rundir.record(tmp_path, toy_config, "")
    (tmp_path / rundir.METRICS).write_text('{"seed": 0, "epoch": 0}\n')
    host.train(toy_config, tmp_path)
    assert [row["epoch"] for row in rows(tmp_path)] == [0, 1, 2, 3, 4]


def test_resume_of_a_finished_run_does_nothing(toy, toy_config, tmp_path, capsys):
    host.train(toy_config, tmp_path)
    before = rows(tmp_path)
    host.train(toy_config, tmp_path)
    assert rows(tmp_path) == before
    assert toy["traces"]["epoch"] == 1


def test_resume_refuses_other_settings(toy, toy_config, tmp_path):
    host.train(toy_config, tmp_path)
    with pytest.raises(ConfigError, match=r"other settings: seed 0 -> 1; agent.tau 0.02 -> 0.5;"):
        host.train(replace(toy_config, seed=1, agent__tau=0.5, env_steps=100), tmp_path)
    with pytest.raises(ConfigError, match="other settings: env_steps 60 -> 50"):
        host.train(replace(toy_config, env_steps=50), tmp_path)


@pytest.mark.parametrize("step", [5, 47])
def test_a_world_that_returns_nan_stops_the_run(toy, toy_config, tmp_path, step):
    toy["fault_at"] = step
    config = replace(toy_config, seed=2, checkpoint_every=1)
    with pytest.raises(NonFinite, match=rf"a non-finite reward at env step {step} of seed 2"):
        host.train(config, tmp_path)
    assert checkpoint.steps(tmp_path / rundir.CHECKPOINTS) == ([] if step == 5 else [30, 40])
    assert [row["epoch"] for row in rows(tmp_path)] == ([] if step == 5 else [0, 1, 2])


def test_refuses_a_directory_in_use(toy, toy_config, tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(ConfigError, match="is not empty"):
        host.train(toy_config, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="is not a directory"):
        host.train(toy_config, tmp_path / "thesis.tex")


def test_a_build_that_fails_leaves_no_directory(toy_config, tmp_path, monkeypatch):
    def refuse(config, world):
        raise ConfigError("world: no")

    monkeypatch.setattr("branchax.build.build", refuse)
    with pytest.raises(ConfigError):
        host.train(toy_config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluate_repeats_the_last_evaluation(toy, toy_config, tmp_path):
    config = replace(toy_config, seeds=2)
    host.train(config, tmp_path)
    records = evaluate.evaluate(tmp_path)
    last = rows(tmp_path)[-2:]
    assert [r[runlog.RETURN] for r in records] == [r[runlog.RETURN] for r in last]
    assert json.loads((tmp_path / rundir.EVALUATIONS / "60.json").read_text()) == records
    assert [len(r["returns"]) for r in evaluate.evaluate(tmp_path, episodes=3)] == [3, 3]
    evaluate.evaluate(tmp_path)  # the same again
    kept = json.loads((tmp_path / rundir.EVALUATIONS / "60.json").read_text())
    assert [(r["seed"], r["episodes"]) for r in kept] == [
        (0, 3),
        (1, 3),
        (0, config.eval_episodes),
        (1, config.eval_episodes),
    ]


def test_evaluate_needs_a_checkpoint(toy_config, tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        evaluate.evaluate(tmp_path)
    rundir.record(tmp_path, toy_config, "")
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        evaluate.evaluate(tmp_path)


def test_what_runs_once_compiles_sooner_unless_the_user_chose(monkeypatch):
    given = []

    class Lowered:
        def compile(self, compiler_options=None):
            given.append(compiler_options)
            if compiler_options is not None and len(given) > 1:
                raise jax.errors.JaxRuntimeError("No such compile option")
            return "compiled"

    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert cache.compiled(Lowered(), 0) == "compiled" and given[0]["xla_backend_optimization_level"] == 0
    assert cache.compiled(Lowered(), 0) == "compiled" and given[2] is None  # a version without these options
    assert cache.compiled(Lowered()) == "compiled" and given[3] is None
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=2")
    assert cache.compiled(Lowered(), 0) == "compiled" and given[4] is None
