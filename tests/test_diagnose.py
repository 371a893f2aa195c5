"""Diagnostics of models whose errors are known: the world itself, one that drifts, one as noisy as the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import cli, worlds
from branchax.agents.base import Agent, Valuation
from branchax.config import to_dict
from branchax.dynamics.base import Dynamics
from branchax.epoch.state import Counts, Fault, TrainState
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.runs import rundir
from branchax.views import critic, diagnose, model, play
from branchax.views.play import Player
from branchax.worlds.base import WorldSpec, WorldState, endless, make_world


def lean(agent, obs):
    """A policy that pushes against the first entry of what it sees."""
    return agent * jnp.clip(-obs[:1], -1, 1)


def in_itself(world, drift=0.0):
    """The world as its own model, of two members. It starts from what was observed, which must be its whole state."""

    def imagined(model, member):
        def step(key, state, action):
            after, t = endless(world).step(key, state, action)
            next_obs = t.next_obs.at[0].add(drift)
            return WorldState(next_obs, next_obs, after.time), t._replace(next_obs=next_obs)

        return world._replace(step=step)

    return Dynamics(
        init=lambda key: (),
        fit=lambda key, model, ring: (model, {}),
        elites=lambda model: jnp.arange(2),
        world=imagined,
        branch=lambda row: WorldState(row.transition.obs, row.transition.obs, jnp.zeros((), jnp.int32)),
        after=lambda key, row: None,
        doubt=lambda model, obs, action: jnp.zeros(()),
        needs_state=False,
    )


def player(name, dynamics=None, valuation=None, seen=None, world=None):
    """What is played: `seen` [N, D] is the replay buffer."""
    from branchax import replay
    from branchax.types import Row, Transition

    config, world = preset("sac", name), worlds.make(name) if world is None else world
    zero, spec = jnp.zeros((), jnp.int32), world.spec
    seen = np.zeros((4, spec.obs_size)) if seen is None else seen
    rows = Row(Transition(jnp.asarray(seen, jnp.float32), *[jnp.zeros(len(seen))] * 5))
    ring = replay.add(replay.init(jax.tree.map(lambda x: x[0], rows), len(seen)), rows)
    agent = Agent(
        init=lambda key: jnp.ones(()),
        act=lambda key, agent, obs: (lean(agent, obs), ()),
        mode=lambda agent, obs: jnp.broadcast_to(lean(agent, obs), (spec.action_size,)),
        update=lambda key, agent, sources: (agent, {}),
        valuation=valuation,
    )
    counts, fault = Counts(zero, zero.astype(jnp.uint32), zero, zero), Fault(zero - 1, zero, zero, None)
    state = TrainState(jax.random.key(0), (), ring, (), (), jnp.ones(()), counts, fault)
    return Player(config, 0, world, None if dynamics is None else dynamics(world), agent, state, jax.random.key(7))


def episodes(player, length, count=16):
    return jax.tree.map(np.asarray, play.episodes(player, count, length, lambda state: ())(True)[0])


def test_the_world_itself_makes_no_error_and_imagines_what_happens():
    one = player("classic/point_mass", in_itself)
    real = episodes(one, 60)
    found = model.measure_open_loop(one, real, 60)["open_loop"]
    assert found["steps"][-1] == 25 and max(found["all"]) < 1e-5 and found["still"][-1] > 0.1
    imagined = play.imagine(one, real.transition.obs[0], 60)
    np.testing.assert_allclose(imagined.transition.reward[1], real.transition.reward, rtol=1e-4, atol=1e-5)


def test_a_model_that_drifts_is_off_by_its_drift_times_the_steps():
    seen = np.random.default_rng(0).normal(size=(50, 4)) * [2.0, 1.0, 1.0, 1.0]
    one = player("classic/point_mass", lambda world: in_itself(world, drift=0.01), seen=seen)
    found = model.measure_open_loop(one, episodes(one, 60), 60)["open_loop"]
    steps = np.arange(1, 26)  # recorded actions: nothing that the model sees comes back
    np.testing.assert_allclose(found["error"][:, 0], 0.01 * steps / seen[:, 0].astype(np.float32).std(), rtol=1e-3)
    np.testing.assert_allclose(found["error"][:, 1:], 0.0, atol=1e-5)
    np.testing.assert_allclose(
        found["quantiles"][:, 1], found["error"][:, 0] / 2, rtol=1e-3
    )  # root mean over 4 entries


def noisy():
    """A point that is pushed about; its reward never changes."""

    def step(key, state, action):
        after = 0.9 * state + 0.1 * action + 0.5 * jax.random.normal(key, (1,))
        return after, after, jnp.ones(()), jnp.zeros((), bool)

    def reset(key):
        return jnp.zeros(1), jnp.zeros(1)

    return make_world(WorldSpec("noisy", 1, 1, 50), reset, step)


def test_a_model_as_noisy_as_the_world_is_calibrated_and_one_that_is_shifted_is_not():
    for drift, good in ((0.0, True), (1.0, False)):
        one = player("classic/lqr", lambda world, drift=drift: in_itself(world, drift), world=noisy())
        found = model.measure_calibration(one, episodes(one, 50))
        gap = np.abs(found["share"][0] - found["levels"]).max()
        assert (gap < 0.08) == good, gap
        assert found["names"] == ["obs 0"] and found["rows"] == model.ROWS  # a constant has no distribution


def returns_of(world, value, bonus=None):
    valuation = Valuation(lambda agent, obs, action: jnp.full(2, value), True, bonus)
    one = player(world, valuation=valuation)
    return critic.measure_critic(one, valuation, episodes(one, 1 + critic.tail_of(0.99)), critic.tail_of(0.99))


def test_a_critic_is_held_against_closed_forms():
    found = returns_of("probe/time_limit", 100.0)  # the clock ends no value: Q = 1 / (1 - discount)
    assert len(found["actual"]) > 16
    assert np.all(np.abs(found["actual"] - 100) <= 1.001) and 0 <= found["bias"] <= 1.001
    found = returns_of("probe/constant_reward", 3.0)  # ends after one step: Q = 1
    np.testing.assert_allclose(found["actual"], 1.0)
    assert found["bias"] == pytest.approx(2.0) and found["error"] == pytest.approx(2.0)
    found = returns_of("probe/time_limit", 0.0, bonus=lambda agent, obs, action: jnp.full((), 0.5))
    # r + gamma (b + r + gamma (b + ...)) = (r + gamma b) / (1 - gamma)
    assert np.all(np.abs(found["actual"] - (1 + 0.99 * 0.5) * 100) <= 2)
    found = returns_of("probe/constant_reward", 0.0, bonus=lambda agent, obs, action: jnp.full((), 0.5))
    np.testing.assert_allclose(found["actual"], 1.0)  # nothing comes after the end


def test_a_return_is_followed_until_little_is_cut_off():
    assert critic.tail_of(0.0) == 1
    assert 0.99 ** critic.tail_of(0.99) <= 0.01 < 0.99 ** (critic.tail_of(0.99) - 1)
    assert critic.tail_of(0.999) is None and critic.tail_of(1.0) is None


@pytest.mark.parametrize(("name", "why"), [("sac", "model-free"), ("oracle_mbpo", "the simulator itself")])
def test_a_run_without_a_model_of_its_own_is_refused(tmp_path, capsys, name, why):
    rundir.write_json(tmp_path / rundir.CONFIG, to_dict(preset(name, "classic/pendulum")))
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    assert why in capsys.readouterr().err


def test_a_run_without_a_checkpoint_and_a_seed_that_is_not_there_are_refused(tmp_path):
    rundir.write_json(tmp_path / rundir.CONFIG, to_dict(preset("mbpo", "classic/pendulum")))
    with pytest.raises(ConfigError, match="no checkpoint yet"):
        diagnose.diagnose(tmp_path)
