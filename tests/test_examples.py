"""The examples run as they stand, on smaller sizes."""

import runpy
from pathlib import Path

import pytest
from conftest import replace

import branchax
from branchax import presets

EXAMPLES = Path(__file__).parents[1] / "examples"
SMALL = {
    "env_steps": 80, "explore_steps": 40, "epoch_steps": 20, "batch_size": 16, "eval_episodes": 2,
    "episode_length": 10, "model__members": 2, "model__elites": 1, "model__hidden": (8,), "model__max_rounds": 2,
    "agent__hidden": (8,), "rollout__per_step": 6, "rollout__per_update": 4, "rollout__groups": 2,
}  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """Makes every preset one of few and small steps."""
    preset = presets.preset

    def smaller(name, world=None):
        config = preset(name, world)
        horizon, all_at_once = min(config.rollout.horizon, 3), config.collect_steps > 1
        changes = {"collect_steps": 20, "updates_per_step": 0.1} if all_at_once else {"updates_per_step": 1}
        return replace(config, **SMALL, rollout__horizon=horizon, **changes)

    monkeypatch.setattr(presets, "preset", smaller)


@pytest.mark.slow  # fast tests run the Python of the README, and have worlds and parts of one's own
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("first_run", ["60 env steps, 360 imagined ones, 20 updates", "held-out", "first observations of 3 seeds"]),
        ("own_world", ["60 env steps, model error", "80 env steps", "return -"]),
        ("own_agent", ["seed 0: return -", "after 80 env steps"]),
        ("own_model", ["seed 0: return -", "after 80 env steps"]),
        ("own_stage", ["seed 0: return -", "after 80 env steps"]),
    ],
)
def test_example(name, says, small, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    output = capsys.readouterr().out
    for part in says:
        assert part in output


def test_every_example_is_tested():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {
        "first_run",
        "own_world",
        "own_agent",
        "own_model",
        "own_stage",
    }


def test_the_public_names_are_there():
    for name in branchax.__all__:
        assert getattr(branchax, name) is not None
    assert branchax.run.__name__ == "train"
