"""A search by Optuna: what is refused, what it runs and keeps, and going on after an interruption."""

import json

import pytest
from conftest import replace, toy_program

from branchax import cli
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.runs import rundir, runlog
from branchax.runs import train as host
from branchax.runs.signals import Preempted
from branchax.sweeps import search, sweep

FLAGS = "sac --world classic/lqr --env-steps 60 --explore-steps 20 --epoch-steps 10 --batch-size 4"
SPACE = ["--search", "agent.learning_rate=log:1e-4..1e-2", "batch_size=2..8", "--search", "agent.hidden=8,16 16"]
SAC = preset("sac", "classic/lqr")


def toy(monkeypatch):
    monkeypatch.setattr("branchax.build.build", toy_program)


def test_a_space_is_a_range_or_choices():
    log = search.space("agent.learning_rate", "log:1e-4..1e-2", SAC)
    assert log == search.Space("agent.learning_rate", ("1e-4", "1e-2"), True, log=True)
    assert search.space("batch_size", "2..8", SAC) == search.Space("batch_size", ("2", "8"), True, whole=True)
    assert search.space("agent.hidden", "8,16 16", SAC) == search.Space("agent.hidden", ("8", "16 16"), False)
    for field, text in {
        "agent.tau": "0.2..0.1", "agent.discount": "log:0..1", "agent.learning_rate": "exp:1..2", "batch_size": "2..",
        "agent.hidden": "8..16", "model.hidden": "8,8",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"^search: {field}={text} is not possible"):
            search.space(field, text, SAC)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--search", "agent.tau=0.1..7"], "agent.tau: 7.0 is not possible"),
        (["--search", "agent.tua=0.1..0.2"], "did you mean agent.tau"),
        (["--search", "tau=0.1..0.2", "--grid", "tau=0.1,0.2"], "goes without --grid"),
        (["--search", "tau=0.1..0.2", "--trials", "0"], "trials: 0"),
        (["--search", "tau"], "allowed: FIELD=A,B"),
    ],
)
def test_refuses(argv, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("branchax.commands.sweep.installed", lambda package: True)
    assert cli.main(["sweep", *FLAGS.split(), *argv]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_without_optuna_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("branchax.commands.sweep.installed", lambda package: False)
    assert cli.main(["sweep", *FLAGS.split(), *SPACE]) == 2
    assert "pip install 'branchax[optuna]'" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_runs_trials_and_goes_on(tmp_path, monkeypatch, capsys):
    optuna = pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    toy(monkeypatch)
    argv = ["sweep", *FLAGS.split(), *SPACE]
    assert cli.main([*argv, "--trials", "3"]) == 0
    assert "trial 3 of 3: agent.learning_rate=" in capsys.readouterr().out
    assert cli.main([*argv, "--trials", "4"]) == 0
    out = capsys.readouterr().out
    assert out.count("\ntrial ") == 1 and "last evaluations, the best first" in out
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name == "search_classic-lqr_sac_1"
    backend = optuna.storages.journal.JournalFileBackend(str(directory / search.JOURNAL))
    study = optuna.load_study(study_name="branchax", storage=optuna.storages.JournalStorage(backend))
    runs = {path.parent.name: path.parent for path in directory.glob("*/config.json")}
    assert len(study.trials) == 4 == len(runs) and len({t.params["agent.learning_rate"] for t in study.trials}) == 4
    for trial in study.trials:
        settings = {"agent.learning_rate": f"{trial.params['agent.learning_rate']:.6g}"}
        settings |= {name: str(trial.params[name]) for name in ("batch_size", "agent.hidden")}
        run = runs[sweep.name_of(settings)]
        config = rundir.load_config(run)
        assert config.agent.learning_rate == float(settings["agent.learning_rate"])
        assert config.batch_size == trial.params["batch_size"] and 2 <= config.batch_size <= 8
        assert trial.value == runlog.read(run / rundir.METRICS)[-1][runlog.RETURN]
    # Other flags or bounds are another search.
    assert cli.main([*argv, "--agent.tau", "0.1", "--run", str(directory)]) == 2
    assert "holds another search" in capsys.readouterr().err


def test_an_interrupted_trial_goes_on_and_a_failed_one_counts(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna")
    toy(monkeypatch)
    base = replace(SAC, env_steps=60, explore_steps=20, epoch_steps=10, batch_size=4, eval_episodes=2)
    spaces = [search.Space("batch_size", ("2", "100"), True, whole=True)]
    began, train = [], host.train

    def stopped(config, directory, command, callbacks):
        began.append(directory)
        if len(began) == 1:
            raise Preempted("stopped by SIGTERM")
        if len(began) == 3:
            raise ConfigError("no such luck")
        return train(config, directory, command, callbacks=callbacks)

    monkeypatch.setattr(host, "train", stopped)
    config_of = lambda settings: replace(base, batch_size=int(settings["batch_size"]))  # noqa: E731
    with pytest.raises(Preempted):
        search.run(tmp_path, spaces, 3, config_of)
    search.run(tmp_path, spaces, 3, config_of)
    assert began[0] == began[1] and len(began) == 4 and len(set(began)) == 3
    states = [trial.state.name for trial in _study(optuna, tmp_path).trials]
    assert states == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]


def test_trials_that_fall_behind_are_stopped(tmp_path, monkeypatch):
    optuna = pytest.importorskip("optuna")
    base = replace(SAC, env_steps=60, explore_steps=20, epoch_steps=10, batch_size=4, eval_episodes=2)
    rows = [{"env_steps": n, runlog.RETURN: 0.0, "seed": 0} for n in (20, 30, 40)]
    asked = []

    def reports(config, directory, command, callbacks):
        seen = []
        for row in rows:  # each trial is worse than the one before
            seen.append(row | {runlog.RETURN: -float(len(asked))})
            if callbacks[0]([seen[-1]], None):
                break
        asked.append(len(seen))
        return directory

    monkeypatch.setattr(host, "train", reports)
    monkeypatch.setattr(sweep, "result", lambda directory: {"return_mean": -1.0})
    spaces = [search.Space("agent.tau", ("0.1", "0.9"), True)]
    search.run(tmp_path, spaces, search.WARM_UP + 1, lambda settings: base)
    assert asked == [3] * search.WARM_UP + [1]
    assert _study(optuna, tmp_path).trials[-1].state.name == "PRUNED"


def _study(optuna, directory):
    backend = optuna.storages.journal.JournalFileBackend(str(directory / search.JOURNAL))
    return optuna.load_study(study_name="branchax", storage=optuna.storages.JournalStorage(backend))


def test_searches_are_numbered_and_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spaces = [search.space("agent.tau", "0.1..0.2", SAC)]
    what = search.describe(spaces, [SAC])
    stem = "runs/search"
    assert [str(search.directory_of(what, stem, None)) for _ in range(2)] == ["runs/search_1"] * 2
    other = search.describe([search.space("agent.tau", "0.1..0.3", SAC)], [SAC])
    assert str(search.directory_of(other, stem, None)) == "runs/search_2"
    assert json.loads((tmp_path / "runs/search_2/search.json").read_text())["search"][0]["values"] == ["0.1", "0.3"]


def test_a_directory_that_holds_something_else_is_refused(tmp_path):
    what = search.describe([search.space("agent.tau", "0.1..0.2", SAC)], [SAC])
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds other files"):
        search.directory_of(what, "unused", tmp_path)
    (tmp_path / "search.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds another search"):
        search.directory_of(what, "unused", tmp_path)
    (tmp_path / "search.json").write_text("cut o")
    with pytest.raises(ConfigError, match="cannot read"):
        search.directory_of(what, "unused", tmp_path)
