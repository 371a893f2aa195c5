"""Offline: files that fit, files that do not, and runs that learn from them without taking a step."""

import io
import pickle
import sys
import warnings

import numpy as np
import pytest

from branchax import cli, worlds
from branchax.errors import ConfigError
from branchax.runs import dataset, restoring, rundir, runlog
from branchax.types import Transition

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
    dataset.save(tmp_path / "b.npz", data, SPEC)
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


def test_common_layouts_are_read_as_what_they_mean(tmp_path):
    plain = dataset.load(written(tmp_path / "a.npz", **arrays()), SPEC)
    whole = np.concatenate([plain.obs, plain.next_obs[-1:]])
    content = arrays(truncations=None, timeouts=np.arange(50) == 49, terminations=np.zeros((50, 1)))
    content |= {"rewards": content["rewards"][:, None], "observations": whole.astype(np.float64)}
    del content["next_observations"]
    found = dataset.load(written(tmp_path / "b.npz", **content), SPEC)
    np.testing.assert_array_equal(found.obs, plain.obs)
    np.testing.assert_array_equal(found.next_obs, whole[1:])
    np.testing.assert_array_equal(found.reward, plain.reward)
    assert found.reward.dtype == found.obs.dtype == np.float32 and found.truncated.nonzero()[0].tolist() == [49]
    numbered = arrays(DISCRETE, actions=(np.arange(50) % 2)[:, None])
    found = dataset.load(written(tmp_path / "c.npz", **numbered), DISCRETE)
    np.testing.assert_array_equal(found.action, np.eye(2)[np.arange(50) % 2])


def test_actions_beyond_the_bounds_are_what_the_world_made_of_them(tmp_path):
    beyond = dataset.load(written(tmp_path / "a.npz", **arrays()), SPEC)
    beyond = beyond._replace(action=beyond.action * 3)
    dataset.save(tmp_path / "b.npz", beyond, SPEC)
    np.testing.assert_array_equal(dataset.load(tmp_path / "b.npz", SPEC).action, np.clip(beyond.action, -1, 1))
    rounded = arrays(actions=np.full((50, 1), 1 + 1e-6))
    assert dataset.load(written(tmp_path / "c.npz", **rounded), SPEC).action.max() == 1.0
    lqr = worlds.make("classic/lqr").spec  # which takes them as they are
    mine = beyond._replace(obs=beyond.obs[:, :2], next_obs=beyond.next_obs[:, :2])
    dataset.save(tmp_path / "d.npz", mine, lqr)
    np.testing.assert_array_equal(dataset.load(tmp_path / "d.npz", lqr).action, beyond.action)


def walks(count, width, rng, ended=0.15):
    """Rows of `width` worlds in turn [count * width], each a walk that ends now and then, and their worlds."""
    place, rows = rng.normal(size=width), []
    for _ in range(count):
        after = place + rng.normal(size=width)
        over = rng.random(width) < ended
        rows += zip(place, after, over, range(width), strict=True)
        place = np.where(over, rng.normal(size=width), after)
    start, end, over, world = (np.array(x) for x in zip(*rows, strict=True))
    row = lambda x: x.astype(np.float32)[:, None]  # noqa: E731
    no = np.zeros(len(over), bool)
    return Transition(row(start), row(world), row(end)[:, 0], row(end), over & (world % 2 == 0), no | over), world


def followed(rows):
    """Every row that is not marked is followed by the next one of its episode."""
    on = ~(rows.terminated | rows.truncated)
    assert not on[-1]
    np.testing.assert_array_equal(rows.next_obs[:-1][on[:-1]], rows.obs[1:][on[:-1]])


@pytest.mark.parametrize(("width", "first"), [(1, 0), (4, 0), (16, 0), (16, 7)])
def test_rows_of_parallel_worlds_come_world_after_world_and_cuts_are_marked(width, first):
    rows, world = walks(30, width, np.random.default_rng(width))
    rows, world = Transition(*(x[first:] for x in rows)), world[first:]  # a ring may begin anywhere
    found = dataset.by_episode(rows, width)
    followed(found)
    order = np.argsort((world - first) % width, kind="stable")
    np.testing.assert_array_equal(found.obs, rows.obs[order])
    marks = found.truncated & ~(rows.truncated & ~rows.terminated)[order]
    assert marks.sum() <= width and not (found.truncated & found.terminated).any()


def test_rows_that_were_left_out_cut_an_episode_and_mix_no_two():
    rng = np.random.default_rng(3)
    rows, _ = walks(60, 5, rng, ended=0.05)
    kept = rng.random(300) > 0.1
    # What follows a row that is left out begins an episode anew.
    rows = Transition(*(x[kept] for x in rows))
    found = dataset.by_episode(rows, 5)
    followed(found)
    assert sorted(found.obs[:, 0].tolist()) == sorted(rows.obs[:, 0].tolist())
    assert found.truncated.sum() < 0.35 * len(rows.obs)


def test_identical_worlds_stay_apart():
    """A world with one start and few states: what two worlds see is often the same."""
    states = np.array([[0, 0], [1, 0], [2, 1], [3, 1], [3, 2]], np.float32)
    width, count = 2, 4
    obs, after = states[:count].reshape(-1, 1), states[1:].reshape(-1, 1)
    no = np.zeros(count * width, bool)
    world = np.tile(np.arange(width, dtype=np.float32), count)
    rows = Transition(obs, world[:, None], world, after, no, no)
    found = dataset.by_episode(rows, width)
    np.testing.assert_array_equal(found.reward, [0] * 4 + [1] * 4)
    assert found.truncated.nonzero()[0].tolist() == [3, 7]


def test_minari_s_datasets_are_read_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari = pytest.importorskip("minari")
    buffer = pytest.importorskip("minari.data_collector").EpisodeBuffer
    from gymnasium import spaces

    rng = np.random.default_rng(0)
    parts = [
        {
            "observations": rng.normal(size=(steps + 1, 3)).astype(np.float32),
            "actions": rng.uniform(-2, 4, size=(steps, 1)).astype(np.float32),
            "rewards": rng.normal(size=steps).tolist(),
            "terminations": [False] * (steps - 1) + [steps == 4],
            "truncations": [False] * steps,
        }
        for steps in (4, 6)
    ]
    buffers = [buffer(**{name: list(x) for name, x in part.items()}) for part in parts]
    spaces_of = {"observation_space": spaces.Box(-9, 9, (3,)), "action_space": spaces.Box(-2, 4, (1,))}
    with warnings.catch_warnings():  # that nothing is said of where the data are from
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers("own/walk-v0", buffers, **spaces_of)
    found = dataset.load("minari:own/walk-v0", SPEC)
    np.testing.assert_array_equal(found.obs, np.concatenate([x["observations"][:-1] for x in parts]))
    np.testing.assert_array_equal(found.next_obs, np.concatenate([x["observations"][1:] for x in parts]))
    np.testing.assert_allclose(found.action, (np.concatenate([x["actions"] for x in parts]) - 1) / 3, atol=1e-6)
    assert np.abs(found.action).max() <= 1
    assert found.terminated.nonzero()[0].tolist() == [3] and found.truncated.nonzero()[0].tolist() == [9]
    assert dataset.rows("minari:own/walk-v0") == 10
    with pytest.raises(ConfigError, match=r"^dataset: minari:own/wlk-v0 is not on this machine .did you mean own/walk"):
        dataset.rows("minari:own/wlk-v0")


def test_without_minari_the_cure_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ConfigError, match=r"needs minari, which is not installed: pip install 'branchax\[minari\]'"):
        dataset.rows("minari:own/walk-v0")


BROKEN = {
    "has no rewards .did you mean reward.": {"rewards": None, "reward": np.zeros(50)},
    "has no next_observations": {"next_observations": None},
    "as long as each other": {"rewards": np.zeros(49)},
    "needs .50, 3.": {"observations": np.zeros((50, 4))},
    r"observations of .* has shape \(5, 10, 3\)": {"observations": np.zeros((5, 10, 3))},
    "ends before the last row": {
        "observations": np.zeros((51, 3)),
        "next_observations": None,
        "terminations": np.arange(50) == 7,
    },
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


def test_a_run_learns_from_a_file_alone(tmp_path):
    file, run = written(tmp_path / "data.npz", **arrays(count=70)), tmp_path / "run"
    assert (
        cli.main(["train", "sac", *FREE.split(), "--dataset", str(file), "--env-steps", "80", "--run", str(run)]) == 0
    )
    rows = runlog.read(run / rundir.METRICS)
    assert [row["env_steps"] for row in rows] == [0, 0, 0] and [row["updates"] for row in rows] == [0, 40, 80]
    for kept, given in zip(restoring.collected(run), dataset.load(file, SPEC), strict=True):
        np.testing.assert_array_equal(kept, given)


@pytest.mark.slow
def test_a_run_s_data_trains_another_offline(tmp_path, capsys):
    first, second, file = tmp_path / "first", tmp_path / "second", tmp_path / "data.npz"
    assert cli.main(["train", "sac", *FREE.split(), "--env-steps", "140", "--seeds", "2", "--run", str(first)]) == 0
    assert cli.main(["dataset", str(first), str(file)]) == 0
    data = dataset.load(file, SPEC)
    assert data.reward.shape == (280,)
    goes_on = ~(data.terminated | data.truncated)[:-1]
    assert data.truncated[139] and data.truncated[279]  # where the next seed begins, and at the end
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


@pytest.mark.slow
def test_an_on_policy_run_s_file_is_whole_and_can_be_learned_from(tmp_path):
    file = tmp_path / "a.npz"
    few = "--world classic/pendulum --episode-length 9 --explore-steps 64 --env-steps 160 --epoch-steps 32"
    few += " --collect-steps 32 --updates-per-step 0.03125 --eval-episodes 2 --agent.hidden 8 --agent.minibatches 2"
    assert cli.main(["train", "ppo", *few.split(), "--run", str(tmp_path / "a")]) == 0
    assert cli.main(["dataset", str(tmp_path / "a"), str(file)]) == 0
    data = dataset.load(file, SPEC)
    followed(data)
    assert len(data.reward) == 160 and np.abs(data.action).max() == 1.0
    # 10 steps of each of 16 worlds: an episode of 9, and the first step of the next one.
    assert data.truncated.nonzero()[0].tolist() == sorted(
        [8 + 10 * w for w in range(16)] + [9 + 10 * w for w in range(16)]
    )
