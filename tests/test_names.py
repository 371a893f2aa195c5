"""Settings by the names that people type: in Python, as flags, in a grid and in a file on top of a preset."""

import json

import pytest

from branchax import cli
from branchax.commands.flags import spelled_out
from branchax.config import flat, to_dict, with_field
from branchax.config.names import ALIASES, find_matches
from branchax.errors import ConfigError
from branchax.presets import PRESETS, preset
from branchax.runs import train as host
from branchax.sweeps import sweep

MBPO = list(flat(to_dict(PRESETS["mbpo"])))
EVERY = {name for config in PRESETS.values() for name in flat(to_dict(config))}


@pytest.fixture
def started(monkeypatch, tmp_path):
    """The settings of the runs that were to be trained, instead of training; in an empty directory."""
    monkeypatch.chdir(tmp_path)
    calls = []
    monkeypatch.setattr(host, "train_together", lambda runs, force, changed: calls.append(runs[0].config))
    return calls


def test_no_short_form_hides_a_setting_and_each_stands_for_one():
    lasts = {name.rpartition(".")[2] for name in EVERY}
    assert not set(ALIASES) & (EVERY | lasts)
    assert set(ALIASES.values()) <= EVERY


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("agent.tau", ["agent.tau"]),
        ("tau", ["agent.tau"]),
        ("lr", ["agent.learning_rate"]),
        ("model.lr", ["model.learning_rate"]),
        ("critic.members", ["agent.critic.members"]),
        ("steps", ["env_steps"]),
        ("hidden", ["model.hidden", "agent.hidden"]),
        ("agent", []),  # not faults.agent
        ("batch", []),
    ],
)
def test_what_a_name_means(typed, found):
    assert find_matches(typed, MBPO) == found


def test_flags_are_spelled_out_and_values_are_not():
    typed = [
        "--lr=1e-3",
        "--no-learn-temperature",
        "--tau",
        "lr",
        "--env-steps",
        "9",
        "--agent.hidden",
        "8",
        "-x",
        "--agent",
    ]
    assert spelled_out(typed, MBPO) == [
        "--agent.learning-rate=1e-3",
        "--agent.no-learn-temperature",
        "--agent.tau",
        *typed[3:],
    ]


def test_short_flags_train_and_what_means_several_is_refused(started, capsys):
    typed = ["--env", "classic/pendulum", "--lr", "1e-3", "--model.lr", "2e-3", "--gamma=0.9", "--steps", "2000"]
    assert cli.main(["train", "mbpo", *typed, "--no-learn-temperature"]) == 0
    config = started[0]
    assert (config.world, config.env_steps) == ("classic/pendulum", 2000)
    assert (config.agent.learning_rate, config.model.learning_rate) == (1e-3, 2e-3)
    assert (config.agent.discount, config.agent.learn_temperature) == (0.9, False)
    assert cli.main(["train", "mbpo", "--hidden", "8"]) == 2
    assert "--hidden: unknown flag (did you mean --model.hidden or --agent.hidden?)" in capsys.readouterr().err
    assert len(started) == 1


def test_a_grid_takes_short_names_too(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    plans = []
    monkeypatch.setattr("branchax.sweeps.launch.launch", lambda *a: plans.append(a) or [])
    (tmp_path / "more.json").write_text(json.dumps({"agent": {"tau": 0.02}}))
    words = ["sweep", "sac", "--env", "classic/lqr", "--grid", "lr=1e-3,3e-4", "--config", "more.json", "--run", "s"]
    assert cli.main(words) == 0
    points = sweep.load(tmp_path / "s")
    assert [point.config.agent.learning_rate for point in points] == [1e-3, 3e-4]
    assert {(point.config.world, point.config.agent.tau) for point in points} == {("classic/lqr", 0.02)}
    assert cli.main(["sweep", "mbpo", "--grid", "hidden=8,16"]) == 2
    assert (
        "grid: hidden is more than one setting (did you mean model.hidden or agent.hidden?)" in capsys.readouterr().err
    )


FILES = {
    "more.json": '{"env_steps": 700, "agent": {"tau": 1e-2, "hidden": [8, 8]}, "model.members": 4}',
    "more.yaml": "env_steps: 700\nagent:\n  tau: 1e-2\n  hidden: [8, 8]\nmodel.members: 4\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_on_top_of_a_preset(name, started, tmp_path):
    """Between the preset, with its world's own settings, and the flags."""
    (tmp_path / name).write_text(FILES[name])
    argv = ["train", "mbpo", "--world", "brax/hopper", "--config", name]
    assert cli.main([*argv, "--model.members", "6"]) == 0
    config, base = started[0], preset("mbpo", "brax/hopper")
    assert (config.env_steps, config.agent.tau, config.agent.hidden) == (700, 0.01, (8, 8))
    assert config.model.members == 6 and config.agent.target_entropy == base.agent.target_entropy == -1.0
    assert config.model.hidden == base.model.hidden


def test_the_world_of_a_file_brings_its_own_settings(started, tmp_path):
    (tmp_path / "hopper.yml").write_text("world: brax/hopper")
    assert cli.main(["train", "mbpo", "--config", "hopper.yml"]) == 0
    assert started[0] == preset("mbpo", "brax/hopper")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("agent:\n  lr: 1e-3", "x.yaml: agent.lr: unknown field (did you mean agent.learning_rate?)"),
        ("env_steps: many", "x.yaml: env_steps: 'many' is not possible"),
        ("- 3", "x.yaml is not a set of fields"),
        ("a: [", "cannot read x.yaml"),
    ],
)
def test_a_file_that_cannot_be_is_refused(text, said, started, tmp_path, capsys):
    (tmp_path / "x.yaml").write_text(text)
    assert cli.main(["train", "sac", "--config", "x.yaml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not started


def test_a_file_alone_says_what_it_leaves_out(started, tmp_path, capsys):
    (tmp_path / "part.yaml").write_text("world: classic/lqr")
    assert cli.main(["train", "--config", "part.yaml"]) == 0
    assert "part.yaml leaves out" in capsys.readouterr().err
    (tmp_path / "whole.json").write_text(json.dumps(to_dict(preset("sac", "classic/lqr"))))
    assert cli.main(["train", "--config", "whole.json"]) == 0
    assert "leaves out" not in capsys.readouterr().err and started[1] == preset("sac", "classic/lqr")


def test_a_preset_takes_settings_by_their_paths():
    config = preset("mbpo", "brax/hopper", env_steps=700, agent__tau=0.01, **{"model.hidden": [64, 64]})
    assert (config.env_steps, config.agent.tau, config.model.hidden) == (700, 0.01, (64, 64))
    assert config.agent.target_entropy == -1.0
    for fields, said in {
        ("agent.lr", 1e-3): r"^agent.lr: unknown field \(did you mean agent.learning_rate\?\)",
        ("tau", 1e-3): r"^tau: unknown field \(did you mean agent.tau\?\)",
        ("agent.tua", 1e-3): r"^agent.tua: unknown field \(did you mean agent.tau",
        ("env_steps.x", 1): "^env_steps.x: unknown field",
        ("agent.tau", "3e-4"): "^agent.tau: '3e-4' is not possible; allowed: float",
        ("agent.tau", 7.0): "^agent.tau: 7.0 is not possible",
    }.items():
        with pytest.raises(ConfigError, match=said):
            preset("sac", "classic/lqr", **dict([fields]))
    with pytest.raises(ConfigError, match=r"^agent\.lr: unknown field"):
        with_field(PRESETS["sac"], "agent.lr", 1.0)
