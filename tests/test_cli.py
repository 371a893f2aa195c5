"""The command line: what it accepts, what it refuses and how, and that it does so before JAX is loaded."""

import json
import os
import re
import subprocess
import sys

import pytest
from conftest import toy_program

from branchax import __version__, cli
from branchax.commands import USAGE
from branchax.commands import base as commands_base
from branchax.commands import train as command
from branchax.config import to_dict
from branchax.presets import PRESETS, preset
from branchax.runs import rundir, runlog
from branchax.runs import train as host
from branchax.worlds.catalog import WORLDS

TOY = ["train", "sac", "--world", "classic/lqr", "--env-steps", "60", "--explore-steps", "20", "--epoch-steps", "10",
       "--batch-size", "4"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Every test has an empty working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def started(monkeypatch):
    """What was to be trained: (settings, directory, command, force), instead of training."""
    calls = []

    def note(runs, force, changed):
        calls.append(((runs[0].config, runs[0].directory, runs[0].command, force), {}))

    monkeypatch.setattr(host, "train_together", note)
    return calls


def refuse(capsys, argv, *parts):
    """Asserts that a command ends with exit code 2, says all parts on stderr, and leaves no directory behind."""
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    for part in parts:
        assert part in captured.err
    return captured


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help(argv, capsys):
    assert cli.main(argv) == 0
    output = capsys.readouterr().out
    for part in ("branchax train PRESET", "branchax evaluate DIR", "branchax list", "branchax resume DIR"):
        assert part in output


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_train_help_names_every_field_with_the_defaults_of_the_preset(capsys):
    assert cli.main(["train", "mbpo_paper", "--help"]) == 0
    output = capsys.readouterr().out
    for name in ("--world", "--seeds", "--run", "--force", "--config", *_flags(to_dict(PRESETS["mbpo_paper"]))):
        assert name in output
    assert "(default: 200 200 200 200)" in " ".join(output.replace("│", "").split())


def test_paper_shows_the_paper_s_sizes_as_defaults_and_is_refused_where_there_are_none(capsys, tmp_path):
    assert cli.main(["train", "mbpo", "--paper", "--help"]) == 0
    assert "(default: 200 200 200 200)" in " ".join(capsys.readouterr().out.replace("│", "").split())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_dict(PRESETS["mbpo"])))
    for arguments in (["v2.5", "--paper"], ["--config", str(file), "--paper"]):
        assert cli.main(["train", *arguments]) == 2
        assert capsys.readouterr().err.startswith("branchax: paper: ")


@pytest.mark.parametrize(
    ("flags", "said"), [([], True), (["--rollout.horizon-end", "None", "--rollout.ramp", "0", "0"], False)]
)
def test_a_horizon_that_begins_a_ramp_is_said(flags, said, capsys):
    argv = ["train", "mbpo", "--world", "brax/hopper", "--rollout.horizon", "5", "--env-steps", "10", *flags]
    assert cli.main(argv) == 2
    assert ("become 15 steps long over env steps 20,000 to 150,000" in "".join(capsys.readouterr())) == said


def test_list(capsys):
    assert cli.main(["list"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in [*PRESETS, *WORLDS])


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["trian"], ["command: 'trian' is unknown (did you mean train?)"]),
        (["train"], ["preset: missing", "mbpo, "]),
        (["train", "mbop"], ["preset: 'mbop' is unknown (did you mean ", "mbpo"]),
        (["train", "mbpo", "--world", "brax/hoper"], ["world: 'brax/hoper' is unknown (did you mean brax/hopper"]),
        (["train", "mbpo", "--world=inverted_pendulum"], ["did you mean brax/inverted_pendulum"]),
        (["train", "mbpo", "-seeds", "9"], ["-seeds: unknown flag (did you mean --seeds?)"]),
        (["train", "mbpo", "--agent.no-learn-temprature"], ["(did you mean --agent.learn-temperature?)"]),
        (["sweep", "mbpo", "--env-stps", "9"], ["--env-stps: unknown flag (did you mean --env-steps?)"]),
        (["train", "mbpo", "--seeds", "many"], ["--seeds", "many"]),
        (["train", "mbpo", "--model.elites", "9"], ["model.elites: 9 is not possible; allowed: <= model.members = 5"]),
        (["train", "mbpo", "--rollout.horizon", "0"], ["rollout.horizon: 0", ">= 1"]),
        (["train", "mbpo", "--config", "x.json"], ["config: x.json does not exist"]),
        (["train", "--config", "x.json"], ["config: x.json does not exist"]),
        (["resume"], ["resume: name the directory"]),
        (["resume", "nowhere"], ["nowhere holds no run"]),
        (["evaluate", "nowhere"], ["nowhere holds no run"]),
        (["evaluate", "nowhere", "--episodes", "0"], ["episodes: 0", ">= 1"]),
        (["evaluate"], ["branchax evaluate"]),
        (["list", "presets"], ["presets"]),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_refuses(argv, parts, capsys, tmp_path):
    refuse(capsys, argv, *parts)
    assert not list(tmp_path.iterdir())


MISSPELT = {  # a flag of each command, one letter short
    "train": ["mbpo", "--model.membrs", "9"],
    "resume": ["DIR", "--env-stps", "9"],
    "evaluate": ["DIR", "--episods", "3"],
    "play": ["--step", "3", "DIR"],
    "runs": ["DIR", "--hlp"],
    "completion": ["bash", "--hlp"],
    "plot": ["--diagnos", "DIR"],
    "report": ["DIR", "DIR", "--ou", "x.html"],
    "render": ["--step", "3", "DIR"],
    "diagnose": ["DIR", "--sed=1"],
    "export": ["DIR", "--sed", "1"],
    "sweep": ["mbpo", "--gri", "seed=1,2"],
    "doctor": ["DIR", "--repla"],
    "check-world": ["classic/lqr", "--backnd", "mjx"],
    "dataset": ["DIR", "FILE", "--hel"],
    "lab": ["gradients", "--horizns", "5"],
    "list": ["--hlp"],
}
assert set(MISSPELT) == set(USAGE)


@pytest.mark.parametrize("name", USAGE)
def test_a_misspelt_flag_of_any_command_is_refused_with_the_nearest(name, capsys, tmp_path):
    (tmp_path / "DIR").mkdir()
    (tmp_path / "DIR" / rundir.CONFIG).write_text(json.dumps(to_dict(PRESETS["sac"])))
    flag = next(a for a in MISSPELT[name] if a.startswith("--")).partition("=")[0]
    assert cli.main([name, *MISSPELT[name]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    found = re.fullmatch(rf"branchax: {flag}: unknown flag \(did you mean (--[\w.-]+)\?\); .*--help shows all", line)
    assert found and any(flag == found[1][:i] + found[1][i + 1 :] for i in range(len(found[1])))
    assert not (tmp_path / "runs").exists()


def test_flags_win_over_the_preset_and_both_spellings_work(started):
    argv = ["train", "mbpo", "--world", "classic/pendulum", "--env_steps", "1000", "--model.hidden", "8", "16"]
    assert cli.main([*argv, "--agent.target-entropy", "-1", "--agent.no-learn-temperature"]) == 0
    config, directory, command_line, force = started[-1][0]
    assert (config.world, config.env_steps, config.model.hidden) == ("classic/pendulum", 1000, (8, 16))
    assert (config.agent.target_entropy, config.agent.learn_temperature) == (-1.0, False)
    assert config.agent.hidden == preset("mbpo").agent.hidden
    assert str(directory) == "runs/classic-pendulum_mbpo_s0_1"
    assert not force
    assert command_line.startswith("branchax train mbpo --world classic/pendulum")


def test_a_directory_is_named_after_a_world_without_slash_or_colon():
    assert rundir.named("classic/pendulum") == "classic-pendulum"
    assert rundir.named("my_module:my_world") == "my_module-my_world"
    assert rundir.named("gym/module:Id-v0") == "gym-module-Id-v0"


def test_the_worlds_own_settings_are_defaults_that_flags_win_over(started, monkeypatch):
    import dataclasses

    def fake(name, world=None, paper=False):
        config = preset(name)
        return config if world is None else dataclasses.replace(config, world=world, updates_per_step=3.0, seeds=2)

    monkeypatch.setattr(command, "preset", fake)
    assert cli.main(["train", "mbpo", "--seeds", "4", "--world", "classic/lqr"]) == 0
    config = started[-1][0][0]
    assert (config.updates_per_step, config.seeds) == (3.0, 4)


def test_default_directories_are_numbered(started, tmp_path):
    for number in (1, 2):
        assert cli.main([*TOY, "--seed", "5", "--seeds", "3"]) == 0
        directory = tmp_path / started[-1][0][1]
        assert directory.name == f"classic-lqr_sac_s5-7_{number}"
        directory.mkdir(parents=True)


def test_refuses_a_directory_in_use(capsys, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    refuse(capsys, [*TOY, "--run", "run"], "run is not empty and holds no run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]
    refuse(capsys, [*TOY, "--run", "run/notes.txt"], "run/notes.txt is not a directory")


def test_a_missing_brax_is_named_with_the_cure(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(commands_base, "installed", lambda package: False)
    refuse(capsys, ["train", "mbpo"], "needs brax", "pip install brax==0.14.2")
    assert not list(tmp_path.iterdir())


def test_trains_resumes_and_evaluates(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("branchax.build.build", toy_program)
    assert cli.main([*TOY, "--run", "run"]) == 0
    refuse(capsys, ["resume", "run", "--seed", "3"], "other settings: seed 0 -> 3", "--force")
    refuse(capsys, ["train", "mbpo", "--run", "run"], "rollout.horizon 0 -> 20")
    assert cli.main([*TOY, "--run", "run"]) == 0  # the same command again: nothing is left to do
    assert "the run in run is done" in capsys.readouterr().out
    assert cli.main(["resume", "run", "--env-steps", "80", "--eval-episodes", "4"]) == 0
    output = capsys.readouterr().out
    assert "goes on after 60 env steps" in output and "changed: eval_episodes 16 -> 4" in output
    assert [row["env_steps"] for row in runlog.read(tmp_path / "run" / rundir.METRICS)] == [20, 30, 40, 50, 60, 70, 80]
    assert len((tmp_path / "run" / rundir.COMMAND).read_text().splitlines()) == 2
    capsys.readouterr()
    assert cli.main(["evaluate", "run", "--episodes", "3"]) == 0
    output = capsys.readouterr().out
    assert "seed 0 after 80 env steps: return " in output
    assert "over 3 episodes" in output
    assert cli.main(["evaluate", "run", "--step", "60"]) == 0
    assert "after 60 env steps" in capsys.readouterr().out
    refuse(capsys, ["evaluate", "run", "--step", "61"], "step: 61 is not saved in run; allowed: 60, 80")


def test_a_world_fault_is_one_line_and_exit_code_1(capsys, monkeypatch):
    monkeypatch.setattr("branchax.build.build", lambda config, world=None: toy_program(config, world, fault_at=33))
    assert cli.main([*TOY, "--run", "run"]) == 1
    errors = capsys.readouterr().err
    assert "classic/lqr returned a non-finite reward at env step 33 of seed 0" in errors
    assert "branchax resume run begins again: nothing was saved yet" in errors


def test_ctrl_c_is_a_message(capsys, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(host, "train_together", interrupt)
    assert cli.main(TOY) == 130
    assert "interrupted" in capsys.readouterr().err


def python(code):
    """Runs code in a fresh interpreter; returns (exit code, seconds of processor time, stdout, stderr)."""
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    after = os.times()  # not the clock: other tests run beside this one
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return done.returncode, seconds, done.stdout, done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["train", "mbpo", "--help"],
        ["list"],
        ["train", "mbpo", "--seeds", "0"],
        ["lab", "--help"],
        ["lab", "gradients", "--horizons", "0"],
        ["train", "mbpo", "--model.membrs", "9"],
        ["plot", "--curvs"],
        ["tran"],
    ],
)
def test_answers_before_jax_is_loaded(argv):
    heavy = "{'jax', 'brax', 'mujoco', 'flax', 'numpy', 'matplotlib'}"
    code = f"import sys, branchax.cli; branchax.cli.main({argv!r}); print(sorted({heavy} & set(sys.modules)))"
    # Half a second, where the parser of the command line alone takes a twelfth of one: machines are not alike.
    ours, parser = [], []
    for _ in range(5):
        _, seconds, output, _ = python(code)
        assert output.splitlines()[-1] == "[]"
        ours.append(seconds)
        parser.append(python("import tyro")[1])
        if min(ours) < 6 * min(parser):
            break
    assert min(ours) < 6 * min(parser)


def test_importing_the_package_loads_no_jax():
    code = "import sys, branchax; branchax.Config; branchax.preset('mbpo'); print('jax' in sys.modules)"
    assert python(code)[2] == "False\n"
    assert python("import branchax; branchax.nothing")[3].splitlines()[-1].startswith("AttributeError")


def test_runs_as_a_module_and_a_broken_pipe_is_no_error():
    command = f"{sys.executable} -m branchax train --help | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: branchax train")
    assert done.stderr == ""


def _flags(settings, path=""):
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flags(value, f"{path}{name}.")
        elif not isinstance(value, bool):
            yield f"--{path}{name}".replace("_", "-")
