"""The analytic worlds against NumPy; the linear-quadratic closed forms against SciPy, NumPy and the simulated world."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg

from branchax.errors import ConfigError
from branchax.rollout import rollout
from branchax.worlds import make
from branchax.worlds.base import never
from branchax.worlds.catalog import WORLDS
from branchax.worlds.classic import CLASSIC
from branchax.worlds.discrete import DISCRETE
from branchax.worlds.lqr import (
    double_integrator,
    lqr,
    lqr_gain,
    lqr_gradient,
    lqr_return,
    lqr_value,
    random_lqr,
    riccati,
)
from branchax.worlds.probes import DISCRETE_PROBES, PROBES
from branchax.worlds.tabular import TABULAR


def pendulum(obs, action):
    """Gymnasium's source, line by line."""
    g, m, l, dt = 10.0, 1.0, 1.0, 0.05
    th, thdot = np.arctan2(obs[1], obs[0]), obs[2]
    u = 2.0 * np.clip(action[0], -1, 1)
    costs = (((th + np.pi) % (2 * np.pi)) - np.pi) ** 2 + 0.1 * thdot**2 + 0.001 * (u**2)
    newthdot = thdot + (3 * g / (2 * l) * np.sin(th) + 3.0 / (m * l**2) * u) * dt
    newthdot = np.clip(newthdot, -8, 8)
    newth = th + newthdot * dt
    return np.array([np.cos(newth), np.sin(newth), newthdot]), -costs, False


def cartpole(obs, action):
    """Gymnasium's source, line by line, but for the force."""
    x, x_dot, theta, theta_dot = obs
    gravity, masscart, masspole, length, tau = 9.8, 1.0, 0.1, 0.5, 0.02
    total_mass, polemass_length = masspole + masscart, masspole * length
    force = 10.0 * np.clip(action[0], -1, 1)
    costheta, sintheta = np.cos(theta), np.sin(theta)
    temp = (force + polemass_length * np.square(theta_dot) * sintheta) / total_mass
    thetaacc = (gravity * sintheta - costheta * temp) / (
        length * (4.0 / 3.0 - masspole * np.square(costheta) / total_mass)
    )
    xacc = temp - polemass_length * thetaacc * costheta / total_mass
    x, x_dot = x + tau * x_dot, x_dot + tau * xacc
    theta, theta_dot = theta + tau * theta_dot, theta_dot + tau * thetaacc
    limit = 12 * 2 * np.pi / 360
    return np.array([x, x_dot, theta, theta_dot]), 1.0, x < -2.4 or x > 2.4 or theta < -limit or theta > limit


def point_mass(obs, action):
    p, v, u = obs[:2], obs[2:], np.clip(action, -1, 1)
    new_v = v + 0.05 * (u - 0.5 * v)
    return np.concatenate([p + 0.05 * new_v, new_v]), -(p @ p) - 0.1 * v @ v - 0.01 * u @ u, False


def integrator(obs, action):
    x, v = obs
    return np.array([x + 0.1 * v + 0.005 * action[0], v + 0.1 * action[0]]), -(obs @ obs) - 0.1 * action @ action, False


def double_pendulum(obs, action):
    """Newton's equations of the two masses in the plane, with the rods' forces as multipliers, integrated by SciPy."""
    (c1, s1, c2, s2, *velocity), u = obs, 5.0 * np.clip(action, -1, 1)

    def slope(_, y):
        (s1, s2), (c1, c2), (w1, w2) = np.sin(y[:2]), np.cos(y[:2]), y[2:]
        rod1, rod2 = np.array([s1, c1]), np.array([s2, c2])  # from the upright, turning towards x
        side1, side2 = np.array([c1, -s1]), np.array([c2, -s2])
        # A torque on a rod of 1 m pushes its end sideways, and its pivot with the same force the other way.
        force1, force2 = (u[0] - u[1]) * side1 - u[1] * side2, u[1] * side2
        fall = np.array([0.0, -9.81])
        system, right = np.zeros((6, 6)), np.zeros(6)  # for the accelerations of the masses and the rods' forces
        system[:4, :4] = np.eye(4)
        system[4, :2], system[5, :4] = rod1, [*-rod2, *rod2]
        system[:4, 4:] = -system[4:, :4].T
        right[:2], right[2:4], right[4:] = force1 + fall, force2 + fall, [-(w1**2), -(w2**2)]
        a = np.linalg.solve(system, right)
        return [w1, w2, side1 @ a[:2], side2 @ (a[2:4] - a[:2])]

    start = [np.arctan2(s1, c1), np.arctan2(s2, c2), *velocity]
    a1, a2, *w = scipy.integrate.solve_ivp(slope, (0, 0.05), start, "DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    reward = c1 + c2 - 0.02 * sum(np.hypot(1, v) - 1 for v in velocity) - 0.001 * u @ u
    return np.array([np.cos(a1), np.sin(a1), np.cos(a2), np.sin(a2), *w]), reward, False


REFERENCES = {
    "pendulum": pendulum,
    "cartpole": cartpole,
    "point_mass": point_mass,
    "double_pendulum": double_pendulum,
    "lqr": integrator,
}


def wander(world, steps, batch=8, seed=0, reach=1.5):
    """Transitions [H, B] under uniformly random actions of up to `reach`, with restarts."""

    def act(key, obs):
        return jax.random.uniform(key, (world.spec.action_size,), minval=-reach, maxval=reach), ()

    @jax.jit
    def run(key):
        start = jax.vmap(world.reset)(jax.random.split(key, batch))
        return rollout(key, world, act, start, steps, restart=True)[1].transition

    return run(jax.random.key(seed))


def test_every_name_in_the_catalog_has_its_constructor():
    assert {*CLASSIC, *DISCRETE, *TABULAR} == {
        name.removeprefix("classic/") for name in WORLDS if name.startswith("classic/")
    }
    assert {*PROBES, *DISCRETE_PROBES} == {name.removeprefix("probe/") for name in WORLDS if name.startswith("probe/")}
    assert {name.partition("/")[0] for name in WORLDS} == {"classic", "probe", "brax"}
    for name in WORLDS:
        if not name.startswith("brax/"):
            spec = make(name).spec
            assert (spec.name, spec.discrete, spec.tabular) == (name, WORLDS[name].discrete, WORLDS[name].tabular)


def test_make_refuses_what_cannot_be_built():
    with pytest.raises(ConfigError, match="did you mean classic/pendulum"):
        make("classic/pendulm")
    with pytest.raises(ConfigError, match="episode_length: 0"):
        make("classic/pendulum", episode_length=0)
    with pytest.raises(ConfigError, match="episode_length: 5 is not possible for probe/action"):
        make("probe/action", episode_length=5)


@pytest.mark.parametrize("name", CLASSIC)
def test_every_row_obeys_the_reference(name):
    world = make(f"classic/{name}", episode_length=30)
    assert world.spec.episode_length == 30
    assert make(f"classic/{name}").spec.episode_length == {"pendulum": 200, "cartpole": 500, "lqr": 100}.get(name, 200)
    t = jax.tree.map(np.asarray, wander(world, 70))
    assert t.obs.shape == (70, 8, world.spec.obs_size) and t.action.shape == (70, 8, world.spec.action_size)
    assert t.obs.dtype == t.next_obs.dtype == t.reward.dtype == np.float32
    assert t.terminated.dtype == t.truncated.dtype == bool
    for step in range(70):
        for row in range(8):
            obs, reward, terminated = REFERENCES[name](
                t.obs[step, row].astype(np.float64), t.action[step, row].astype(np.float64)
            )
            np.testing.assert_allclose(t.next_obs[step, row], obs, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(t.reward[step, row], reward, rtol=1e-4, atol=1e-4)
            assert t.terminated[step, row] == terminated
    predicted = jax.jit(jax.vmap(jax.vmap(world.spec.termination)))(t.obs, t.action, t.next_obs)
    np.testing.assert_array_equal(predicted, t.terminated)
    assert (world.spec.termination is never) == (not t.terminated.any())  # cartpole falls within 70 random steps
    assert not (t.terminated & t.truncated).any() and (t.terminated | t.truncated).any()
    begins = t.obs[1:][(t.terminated | t.truncated)[:-1]]
    assert len(np.unique(begins, axis=0)) == len(begins)  # every reset from a key of its own


def test_cartpole_terminates_at_the_rail_too():
    predicate, blank = make("classic/cartpole").spec.termination, jnp.zeros(4)
    assert not predicate(blank, blank, jnp.array([2.39, 9.0, -0.209, 9.0]))
    assert predicate(blank, blank, jnp.array([-2.41, 0.0, 0.0, 0.0]))
    assert predicate(blank, blank, jnp.array([0.0, 0.0, -0.21, 0.0]))


@pytest.mark.parametrize("name", CLASSIC)
def test_the_derivative_of_a_step_is_the_reference_s(name):
    with jax.enable_x64(True):
        world = make(f"classic/{name}")
        state = jax.jit(world.reset)(jax.random.key(3))
        action = np.full(world.spec.action_size, 0.3)
        jacobian = jax.jit(jax.jacobian(lambda a: world.step(jax.random.key(0), state, a)[1].next_obs))(action)
    obs, eps = np.asarray(state.obs, np.float64), 1e-6
    for i, e in enumerate(np.eye(world.spec.action_size) * eps):
        ahead, behind = REFERENCES[name](obs, action + e)[0], REFERENCES[name](obs, action - e)[0]
        np.testing.assert_allclose(jacobian[:, i], (ahead - behind) / (2 * eps), rtol=1e-6, atol=1e-8)
    assert np.abs(jacobian).max() > 0


@pytest.mark.parametrize("name", [n for n in WORLDS if not (n.startswith("brax/") or WORLDS[n].discrete)])
def test_reverse_mode_through_three_steps_equals_finite_differences(name):
    with jax.enable_x64(True):
        world = make(name)
        assert world.spec.differentiable
        weights = np.random.default_rng(1).normal(size=world.spec.obs_size)
        start = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), 4))

        def total(offset):
            act = lambda key, obs: (0.3 * jax.random.uniform(key, offset.shape, minval=-1.0) + offset, ())  # noqa: E731
            t = rollout(jax.random.key(2), world, act, start, 3)[1].transition
            return t.reward.sum() + (t.next_obs @ weights).sum()

        offset, eps = jnp.full(world.spec.action_size, 0.1), 1e-6
        value, gradient = jax.jit(total), jax.jit(jax.grad(total))(offset)
        offset = np.asarray(offset)
        differences = [(value(offset + e) - value(offset - e)) / (2 * eps) for e in eps * np.eye(len(offset))]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8)
    assert (np.abs(gradient) > 0).all() == (not name.startswith("probe/") or name == "probe/action")


# --- the double pendulum ----------------------------------------------------------------------------------------------


def swing(steps, action=(0.0, 0.0), batch=32, start=None):
    """The obs [steps, batch, 6] before each step of the double pendulum under a constant action."""
    world = make("classic/double_pendulum")
    start = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), batch)) if start is None else start
    act = lambda key, obs: (jnp.asarray(action), ())  # noqa: E731
    return jax.jit(lambda s: rollout(jax.random.key(0), world, act, s, steps)[1])(start)


def test_free_swinging_keeps_the_energy():
    c1, s1, c2, s2, w1, w2 = np.moveaxis(np.asarray(swing(200).transition.next_obs, np.float64), -1, 0)
    np.testing.assert_allclose(c1**2 + s1**2, 1.0, atol=1e-6)
    np.testing.assert_allclose(c2**2 + s2**2, 1.0, atol=1e-6)
    square = (w1 * c1 + w2 * c2) ** 2 + (w1 * s1 + w2 * s2) ** 2  # of the second mass's velocity
    energy = 9.81 * (2 * c1 + c2) + (w1**2 + square) / 2
    assert np.ptp(energy[0]) > 50  # starts high and low
    np.testing.assert_allclose(energy, np.broadcast_to(energy[0], energy.shape), atol=1e-3)  # joules, over 10 s


def test_the_largest_torques_for_an_episode_leave_everything_finite():
    for action in ((1.0, 1.0), (1.0, -1.0), (0.0, 1.0)):
        t = swing(200, action, batch=8).transition
        assert np.isfinite(t.next_obs).all() and np.isfinite(t.reward).all()
        assert np.abs(t.next_obs[..., 4:]).max() > 20  # the torques do matter


def test_free_swinging_is_chaotic():
    """Started with both links above level, two that are 1e-11 rad apart separate by about a factor of e every second.

    The same exponent in the tangent space is in tests/test_jacobians.py.
    """
    with jax.enable_x64(True):
        world = make("classic/double_pendulum")
        start = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), 16))
        high = start.inner * jnp.array([0.5, 0.5, 1.0, 1.0])
        inner = jnp.concatenate([high, high.at[:, 0].add(1e-11)])
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), start)._replace(inner=inner)
        obs = np.asarray(swing(200, start=twice).transition.next_obs)
    gap = np.linalg.norm(obs[:, 16:] - obs[:, :16], axis=-1)  # [200, 16]
    rate = np.log(gap[-1] / 1e-11) / 10  # per second
    assert gap[-1].max() < 0.1  # still small enough to grow exponentially
    assert 0.8 < np.median(rate) < 2.0 and rate.min() > 0.4


def test_the_double_pendulum_s_reward_has_a_bounded_gradient():
    world = make("classic/double_pendulum")
    state = jax.jit(world.reset)(jax.random.key(0))

    def reward(inner):
        return world.step(jax.random.key(0), state._replace(inner=inner), jnp.zeros(2))[1].reward

    fast = jnp.array([[0.3, -2.0, 1e3, -1e3], [1.0, 2.0, 0.0, 0.0]])
    gradient = jax.jit(jax.vmap(jax.grad(reward)))(fast)
    assert np.isfinite(gradient).all() and (np.abs(gradient) <= 1.0).all()


# --- linear-quadratic -------------------------------------------------------------------------------------------------


def noisy_system(d=3, a=2, seed=1):
    """A system whose Q and R are not the identity, with process noise."""
    rng = np.random.default_rng(seed)
    q, r = rng.normal(size=(d, d)), rng.normal(size=(a, a))
    return random_lqr(jax.random.key(seed), d, a, 0.95)._replace(
        q=jnp.asarray(q @ q.T), r=jnp.asarray(r @ r.T + np.eye(a)), noise_std=0.3, init_std=0.7
    )


def test_a_random_system_has_the_spectral_radius_asked_for():
    system = random_lqr(jax.random.key(0), 5, 2, spectral_radius=1.2)
    assert np.isclose(np.abs(np.linalg.eigvals(np.asarray(system.a))).max(), 1.2)
    assert system.b.shape == (5, 2)


def test_a_long_horizon_has_the_gain_of_the_algebraic_riccati_equation():
    with jax.enable_x64(True):
        system, discount = noisy_system(), 0.97
        a, b, q, r = (np.asarray(x) for x in system[:4])
        scaled = np.sqrt(discount) * a, np.sqrt(discount) * b
        p = scipy.linalg.solve_discrete_are(*scaled, q, r)
        optimum = riccati(system, 2000, discount)
        np.testing.assert_allclose(optimum.cost[0], p, rtol=1e-9)
        expected = np.linalg.solve(r + scaled[1].T @ p @ scaled[1], scaled[1].T @ p @ scaled[0])
        np.testing.assert_allclose(lqr_gain(system, 2000, discount)[0], expected, rtol=1e-9)
        constant = discount * 0.3**2 * np.trace(p) / (1 - discount)
        np.testing.assert_allclose(optimum.constant[0], constant, rtol=1e-9)


def test_a_finite_horizon_has_numpy_s_backward_recursion():
    with jax.enable_x64(True):
        system, discount, horizon = noisy_system(), 0.9, 7
        a, b, q, r = (np.asarray(x) for x in system[:4])
        p, c, gains = np.zeros_like(q), 0.0, []
        for _ in range(horizon):
            k = discount * np.linalg.inv(r + discount * b.T @ p @ b) @ b.T @ p @ a
            c = discount * (c + 0.3**2 * np.trace(p))
            p = q + k.T @ r @ k + discount * (a - b @ k).T @ p @ (a - b @ k)  # Joseph's form, not the library's
            gains.insert(0, k)
        np.testing.assert_allclose(lqr_gain(system, horizon, discount), gains, rtol=1e-9, atol=1e-12)
        x = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
        value = lqr_value(system, jnp.asarray(x), horizon, discount)
        np.testing.assert_allclose(value, -np.einsum("bi,ij,bj->b", x, p, x) - c, rtol=1e-9)


@functools.partial(jax.jit, static_argnums=(2, 3))
def simulate(system, gain, horizon, discount, start, kicks):
    """The discounted return of u = -K x + kick in the world itself, from a given start; K is [A, D] or [T, A, D]."""
    world = lqr(system, horizon)
    state = world.reset(jax.random.key(0))
    state = state._replace(inner=start, obs=start)
    gains = jnp.broadcast_to(gain, (horizon, *gain.shape[-2:]))

    def step(state, x):
        k, kick = x
        state, transition = world.step(jax.random.key(0), state, kick - k @ state.obs)
        return state, transition.reward

    _, rewards = jax.lax.scan(step, state, (gains, kicks))
    return discount ** jnp.arange(horizon) @ rewards


def test_the_optimal_policy_earns_the_optimal_value_and_any_other_less():
    with jax.enable_x64(True):
        system, horizon, discount = noisy_system()._replace(noise_std=0.0), 9, 0.95
        gains, x = lqr_gain(system, horizon, discount), jnp.array([1.0, -0.5, 2.0])
        still = jnp.zeros((horizon, 2))
        value = lqr_value(system, x, horizon, discount)
        np.testing.assert_allclose(simulate(system, gains, horizon, discount, x, still), value, rtol=1e-10)
        slope = jax.jit(jax.grad(lambda g: simulate(system, g, horizon, discount, x, still)))(gains)
        np.testing.assert_allclose(slope, 0.0, atol=1e-9)
        assert simulate(system, gains + 0.05, horizon, discount, x, still) < value


def test_return_and_gradient_are_those_of_the_simulated_world():
    """The return is quadratic in start and kicks, so its mean is exact over the 2 n points +-sqrt(n) e_i."""
    with jax.enable_x64(True):
        system, horizon, discount = noisy_system()._replace(noise_std=0.0), 6, 0.9
        gain, std = jax.random.normal(jax.random.key(5), (2, 3)) * 0.3, jnp.array([0.5, 0.2])
        n = 3 + horizon * 2
        points = jnp.concatenate([jnp.eye(n), -jnp.eye(n)]) * np.sqrt(n)

        @jax.jit
        def expected(gain):
            def one(z):
                return simulate(system, gain, horizon, discount, 0.7 * z[:3], std * z[3:].reshape(horizon, 2))

            return jax.vmap(one)(points).mean()

        value, slope = jax.jit(jax.value_and_grad(expected))(gain)
        np.testing.assert_allclose(lqr_return(system, gain, horizon, discount, std), value, rtol=1e-10)
        gradient = lqr_gradient(system, gain, horizon, discount, std)
        np.testing.assert_allclose(gradient, slope, rtol=1e-9, atol=1e-9)
        for i in range(2):
            for j in range(3):
                e = jnp.zeros((2, 3)).at[i, j].set(1e-5)
                difference = (expected(gain + e) - expected(gain - e)) / 2e-5
                np.testing.assert_allclose(gradient[i, j], difference, rtol=1e-5, atol=1e-6)


def test_return_with_process_noise_and_a_fixed_start():
    with jax.enable_x64(True):
        system, horizon, discount = noisy_system(), 8, 0.9
        gain, x = jnp.full((2, 3), 0.1), jnp.array([1.0, 2.0, -1.0])
        moment = jnp.outer(x, x)
        a, b, q, r = (np.asarray(v) for v in system[:4])
        p, c, k = np.zeros((3, 3)), 0.0, np.asarray(gain)  # backwards, where the library goes forwards
        for _ in range(horizon):
            c = 0.25 * np.trace(r) + discount * (c + 0.25 * np.trace(b.T @ p @ b) + 0.09 * np.trace(p))
            p = q + k.T @ r @ k + discount * (a - b @ k).T @ p @ (a - b @ k)
        value = lqr_return(system, gain, horizon, discount, 0.5, moment)
        np.testing.assert_allclose(value, -x @ p @ x - c, rtol=1e-10)
        slope = jax.jit(jax.grad(lambda g: lqr_return(system, g, horizon, discount, 0.5, moment)))(gain)
        np.testing.assert_allclose(lqr_gradient(system, gain, horizon, discount, 0.5, moment), slope, rtol=1e-9)


def test_the_world_s_noise_is_what_the_return_assumes():
    system, horizon, batch = noisy_system(), 5, 20_000
    gain = jnp.full((2, 3), 0.1)
    world = lqr(system, horizon)

    def act(key, obs):
        return -gain @ obs + 0.5 * jax.random.normal(key, (2,)), ()

    @jax.jit
    def returns(key):
        start = jax.vmap(world.reset)(jax.random.split(key, batch))
        rewards = rollout(key, world, act, start, horizon)[1].transition.reward
        return 0.9 ** jnp.arange(horizon) @ rewards

    sample = np.asarray(returns(jax.random.key(2)))
    expected = lqr_return(system, gain, horizon, 0.9, 0.5)
    assert abs(sample.mean() - expected) < 4 * sample.std() / np.sqrt(batch)
    assert double_integrator().b.shape == (2, 1)
