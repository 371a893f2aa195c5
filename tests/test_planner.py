"""Planning: closed-form plans are found, each update is the paper's, and a plan that ends its episode loses by it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import worlds
from branchax.agents.base import Sources
from branchax.agents.planner import Knobs, Plan, colour, make_planner, populations, refit, search, shift, worth
from branchax.config import PlannerConfig
from branchax.epoch.evaluate import episode_returns
from branchax.rollout import copies, rollout
from branchax.worlds.base import WorldState, endless
from branchax.worlds.lqr import double_integrator, lqr, riccati

SHOOTING = PlannerConfig(
    horizon=8, candidates=500, iterations=1, elites=1, uniform=True, init_std=1.0, warm_start=False, execute="best"
)
CEM = PlannerConfig(horizon=8, candidates=200, elites=20, iterations=15)
ICEM = dataclasses.replace(CEM, iterations=5, keep=0.3, noise_exponent=1.0, decay=1.25, init_std=0.2, execute="best")
MPPI = dataclasses.replace(
    CEM, candidates=1000, elites=1000, temperature=0.002, momentum=0.0, std_momentum=1.0, init_std=0.1
)
START = jnp.array([0.2, -0.1])


def make(world, config):
    """The planner that imagines in `world` itself, whose state is what is observed."""
    return make_planner(
        world.spec,
        config,
        init_model=lambda key: {"version": jnp.zeros(())},
        elites=lambda model: jnp.zeros(1, jnp.int32),
        world=lambda model, member: endless(world),
        branch=state_at,
    )


def state_at(obs):
    return WorldState(obs, obs, jnp.zeros((), jnp.int32))


def knobs(config):
    temperature = jnp.inf if config.temperature is None else config.temperature
    floats = temperature, config.momentum, config.std_momentum, config.init_std, config.discount
    return Knobs(*(jnp.float32(x) for x in floats))


def blank(config, action_size=1):
    shape = config.horizon, action_size
    return Plan(jnp.zeros(shape), jnp.zeros((round(config.keep * config.elites), *shape)), jnp.zeros((), jnp.int32))


def optimal_plan(horizon):
    """[H, 1] from START, and its return."""
    system, optimum = jax.tree.map(np.asarray, (double_integrator(), riccati(double_integrator(), horizon)))
    start = x = np.asarray(START)
    plan = []
    for gain in optimum.gain:
        plan.append(-gain @ x)
        x = system.a @ x + system.b @ plan[-1]
    return np.stack(plan), float(-start @ optimum.cost[0] @ start)


@jax.jit
def return_of(plan):
    """The return of a plan [H, 1] from START."""
    path = rollout(jax.random.key(0), lqr(), None, copies(state_at(START), 1), len(plan), actions=plan[:, None])[1]
    return path.transition.reward.sum()


@pytest.mark.parametrize(("config", "atol"), [(CEM, 2e-3), (MPPI, 0.01), (ICEM, 0.05)], ids=["cem", "mppi", "icem"])
def test_the_optimal_plan_of_a_linear_system_is_found(config, atol):
    agent = make(lqr(), config)
    params = jax.jit(agent.init)(jax.random.key(1))
    action, extras, after = jax.jit(agent.act)(jax.random.key(0), params, START, agent.memory(params))
    plan = np.concatenate([action[None], after.mean[:-1]])  # the mean comes shifted to the next step
    expected, best = optimal_plan(config.horizon)
    np.testing.assert_allclose(plan, expected, atol=atol)
    assert best - float(return_of(plan)) < 1e-3 * abs(best)
    assert float(extras.metrics["plan/return"]) == pytest.approx(best, rel=0.05)
    assert int(extras.model_steps) == 8 * sum(populations(config))
    assert float(after.mean[-1, 0]) == 0.0 and int(after.time) == 1


@pytest.mark.slow
def test_random_shooting_gets_better_with_the_number_of_plans():
    def regret(count):
        agent = make(lqr(), dataclasses.replace(SHOOTING, horizon=3, candidates=count))
        params = jax.jit(agent.init)(jax.random.key(1))
        act = jax.jit(jax.vmap(lambda k: agent.act(k, params, START, agent.memory(params))[0]))
        return np.abs(np.asarray(act(jax.random.split(jax.random.key(0), 200))) - optimal_plan(3)[0][0]).mean()

    few, more, many = regret(4), regret(64), regret(1024)
    assert many < 0.5 * more < 0.25 * few


def test_one_step_of_mppi_equals_numpy():
    config = dataclasses.replace(MPPI, horizon=4, candidates=50, elites=50, iterations=1, temperature=0.3, momentum=0.2)
    plan = Plan(jnp.linspace(-0.9, 0.9, 8).reshape(4, 2), jnp.zeros((0, 4, 2)), jnp.int32(3))
    score = lambda key, plans: -((plans - 0.1) ** 2).sum((1, 2))  # noqa: E731
    action, best, after = jax.jit(lambda key: search(key, score, plan, knobs(config), config))(jax.random.key(7))

    key_noise, _ = jax.random.split(jax.random.split(jax.random.key(7), 1)[0])
    tried = np.clip(plan.mean + 0.1 * np.asarray(jax.random.normal(key_noise, (50, 4, 2))), -1, 1)
    value = -((tried - 0.1) ** 2).sum((1, 2))
    weights = np.exp((value - value.max()) / 0.3)
    mean = np.einsum("n,nha->ha", weights / weights.sum(), tried)
    assert float(best) == pytest.approx(value.max(), rel=1e-5)
    mean = 0.2 * np.asarray(plan.mean) + 0.8 * mean
    np.testing.assert_allclose(action, mean[0], rtol=1e-5)
    np.testing.assert_allclose(after.mean, np.concatenate([mean[1:], np.zeros((1, 2))]), rtol=1e-5, atol=1e-7)


def test_the_refit_of_cem_equals_numpy_and_what_is_not_finite_is_no_elite():
    rng = np.random.default_rng(0)
    plans, scores = rng.normal(size=(30, 5, 2)).astype(np.float32), rng.normal(size=30).astype(np.float32)
    scores[:3] = np.nan, np.inf, -np.inf
    fit = jax.jit(refit, static_argnums=2)
    best, top, mean, std = fit(plans, scores, 6, np.float32(np.inf))
    scores[:3] = -np.inf
    elites = plans[np.argsort(-scores)[:6]]
    np.testing.assert_array_equal(best, elites)
    np.testing.assert_array_equal(top, np.sort(scores)[:-7:-1])
    np.testing.assert_allclose(mean, elites.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(std, elites.std(0), rtol=1e-5)
    _, _, mean, _ = fit(plans, scores, 30, np.float32(np.inf))
    np.testing.assert_allclose(mean, plans[3:].mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_has_unit_variance_and_the_slope_of_its_spectrum(exponent):
    horizon = 256
    noise = np.random.default_rng(0).normal(size=(2000, horizon)) @ np.asarray(colour(horizon, exponent)).T
    np.testing.assert_allclose(noise.var(0), 1.0, atol=0.15)
    power = (np.abs(np.fft.rfft(noise, axis=1)) ** 2).mean(0)[1:-1]
    slope = np.polyfit(np.log(np.arange(1, horizon // 2)), np.log(power), 1)[0]
    assert slope == pytest.approx(-exponent, abs=0.02)
    if exponent == 0.0:
        np.testing.assert_allclose(colour(7, 0.0), np.eye(7), atol=1e-6)


def test_populations_shrink_to_two_per_elite_and_are_never_larger_than_at_first():
    assert populations(dataclasses.replace(ICEM, candidates=100, elites=30)) == [100, 80, 64, 60, 60]
    assert populations(dataclasses.replace(ICEM, candidates=40, elites=30)) == [40] * 5


@pytest.mark.parametrize("iterations", [1, 3])
def test_kept_elites_are_tried_at_the_next_step_but_not_at_the_first(iterations):
    config = dataclasses.replace(
        ICEM, horizon=4, candidates=20, elites=4, keep=0.5, iterations=iterations, decay=1.0, momentum=0.0
    )
    known = jnp.array([[0.9], [-0.9], [0.9], [-0.9]])  # nothing like the draws
    score = lambda key, plans: -jnp.abs(plans - known).sum((1, 2))  # noqa: E731

    @jax.jit
    def run(time):
        plan = blank(config)._replace(elites=jnp.stack([known, -known]), time=time)
        return search(jax.random.key(0), score, plan, knobs(config), config)

    action, _, after = run(jnp.int32(5))
    np.testing.assert_array_equal(action, known[0])
    np.testing.assert_array_equal(after.elites[0], shift(known))
    assert after.elites.shape == (2, 4, 1) and int(after.time) == 6
    assert float(jnp.abs(run(jnp.int32(0))[0] - known[0]).max()) > 0.01


def test_a_plan_that_ends_the_episode_loses_the_rest():
    world = worlds.make("classic/cartpole")
    start = copies(state_at(jnp.array([0.0, 0.0, 0.18, 0.5])), 1)  # falling to the right, 1.7 degrees from the end
    plans, step, alive = np.stack([np.full((15, 1), push, np.float32) for push in (1, 0, -1)]), jax.jit(world.step), []
    for plan in plans:
        state, steps = jax.tree.map(lambda x: x[0], start), 0
        for action in plan:
            state, transition = step(jax.random.key(0), state, action)
            steps += 1
            if transition.terminated:
                break
        alive.append(steps)

    @jax.jit
    def value(discount):
        return worth(lambda member: world, jnp.zeros(1, jnp.int32), start, discount, jax.random.key(0), plans)

    np.testing.assert_array_equal(value(1.0), alive)
    assert alive[0] > alive[1] > 1 and alive[1] >= alive[2]
    np.testing.assert_allclose(value(0.5), 2 * (1 - 0.5 ** np.array(alive)), rtol=1e-6)


def test_a_plan_is_worth_its_mean_over_members_and_particles_and_equal_plans_are_worth_the_same():
    system = double_integrator()._replace(noise_std=0.3)

    def member(index):  # pays its own index on top at each step
        base = lqr(system)

        def step(key, state, action):
            after, transition = base.step(key, state, action)
            return after, transition._replace(reward=transition.reward + index)

        return base._replace(step=step)

    start, plan = copies(state_at(START), 5), jnp.linspace(-1, 1, 6)[:, None]
    plans = jnp.stack([plan, -plan, plan])
    value = jax.jit(lambda key: worth(member, jnp.array([2, 4]), start, 0.9, key, plans))(jax.random.key(3))

    @jax.jit
    def rewards(key, index):
        actions = jnp.repeat(plan[:, None], 5, 1)
        return rollout(key, member(index), lambda k, obs: (None, ()), start, 6, actions=actions)[1].transition.reward

    by_hand = [
        sum(0.9**t * each[t] for t in range(6)).mean()
        for key, index in zip(jax.random.split(jax.random.key(3), 2), (2, 4), strict=True)
        for each in [np.asarray(rewards(key, index))]
    ]
    np.testing.assert_allclose(value[0], np.mean(by_hand), rtol=1e-5)
    assert float(value[0]) == float(value[2]) != float(value[1])


@pytest.mark.slow
def test_the_planner_keeps_a_pole_up_and_its_mode_is_a_function_of_the_state():
    world = worlds.make("classic/cartpole", episode_length=150)
    agent = make(world, PlannerConfig(horizon=20, candidates=64, elites=8, iterations=2, momentum=0.0))
    params = jax.jit(agent.init)(jax.random.key(1))

    def act(key, obs, plan):
        action, plan = agent.mode(params, obs, plan)
        return action, (), plan

    run = jax.jit(lambda k: episode_returns(k, world, act, 3, memory=agent.memory(params)))
    returns, lengths = run(jax.random.key(0))
    np.testing.assert_array_equal(returns, 150.0)
    np.testing.assert_array_equal(lengths, 150)
    obs, plan = jnp.array([0.1, 0.0, 0.05, 0.0]), agent.memory(params)
    mode = jax.jit(agent.mode)
    first, later = mode(params, obs, plan)
    np.testing.assert_array_equal(first, mode(params, obs, plan)[0])
    assert float(mode(params, obs, plan._replace(time=later.time))[0][0]) != float(first[0])  # other draws


def test_an_update_adopts_the_latest_model_and_nothing_else():
    agent = make(lqr(), CEM)
    params = jax.jit(agent.init)(jax.random.key(0))
    sources = Sources(replay=None, rollout=None, model={"version": jnp.ones(())})
    after, _ = agent.update(jax.random.key(1), params, sources)
    assert float(after.model["version"]) == 1.0
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert after.knobs is params.knobs and after.key is params.key


def test_all_plans_of_all_worlds_are_tried_in_one_scan():
    config = dataclasses.replace(CEM, horizon=9, iterations=4)
    agent = make(lqr(), config)
    params = jax.jit(agent.init)(jax.random.key(0))
    keys, memory = jax.random.split(jax.random.key(1), 3), copies(agent.memory(params), 3)
    act = jax.vmap(agent.act, in_axes=(0, None, 0, 0))
    text = str(jax.make_jaxpr(act)(keys, params, jnp.zeros((3, 2)), memory))
    assert text.count(" scan[") == 2 and text.count("length=9") == 1 and text.count("length=4") == 1
    assert "f32[3,200,1,2]" in text  # worlds, plans, particles, state
