"""Products of Jacobians against matrix powers in NumPy's float64, finite differences, and what chaos is known to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax.config import ModelConfig
from branchax.dynamics.fit import make_ensemble
from branchax.gradients.jacobians import crossing, lyapunov, singular_values
from branchax.rollout import rollout
from branchax.worlds import make
from branchax.worlds.lqr import double_integrator, lqr, random_lqr

HORIZON = 1_000


def closed_loop(radius, noise_std=0.1):
    """A world, a noisy linear policy, and A - B K, whose spectral radius is `radius`, in float64."""
    system = random_lqr(jax.random.key(1), 4, 2, radius)._replace(noise_std=noise_std)
    gain = 0.3 * jax.random.normal(jax.random.key(2), (2, 4))
    system = system._replace(a=system.a + system.b @ gain)

    def act(key, obs):
        return 0.5 * jax.random.normal(key, (2,)) - gain @ obs, ()

    a, b, k = (np.asarray(x, np.float64) for x in (system.a, system.b, gain))
    return lqr(system), act, a - b @ k


def starts(world, batch=2, seed=0):
    return jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(seed), batch))


def logs_of(world, act, start, horizon):
    run = jax.jit(lambda key, start: singular_values(key, world, act, start, horizon))
    return np.asarray(run(jax.random.key(3), start), np.float64)


def exponents_of(world, act, start, horizon, leading):
    run = jax.jit(lambda key, start: lyapunov(key, world, act, start, horizon, leading))
    return np.asarray(run(jax.random.key(3), start), np.float64)


@pytest.mark.parametrize("radius", [0.9, 1.0, 1.1])
def test_a_linear_loop_has_the_singular_values_of_its_matrix_powers(radius):
    world, act, matrix = closed_loop(radius)
    logs = logs_of(world, act, starts(world), HORIZON)  # 1.1^1000 is past the largest float32
    assert logs.shape == (HORIZON, 2, 4) and not np.isnan(logs).any()
    powers = [np.linalg.matrix_power(matrix, t) for t in range(1, HORIZON + 1)]
    expected = np.linalg.svd(powers, compute_uv=False)  # [H, 4]
    large = expected > 1e-3 * expected[:, :1]  # what float32 can tell beside the largest
    assert large.sum(0)[0] == HORIZON and large[:10].sum() > 20
    for row in range(2):
        np.testing.assert_allclose(logs[:, row][large], np.log(expected[large]), atol=1e-3)
    rate = (logs[-1, 0, 0] - logs[99, 0, 0]) / (HORIZON - 100)
    np.testing.assert_allclose(rate, np.log(radius), rtol=0.02, atol=0.02 if radius == 1.0 else 0.0)


def test_a_matrix_that_is_not_normal_grows_although_its_eigenvalues_are_one():
    world = lqr(double_integrator())
    logs = logs_of(world, lambda key, obs: (jnp.zeros(1), ()), starts(world), HORIZON)
    t = np.arange(1, HORIZON + 1)
    powers = np.zeros((HORIZON, 2, 2)) + np.eye(2)
    powers[:, 0, 1] = 0.1 * t
    expected = np.log(np.linalg.svd(powers, compute_uv=False))
    np.testing.assert_allclose(logs[:, 0, 0], expected[:, 0], atol=1e-3)
    np.testing.assert_allclose(logs[:100, 0, 1], expected[:100, 1], atol=1e-3)
    assert logs[-1, 0, 0] > np.log(99)


def test_the_derivative_is_taken_at_the_noise_of_the_rollout():
    """With a random gain the derivative depends on the policy's draws; those of `rollout` by the chain rule."""
    world, _, _ = closed_loop(0.9)
    gain, key, horizon = jnp.full((2, 4), 0.1), jax.random.key(3), 6

    def act(key, obs):
        return -(gain + 0.3 * jax.random.normal(key, (2, 4))) @ obs, ()

    start = starts(world)

    def states(x):
        from_x = start._replace(inner=x, obs=x)
        return rollout(key, world, act, from_x, horizon + 1)[1].transition.next_obs  # [H + 1, B, D]

    jacobian = np.asarray(jax.jit(jax.jacfwd(states))(start.obs), np.float64)  # [H + 1, B, D, B, D]
    logs = logs_of(world, act, start, horizon)
    for row in range(2):
        total = jacobian[:, row, :, row]
        products = total[1:] @ np.linalg.inv(total[0])
        np.testing.assert_allclose(logs[:, row, :2], np.log(np.linalg.svd(products)[1])[:, :2], atol=1e-3)
    assert not np.allclose(logs[:, 0], logs[:, 1])  # each row has draws of its own


def test_the_exponents_of_a_linear_loop_are_the_logarithms_of_its_eigenvalues():
    world, act, matrix = closed_loop(1.1)
    expected = np.sort(np.log(np.abs(np.linalg.eigvals(matrix))))[::-1]
    exponents = exponents_of(world, act, starts(world), 2_000, 4)
    np.testing.assert_allclose(exponents, [expected, expected], atol=5e-3)
    leading = exponents_of(world, act, starts(world), 2_000, 2)
    np.testing.assert_allclose(leading, exponents[:, :2], atol=1e-4)


def test_crossing_says_where_a_product_explodes_and_vanishes():
    logs = np.log([[[1.0, 0.1], [1.0, 0.1]], [[5.0, 2.0], [0.3, 0.1]], [[20.0, 1.0], [0.09, 0.01]], [[1, 1], [1, 1]]])
    found = crossing(jnp.asarray(logs), 10.0)
    np.testing.assert_array_equal(found.explodes, [3, -1])
    np.testing.assert_array_equal(found.vanishes, [-1, 3])
    for radius, which in ((1.1, 0), (0.9, 1)):
        world, act, matrix = closed_loop(radius)
        largest = [np.linalg.norm(np.linalg.matrix_power(matrix, t), 2) for t in range(1, 201)]
        expected = np.argmax(np.array(largest) > 1e3 if radius > 1 else np.array(largest) < 1e-3) + 1
        found = crossing(jnp.asarray(logs_of(world, act, starts(world), 200)), 1e3)
        np.testing.assert_array_equal(found[which], [expected, expected])
        np.testing.assert_array_equal(found[1 - which], [-1, -1])


@pytest.mark.slow
def test_the_double_pendulum_is_chaotic_and_conservative():
    """Free motion preserves volume and has an inverse in time: the exponents are l, 0, 0, -l (Hamiltonian pairs)."""
    world = make("classic/double_pendulum")
    start = starts(world, 16)
    start = start._replace(inner=start.inner * jnp.array([0.5, 0.5, 1.0, 1.0]))  # both links above level
    exponents = 20 * exponents_of(world, lambda key, obs: (jnp.zeros(2), ()), start, 4_000, 5)  # per second, over 200 s
    assert 1.0 < np.median(exponents[:, 0]) < 1.6 and (exponents[:, 0] > 0.6).all()
    np.testing.assert_allclose(exponents[:, 3], -exponents[:, 0], atol=0.03)
    np.testing.assert_allclose(exponents[:, 1:3], 0.0, atol=0.06)
    assert (exponents[:, 4] == -np.inf).all()  # four numbers of state, six of observation


def test_a_pendulum_s_product_equals_finite_differences_of_its_state():
    """Here the observation is no copy of the state: (cos, sin, velocity) of (angle, velocity)."""
    with jax.enable_x64(True):
        world, key, horizon = make("classic/pendulum"), jax.random.key(3), 8
        start = starts(world, 1)
        act = lambda key, obs: (0.2 * jnp.sin(obs[:1]) * obs[2], ())  # noqa: E731
        logs = logs_of(world, act, start, horizon)
        after = jax.jit(lambda: rollout(key, world, act, start, 1)[0])()

        @jax.jit
        def states(inner):
            obs = jnp.stack([jnp.cos(inner[..., 0]), jnp.sin(inner[..., 0]), inner[..., 1]], -1)
            path = rollout(key, world, act, after._replace(inner=inner, obs=obs), horizon + 1)[1]
            return path.state.inner[1:, 0]

        inner, eps = after.inner, 1e-6
        columns = [(states(inner + e) - states(inner - e)) / (2 * eps) for e in eps * np.eye(2)]
    expected = np.linalg.svd(np.stack(columns, -1), compute_uv=False)
    np.testing.assert_allclose(logs[:, 0, :2], np.log(expected), atol=1e-7)
    assert (logs[:, 0, 2] == -np.inf).all()  # three numbers show two


@pytest.mark.parametrize("member", [pytest.param(0, marks=pytest.mark.slow), None])
def test_a_learned_world_s_product_equals_finite_differences_of_its_steps(member):
    real = make("classic/pendulum")
    real = real._replace(spec=real.spec._replace(differentiable=False))
    model = make_ensemble(real, ModelConfig(members=3, elites=2, hidden=(16, 16)))
    params = jax.jit(model.init)(jax.random.key(5))
    world, key, horizon = model.world(params, member), jax.random.key(3), 5
    assert world.spec.differentiable  # whatever the real world is
    start = starts(world)
    act = lambda key, obs: (jnp.tanh(obs[:1] + 0.1 * jax.random.normal(key, (1,))), ())  # noqa: E731
    logs = logs_of(world, act, start, horizon)
    assert logs.shape == (horizon, 2, 3) and np.isfinite(logs).all()

    @jax.jit
    def states(obs):
        return rollout(key, world, act, start._replace(obs=obs), horizon + 1)[1].transition.next_obs

    columns = [(states(start.obs + e) - states(start.obs - e)) / 2e-2 for e in 1e-2 * np.eye(3, dtype=np.float32)]
    total = np.stack(columns, -1).astype(np.float64)  # [H + 1, B, 3, 3]
    expected = np.linalg.svd(total[1:] @ np.linalg.inv(total[0]), compute_uv=False)
    np.testing.assert_allclose(np.exp(logs), expected, rtol=2e-2, atol=2e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System")
def test_a_simulator_s_product_equals_finite_differences_although_most_of_its_state_is_redundant():
    """Of the 139 floats of its state the inverted pendulum needs four, which are its observation."""
    from brax import envs

    world, horizon = make("brax/inverted_pendulum"), 10
    env = envs.get_environment("inverted_pendulum", backend="generalized")
    act = lambda key, obs: (jnp.tanh(obs[:1] + 0.3 * obs[3:]), ())  # noqa: E731
    start = starts(world)
    logs = logs_of(world, act, start, 50)
    assert logs.shape == (50, 2, 4) and np.isfinite(logs).all()
    assert logs[-1, :, 0].min() > 5  # the pole falls
    after = jax.jit(lambda s: rollout(jax.random.key(0), world, act, s, 1)[0])(start)

    @jax.jit
    def states(obs):
        def rebuild(inner, obs):
            return inner.replace(pipeline_state=env.pipeline_init(obs[:2], obs[2:]), obs=obs)

        inner = jax.vmap(rebuild)(after.inner, obs)
        inner = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), inner, after.inner)
        return rollout(jax.random.key(0), world, act, after._replace(inner=inner, obs=obs), horizon)[1]

    eps = 1e-2
    path = lambda obs: np.asarray(states(obs).transition.next_obs, np.float64)  # noqa: E731
    columns = [(path(after.obs + e) - path(after.obs - e)) / (2 * eps) for e in eps * np.eye(4, dtype=np.float32)]
    expected = np.linalg.svd(np.stack(columns, -1), compute_uv=False)  # [10, 2, 4]
    large = expected > 1e-3 * expected[..., :1]
    assert large[..., :3].all()
    np.testing.assert_allclose(logs[:horizon][large], np.log(expected[large]), atol=0.01)
