"""Offline: files that fit, files that do not, and runs that learn from them without taking a step."""

import io
import pickle

import numpy as np
import pytest

from branchax import cli, worlds
from branchax.errors import ConfigError
from branchax.runs import dataset, rundir, runlog

SPEC = worlds.make("classic/pendulum").spec
DISCRETE = worlds.make("classic/cartpole_discrete").spec
FREE = """
    --world classic/pendulum --explore-steps 60 --epoch-steps 40 --collect-steps 4 --batch-size 32 --updates-per-step 1
    --eval-episodes 3 --agent.hidden 8
"""
SMALL = f"""
    {FREE} --model.members 3 --model.elites 2 --model.hidden 8 --model.round-steps 5 --model.max-rounds 3
    --rollout.per-step 10 --rollout.groups 4 --rollout.horizon 2
"""


def arrays(spec=SPEC, count=50, **changes):
    rng = np.random.default_rng(0)
    made = {
        "observations": rng.normal(size=(count, spec.obs_size)),
        "actions": rng.uniform(-1, 1, size=(count, spec.action_size)),
        "rewards": rng.normal(size=count),
        "next_observations": rng.normal(size=(count, spec.obs_size)),
        "terminations": np.zeros(count, bool),
        "truncations": np.zeros(count, bool),
    } | changes
    return {name: x for name, x in made.items() if x is not None}


def written(path, **content):
    np.savez(path, **content)
    return path


def test_what_is_saved_is_what_is_loaded(tmp_path):
    data = dataset.load(written(tmp_path / "a.npz", **arrays()), SPEC)
    dataset.save(tmp_path / "b.npz", data)
    again = dataset.load(tmp_path / "b.npz", SPEC)
    for x, y in zip(data, again, strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype
    assert dataset.rows(tmp_path / "b.npz") == 50


def test_older_names_and_numbered_actions_are_understood(tmp_path):
    which = np.arange(50) % 2
    content = arrays(DISCRETE, actions=which, terminations=None, truncations=None, terminals=which == 1)
    data = dataset.load(written(tmp_path / "a.npz", **content), DISCRETE)
    np.testing.assert_array_equal(data.action, np.eye(2)[which])
    np.testing.assert_array_equal(data.terminated, which == 1)
    assert not data.truncated.any()


BROKEN = {
    "has no rewards .did you mean reward.": {"rewards": None, "reward": np.zeros(50)},
    "has no next_observations": {"next_observations": None},
    "as long as each other": {"rewards": np.zeros(49)},
    "needs .50, 3.": {"observations": np.zeros((50, 4))},
    "actions of .* has shape": {"actions": np.zeros((50, 2))},
    "rewards of .* is not finite in row 7": {"rewards": np.where(np.arange(50) == 7, np.nan, 0.0)},
    "next_observations of .* is not finite in row 0": {"next_observations": np.full((50, 3), np.inf)},
    "actions of .* reach 2": {"actions": np.full((50, 1), 2.0)},
    "rewards of .* is not finite in row 2": {"rewards": np.where(np.arange(50) == 2, 1e300, 0.0)},
    "rewards of .* holds complex128": {"rewards": np.full(50, 1j)},
    "terminations of .* must be 0 or 1": {"terminations": np.full(50, 0.5)},
    "holds <U1": {"rewards": np.full(50, "x")},
}


@pytest.mark.parametrize("message", BROKEN)
def test_refuses_what_does_not_fit(message, tmp_path):
    with pytest.raises(ConfigError, match=f"^dataset: .*{message}"):
        dataset.load(written(tmp_path / "a.npz", **arrays(**BROKEN[message])), SPEC)


def test_refuses_numbers_that_are_no_actions(tmp_path):
    with pytest.raises(ConfigError, match="must be one-hot"):
        dataset.load(written(tmp_path / "b.npz", **arrays(DISCRETE)), DISCRETE)
    with pytest.raises(ConfigError, match="whole numbers from 0 to 1"):
        dataset.load(written(tmp_path / "a.npz", **arrays(DISCRETE, actions=np.arange(50))), DISCRETE)


def test_refuses_what_is_no_dataset_and_executes_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    (tmp_path / "text.npz").write_text("not a zip file")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb()))
    content = arrays()
    content["rewards"] = np.array([Bomb()] * 50, dtype=object)
    buffer = io.BytesIO()
    np.savez(buffer, **content)
    (tmp_path / "objects.npz").write_bytes(buffer.getvalue())
    np.save(tmp_path / "one.npy", np.zeros(3))
    for name in ("text.npz", "pickle.npz", "objects.npz", "one.npy", "missing.npz"):
        with pytest.raises(ConfigError, match=r"^dataset: "):
            dataset.load(tmp_path / name, SPEC)


def test_a_run_s_data_trains_another_offline(tmp_path, capsys):
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "data.npz"
    assert cli.main(["train", "sac", *FREE.split(), "--env-steps", "140", "--seeds", "2", "--run", str(first)]) == 0
    assert cli.main(["dataset", str(first), str(file)]) == 0
    data = dataset.load(file, SPEC)
    assert data.reward.shape == (280,)
    goes_on = ~(data.terminated | data.truncated)[:-1]
    goes_on[139] = False  # the next seed's
    np.testing.assert_array_equal(data.next_obs[:-1][goes_on], data.obs[1:][goes_on])
    offline = ["train", "mopo", *SMALL.split(), "--dataset", str(file), "--env-steps", "80", "--run", str(second)]
    assert cli.main(offline) == 0
    rows = runlog.read(second / rundir.METRICS)
    assert [row["env_steps"] for row in rows] == [0, 0, 0] and [row["updates"] for row in rows] == [0, 40, 80]
    assert [runlog.clock(row) for row in rows] == [0, 40, 80] and rundir.load_config(second).real_capacity == 280
    # Resumed, it needs the file no longer.
    file.unlink()
    assert cli.main(["resume", str(second), "--env-steps", "120"]) == 0
    assert cli.main(["evaluate", str(second)]) == 0
    assert (second / rundir.EVALUATIONS / "120.json").exists()
    capsys.readouterr()
    assert cli.main(["dataset", str(second), str(tmp_path / "again.npz")]) == 0
    again = dataset.load(tmp_path / "again.npz", SPEC)
    for x, y in zip(data, again, strict=True):
        np.testing.assert_array_equal(x, y)


def test_bad_files_are_refused_before_anything_is_compiled(tmp_path, capsys):
    for changes, named in (({"rewards": None}, "rewards"), ({"observations": np.zeros((300, 9))}, "observations")):
        file, directory = written(tmp_path / f"{named}.npz", **arrays(count=300, **changes)), tmp_path / "run"
        command = ["train", "mopo", "--world", "classic/pendulum", "--dataset", str(file), "--run", str(directory)]
        assert cli.main(command) == 2
        assert named in capsys.readouterr().err and not directory.exists()
