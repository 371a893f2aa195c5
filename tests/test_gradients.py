"""Gradient estimators against the closed form on linear-quadratic problems, against each other, and their variances.

`close` says what "within 3 standard errors" means here. Keys are fixed, so that nothing is flaky; but for the slow
grid, nothing was chosen among several keys either.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from branchax.distributions import deterministic as no_noise
from branchax.distributions import normal
from branchax.gradients import total_propagation as mixing
from branchax.gradients.base import EstimatorError, Problem, initial, returns, sample
from branchax.gradients.finite_difference import evolution_strategies, finite_differences
from branchax.gradients.likelihood_ratio import likelihood_ratio, others_mean, per_sample, surrogate
from branchax.gradients.pathwise import deterministic, pathwise
from branchax.gradients.total_propagation import inverse_variance, mix, total_propagation, total_variance
from branchax.policies import Policy, gaussian_policy, linear_policy
from branchax.types import Trajectory, Transition
from branchax.worlds import make
from branchax.worlds.base import WorldSpec, WorldState, make_world, never
from branchax.worlds.lqr import LinearSystem, lqr, lqr_gradient, random_lqr

STD = 0.5  # of the policies' noise, unless a test says otherwise

# Most of what these tests take is compiling: less optimised code is fast enough, and for a few samples the least.
jit, long_jit = (functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": i}) for i in (0, 1))


# --- problems and their exact answers ---------------------------------------------------------------------------------


def system_of(obs_size, action_size, noise_std=0.0, seed=0, spectral_radius=0.9):
    """A random system with Q and R of its own, and a gain under which it keeps about its spectral radius."""
    rng = np.random.default_rng(seed)
    q, r = rng.normal(size=(obs_size, obs_size)), rng.normal(size=(action_size, action_size))
    system = random_lqr(jax.random.key(seed), obs_size, action_size, spectral_radius)._replace(
        q=jnp.asarray(q @ q.T / obs_size),
        r=jnp.asarray(r @ r.T / action_size + np.eye(action_size)),
        noise_std=jnp.asarray(noise_std, float),
        init_std=jnp.asarray(0.7, float),
    )
    gain = 0.05 * jnp.asarray(rng.normal(size=(action_size, obs_size)))
    closed = np.asarray(system.a - system.b @ gain)
    assert np.abs(np.linalg.eigvals(closed)).max() < spectral_radius + 0.06
    return system, gain


def problem_of(system, horizon, discount, std=STD, start=None):
    """The linear policy's return on a system whose leaves may be traced."""
    world = lqr(system, episode_length=1000)
    return Problem(world, linear_policy(world.spec, std), start or starts(system), horizon, discount)


def starts(system):
    """The world's own starts, but in one draw, which compiles faster."""

    def start(key, count):
        state = system.init_std * jax.random.normal(key, (count, system.a.shape[0]), system.a.dtype)
        return WorldState(state, state, jnp.zeros(count, jnp.int32))

    return start


def corners(system):
    """2 D starts on the axes, whose mean is 0 and whose second moment is exactly init_std^2 I."""

    def start(key, count):
        del key
        axes = jnp.sqrt(1.0 * system.a.shape[0]) * system.init_std * jnp.eye(system.a.shape[0])
        state = jnp.concatenate([axes, -axes]).astype(system.a.dtype)
        assert count == state.shape[0]
        return WorldState(state, state, jnp.zeros(count, jnp.int32))

    return start


def costs_to_go(system, gain, horizon, discount, std=STD):
    """V(x, t) = -(x' P_t x + c_t) of the linear policy: P [H + 1, D, D], c [H + 1], zero at the horizon."""
    a, b, q, r, noise_std, _ = (np.asarray(x, np.float64) for x in system)
    gain = np.asarray(gain, np.float64)
    closed, p, c = a - b @ gain, [np.zeros_like(q)], [0.0]
    for _ in range(horizon):
        spread = std**2 * np.trace(r + discount * b.T @ p[0] @ b) + discount * noise_std**2 * np.trace(p[0])
        c.insert(0, discount * c[0] + spread)
        p.insert(0, q + gain.T @ r @ gain + discount * closed.T @ p[0] @ closed)
    return jnp.asarray(np.stack(p), system.a.dtype), jnp.asarray(c, system.a.dtype)


def value_of(cost, constant):
    return lambda obs, time: -(obs @ cost[time] @ obs + constant[time])


def action_value(system, discount, cost):
    """Q(x, u, t), but for a constant."""

    def q(obs, action, time):
        later = system.a @ obs + system.b @ action
        return -(obs @ system.q @ obs + action @ system.r @ action + discount * later @ cost[time + 1] @ later)

    return q


closed_form = jit(lqr_gradient, static_argnums=2)


def close(estimates, exact, tests=1):
    """Asserts that the mean over estimates [N, ...] is the exact value within 3 standard errors, and returns both.

    For one number, a right mean lies beyond 3 standard errors once in 370 times. For all the numbers of `tests` tests
    together the bound is the one that any of them exceeds as rarely (Bonferroni).
    """
    estimates, exact = np.asarray(estimates, np.float64), np.asarray(exact, np.float64)
    assert np.isfinite(estimates).all()
    error = estimates.std(0, ddof=1) / np.sqrt(len(estimates))
    z = np.abs((estimates.mean(0) - exact) / error)
    assert z.max() < scipy.stats.norm.isf(scipy.stats.norm.sf(3) / (exact.size * tests)), z
    return z.max(), np.linalg.norm(error) / np.linalg.norm(exact)


# --- unbiased ---------------------------------------------------------------------------------------------------------

# name -> (problem, exact value) -> estimator, and how many estimates to average
ESTIMATORS = {
    "total": (lambda p, v: likelihood_ratio(p, 16, "total"), 8000),
    "to_go": (lambda p, v: likelihood_ratio(p, 16, "to_go"), 4000),
    "baseline of the others": (lambda p, v: likelihood_ratio(p, 16), 2000),
    "exact baseline": (lambda p, v: likelihood_ratio(p, 16, value=v), 2000),
    "gae": (lambda p, v: likelihood_ratio(p, 16, "gae", v, 1.0), 2000),
    "pathwise": (lambda p, v: pathwise(p, 16), 2000),
    "rematerialised": (lambda p, v: pathwise(p, 16, remat=True), 2000),
    "windows with a value": (lambda p, v: pathwise(p, 16, window=3, value=v), 2000),
    "finite differences": (lambda p, v: finite_differences(p, 16), 300),
    # Biased by order 1 / samples: with many, by less than the standard error.
    "total propagation": (lambda p, v: total_propagation(p, 500), 60),
    "inverse variance": (lambda p, v: inverse_variance(p, 500), 60),
}
CASES = [(0.9, 0.0), (0.9, 0.3), (1.0, 0.0), (1.0, 0.3)]  # discount, deviation of the process noise


def check_unbiased(name, obs_size, action_size, horizon, tests):
    make_estimator, count = ESTIMATORS[name]

    @long_jit
    def run(keys, system, gain, discount, cost, constant):
        estimator = make_estimator(problem_of(system, horizon, discount), value_of(cost, constant))
        return jax.lax.map(lambda key: estimator(key, gain), keys, batch_size=500)

    found = []
    for i, (discount, noise_std) in enumerate(CASES):
        system, gain = system_of(obs_size, action_size, noise_std, seed=i)
        keys = jax.random.split(jax.random.key(i), count)
        estimates = run(keys, system, gain, discount, *costs_to_go(system, gain, horizon, discount))
        exact = closed_form(system, gain, horizon, discount, STD)
        found.append(close(estimates, exact, tests))
    assert run._cache_size() == 1
    return np.max(found, 0)


OF_EACH_KIND = ("baseline of the others", "pathwise", "finite differences", "inverse variance")


@pytest.mark.parametrize("name", [*OF_EACH_KIND[:-1], pytest.param(OF_EACH_KIND[-1], marks=pytest.mark.slow)])
def test_the_mean_of_the_estimates_is_the_closed_form(name):
    _, error = check_unbiased(name, 4, 2, 10, tests=len(CASES) * len(OF_EACH_KIND))
    assert error < 0.1  # of the gradient's length: what a bias must be smaller than to go unseen


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [1, 10, 50])
@pytest.mark.parametrize(("obs_size", "action_size"), [(2, 1), (4, 2), (8, 3)])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_mean_of_the_estimates_is_the_closed_form_at_every_size(name, obs_size, action_size, horizon, capsys):
    z, error = check_unbiased(name, obs_size, action_size, horizon, tests=9 * len(CASES) * len(ESTIMATORS))
    with capsys.disabled():
        print(f"\n{name:24} D {obs_size} A {action_size} H {horizon:2}: |z| {z:.2f}, standard error {error:.4f}")


@pytest.mark.parametrize(
    ("obs_size", "action_size", "horizon", "double"),
    [(2, 1, 1, True), (4, 2, 10, True), (8, 3, 50, True), (8, 3, 50, False)],
)
def test_without_noise_the_pathwise_gradient_is_the_closed_form(obs_size, action_size, horizon, double):
    """The policy and the world are deterministic, and the starts have exactly the second moment of the closed form."""
    with jax.enable_x64(double):

        @jit
        def run(system, gain, discount):
            estimator = pathwise(problem_of(system, horizon, discount, 0, corners(system)), 2 * obs_size)
            return estimator(jax.random.key(0), gain)

        for seed, discount in enumerate((0.9, 1.0)):
            system, gain = system_of(obs_size, action_size, seed=seed)
            exact = closed_form(system, gain, horizon, discount)
            assert exact.dtype == (jnp.float64 if double else jnp.float32)
            assert relative(run(system, gain, discount), exact) < (1e-10 if double else 1e-4)


def relative(x, y):
    """|x - y| / |y|."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def test_with_one_key_the_pathwise_gradient_is_the_limit_of_finite_differences():
    """Not only on average: both see the same starts and noise."""
    with jax.enable_x64(True):
        system, gain = system_of(3, 2, noise_std=0.3)
        problem, key = problem_of(system, 6, 0.9), jax.random.key(5)
        exact = jit(pathwise(problem, 4))(key, gain)
        slopes = jit(finite_differences(problem, 4, step=1e-5))(key, gain)
        assert relative(slopes, exact) < 1e-8


# --- windows and values -----------------------------------------------------------------------------------------------


def windowed(system, gain, horizon, discount, window):
    """The gradient with states cut at the multiples of the window, by tangents y = dx/dK_ij carried forwards."""
    a, b, q, r, *_ = (np.asarray(x, np.float64) for x in system)
    gain, out = np.asarray(gain), np.zeros(gain.shape)
    axes = np.sqrt(a.shape[0]) * float(system.init_std) * np.eye(a.shape[0])
    for index in np.ndindex(*gain.shape):
        direction = np.zeros(gain.shape)
        direction[index] = 1.0
        for x in axes:  # the start opposite has the same return
            for t in range(horizon):
                if t % window == 0:
                    y = np.zeros_like(x)
                u, v = -gain @ x, -gain @ y - direction @ x
                out[index] -= discount**t * 2 * (x @ q @ y + u @ r @ v) / len(axes)
                x, y = a @ x + b @ u, a @ y + b @ v
    return out


def test_a_window_cuts_the_gradient_and_the_exact_value_makes_it_whole_again():
    horizon, discount = 8, 0.95
    with jax.enable_x64(True):
        system, gain = system_of(3, 2)
        problem = problem_of(system, horizon, discount, 0, corners(system))
        exact = closed_form(system, gain, horizon, discount)
        value = value_of(*costs_to_go(system, gain, horizon, discount, std=0))

        @functools.partial(jit, static_argnums=0)
        def run(window):
            return [pathwise(problem, 6, window, v)(jax.random.key(0), gain) for v in (None, value)]

        for window in (4, 3):  # two windows, and two with a shorter third
            cut, whole = run(window)
            assert relative(cut, windowed(system, gain, horizon, discount, window)) < 1e-12
            assert relative(cut, exact) > 0.05
            assert relative(whole, exact) < 1e-12
        assert relative(windowed(system, gain, horizon, discount, horizon), exact) < 1e-12


def test_the_value_at_the_horizon_stands_for_what_follows_but_not_for_its_own_derivative_in_the_policy():
    """dJ_H = the estimate at h with V(s_h), plus discount^h times the gradient of a return that starts at s_h."""
    short, horizon, discount = 3, 9, 0.95
    with jax.enable_x64(True):
        system, gain = system_of(3, 2)
        value = value_of(*costs_to_go(system, gain, horizon, discount, std=0))
        problem = problem_of(system, short, discount, 0, corners(system))
        estimate = jit(pathwise(problem, 6, value=value))(jax.random.key(0), gain)
        exact = closed_form(system, gain, horizon, discount)
        power = np.linalg.matrix_power(np.asarray(system.a - system.b @ gain), short)
        rest = closed_form(system, gain, horizon - short, discount, moment=power @ power.T * system.init_std**2)
        unaided = closed_form(system, gain, short, discount)
        assert relative(estimate + discount**short * rest, exact) < 1e-12
    assert relative(estimate, exact) < 0.5 * relative(unaided, exact)


@pytest.mark.parametrize("bootstrapped", [False, True])
def test_returns_equal_a_loop(bootstrapped):
    rng = np.random.default_rng(0)
    reward, next_obs = rng.normal(size=(7, 40)), rng.normal(size=(7, 40, 1))
    terminated, truncated = rng.random((2, 7, 40)) < 0.1
    truncated &= ~terminated
    valid = np.cumsum(terminated, 0) - terminated == 0
    reward[~valid] = next_obs[~valid] = np.nan
    trajectory = Trajectory(Transition(next_obs, 0.0, reward, next_obs, terminated, truncated), valid, None, None)
    value = (lambda obs, time: obs[0] * (1 + time)) if bootstrapped else None
    totals = returns(jax.tree.map(jnp.asarray, trajectory), 0.9, value)
    for b in range(40):
        total = 0.0
        for t in np.flatnonzero(valid[:, b]):
            total += 0.9**t * reward[t, b]
            last = t == 6 or truncated[t, b]
            total += 0.9 ** (t + 1) * next_obs[t, b, 0] * (2 + t) * (bootstrapped and last and not terminated[t, b])
        np.testing.assert_allclose(totals[b], total, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_episode_that_ends_is_a_shorter_horizon_whatever_lies_beyond():
    """After 3 of 6 steps; what the world says beyond is NaN, as a model's may be."""
    system, gain = system_of(2, 1, noise_std=0.1)
    plain = lqr(system)

    @functools.partial(jit, static_argnums=0)
    def run(horizon, terminates, cost, constant):
        def step(key, state, action):
            after, t = plain.step(key, state, action)
            spoil, over = jnp.where(state.time < 3, 1.0, jnp.nan), after.time == 3
            after, t = jax.tree.map(lambda x: spoil * x if x.dtype == jnp.float32 else x, (after, t))
            return after, t._replace(terminated=over & terminates, truncated=over & ~terminates)

        world = plain._replace(step=step) if horizon == 6 else plain
        problem, value = problem_of(system, horizon, 0.9)._replace(world=world), value_of(cost, constant)
        estimators = (
            pathwise(problem, 8, window=2, value=value),
            likelihood_ratio(problem, 8, "gae", value, 0.5),
            total_propagation(problem, 8),
        )
        return jnp.stack([estimator(jax.random.key(0), gain) for estimator in estimators])

    cost, constant = costs_to_go(system, gain, 6, 0.9)
    # Where the clock ran out the value counts. Where the world ended it does not, as if there it were zero.
    np.testing.assert_allclose(run(6, False, cost, constant), run(3, False, cost, constant), rtol=2e-5)
    zero_from_3 = (cost.at[3:].set(0), constant.at[3:].set(0))
    np.testing.assert_allclose(run(6, True, cost, constant), run(3, False, *zero_from_3), rtol=2e-5)


# --- the likelihood ratio is a finite difference in action space ------------------------------------------------------


def bandit(reward):
    """One step with a reward of the action alone."""
    spec = WorldSpec("bandit", 1, 2, 1, termination=never)

    def step(key, inner, action):
        del key
        return inner, inner, reward(action), jnp.zeros((), bool)

    return make_world(spec, lambda key: (jnp.zeros(1), jnp.zeros(1)), step)


def constant_action(std):
    """a = theta + std e."""

    def apply(theta, obs):
        mean = jnp.broadcast_to(theta, (*obs.shape[:-1], 2))
        return mean if std == 0 else jnp.concatenate([mean, jnp.full_like(mean, np.log(std))], -1)

    return Policy(lambda key: jnp.zeros(2), apply, no_noise if std == 0 else normal)


def bandit_problem(reward, std):
    world = bandit(reward)
    return Problem(world, constant_action(std), initial(world), 1)


def quartic(action):
    return -(action**4).sum() + action[0] * action[1] ** 2


THETA = np.array([0.7, -0.4], np.float32)


def test_antithetic_evolution_strategies_are_the_antithetic_likelihood_ratio():
    """With H = 1 and a = theta + std e they are the same number for each noise, not only on average."""
    std, samples, key = 0.3, 50, jax.random.key(2)
    estimate = jit(evolution_strategies(bandit_problem(quartic, 0), samples, std))(key, THETA)
    noise = jax.random.normal(jax.random.split(key)[0], (samples, 2))  # as `evolution_strategies` draws it
    actions = jnp.concatenate([THETA + std * noise, THETA - std * noise])[None]
    rewards, blank = jax.vmap(jax.vmap(quartic))(actions), jnp.zeros((1, 2 * samples, 1))
    none = jnp.zeros((1, 2 * samples), bool)
    trajectory = Trajectory(Transition(blank, actions, rewards, blank, none, none), ~none, None, None)
    log_prob = constant_action(std).log_prob
    pairs = jit(jax.grad(lambda theta: surrogate(log_prob, theta, trajectory, rewards)))(THETA)
    assert relative(estimate, pairs) < 1e-5


def test_a_baseline_of_the_others_does_not_know_its_own_sample():
    np.testing.assert_allclose(others_mean(jnp.array([[1.0, 2.0, 6.0]])), [[4.0, 3.5, 1.5]])


def test_likelihood_ratio_and_evolution_strategies_have_the_derivative_of_the_smoothed_return_as_their_mean():
    """E[r(theta + std e)] of a polynomial by Gaussian moments; a difference smooths over its step instead."""
    std = 0.5
    (x, y), cross = THETA.astype(float), np.array([THETA[1] ** 2 + std**2, 2.0 * THETA[0] * THETA[1]])
    smoothed = cross - np.array([4 * x**3 + 12 * x * std**2, 4 * y**3 + 12 * y * std**2])
    estimators = (
        likelihood_ratio(bandit_problem(quartic, std), 20),
        evolution_strategies(bandit_problem(quartic, 0), 20, std),
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    for estimator in estimators:
        close(long_jit(jax.vmap(estimator, (0, None)))(keys, THETA), smoothed, tests=2)
    plain = np.array([y**2 - 4 * x**3 - 4 * x * std**2, 2 * x * y - 4 * y**3 - 4 * y * std**2])
    difference = finite_differences(bandit_problem(quartic, 0), 1, step=std)
    assert relative(jit(difference)(keys[0], THETA), plain) < 1e-5


def test_the_pathwise_gradient_does_not_see_a_jump():
    """Of a reward of 1 where a_0 > 0, whose mean is Phi(theta_0 / std)."""
    problem = bandit_problem(lambda action: jnp.where(action[0] > 0, 1.0, 0.0), 0.5)
    seen = [scipy.stats.norm.pdf(THETA[0], scale=0.5), 0.0]
    estimates = jit(jax.vmap(likelihood_ratio(problem, 20), (0, None)))(
        jax.random.split(jax.random.key(0), 4000), THETA
    )
    close(estimates, seen)
    np.testing.assert_array_equal(jit(pathwise(problem, 20))(jax.random.key(0), THETA), 0.0)


# --- the deterministic limit ------------------------------------------------------------------------------------------


def limit_policy(std):
    """The linear policy with a deviation that may be traced, and zero."""

    def apply(gain, obs):
        mean = -jnp.einsum("ad,...d->...a", gain, obs)
        return jnp.concatenate([mean, jnp.broadcast_to(jnp.log(std), mean.shape)], -1)

    return Policy(lambda key: jnp.zeros(()), apply, normal)


def test_the_deterministic_gradient_with_the_exact_q_is_the_closed_form():
    with jax.enable_x64(True):
        system, gain = system_of(3, 2)
        cost, _ = costs_to_go(system, gain, 6, 0.95, std=0)
        problem = problem_of(system, 6, 0.95, 0, corners(system))
        estimate = jit(deterministic(problem, 6, action_value(system, 0.95, cost)))(jax.random.key(0), gain)
        assert relative(estimate, closed_form(system, gain, 6, 0.95)) < 1e-12


@pytest.mark.slow
def test_the_likelihood_ratio_in_the_limit_of_no_noise():
    """Its variance grows as 1 / std^2. With Q(s, mean(s)) taken away it tends to a constant, and so do both if the
    world's own noise vanishes as well; the mean tends to the deterministic gradient."""
    system, gain = system_of(2, 1)
    stds = np.array([0.03, 0.01, 0.003])
    keys = jax.random.split(jax.random.key(0), 20000)

    @functools.partial(long_jit, static_argnums=0)
    def run(weight, noise_std, std, cost, constant):
        problem = problem_of(system._replace(noise_std=noise_std), 4, 0.9)._replace(policy=limit_policy(std))
        # Q(s, mean(s)) of the deterministic policy is its V(s).
        estimator = likelihood_ratio(problem, 1, weight, value_of(cost, constant))
        return jax.lax.map(lambda key: estimator(key, gain), keys, batch_size=20000)

    def estimates(weight, noise_stds):
        out = []
        for noise_std, std in zip(noise_stds, stds, strict=True):
            costs = costs_to_go(system._replace(noise_std=noise_std), gain, 4, 0.9, std=0)
            out.append(np.asarray(run(weight, noise_std, std, *costs), np.float64))
        return out

    def slope(estimates):
        """d log variance / d log std between the smallest two."""
        return np.diff(np.log([x.var(0).sum() for x in estimates]))[-1] / np.diff(np.log(stds))[-1]

    assert slope(estimates("to_go", 0 * stds)) == pytest.approx(-2, abs=0.03)
    assert slope(estimates("baseline", 0 * stds + 0.3)) == pytest.approx(-2, abs=0.03)
    for noise_stds in (0 * stds, stds):  # the world's too
        found = estimates("baseline", noise_stds)
        assert slope(found) == pytest.approx(0, abs=0.03)
        close(found[-1], closed_form(system, gain, 4, 0.9), tests=2)


# --- mixtures ---------------------------------------------------------------------------------------------------------


def chaotic(gain):
    """x' = sin(gain x) + a / 2: within [-1, 1] without control, its Jacobians up to `gain`; rewards are bounded."""
    spec = WorldSpec("sine", 1, 1, 1000, termination=never)

    def reset(key):
        x = jax.random.uniform(key, (1,), minval=-1.0)
        return x, x

    def step(key, x, action):
        del key
        after = jnp.sin(gain * x) + 0.5 * action
        return after, after, jnp.cos(x[0]) - 0.1 * action[0] ** 2, jnp.zeros((), bool)

    return make_world(spec, reset, step)


def chaotic_problem(gain, horizon, std=0.2):
    world = chaotic(gain)
    return Problem(world, linear_policy(world.spec, std), initial(world), horizon)


def test_total_propagation_equals_a_loop():
    """On x' = a x + b u, u = -k x + s e, for which every derivative can be written down."""
    (a, b, q, r, k, s), horizon, discount, samples = (0.9, 0.7, 1.3, 0.4, 0.6, 0.5), 4, 0.8, 6
    with jax.enable_x64(True):
        system = LinearSystem(*(jnp.full((1, 1), x) for x in (a, b, q, r)))
        problem, gain = problem_of(system, horizon, discount, s), jnp.full((1, 1), k)
        key = jax.random.key(4)
        estimate = float(jit(total_propagation(problem, samples))(key, gain)[0, 0])
        trajectory = jit(lambda key: sample(problem, key, gain, samples))(key)
    x, u = (np.asarray(v)[..., 0] for v in (trajectory.transition.obs, trajectory.transition.action))
    reward, noise = -(q * x**2 + r * u**2), (u + k * x) / s
    to_go, later, adjoint, total = np.zeros_like(x), 0.0, np.zeros(samples), 0.0
    for t in reversed(range(horizon)):
        later = to_go[t] = reward[t] + discount * later
    shares = []
    for t in reversed(range(horizon)):
        baseline = np.array([np.delete(to_go[t], i).mean() for i in range(samples)])
        p = discount**t * -2 * r * u[t] + b * adjoint  # by the action's mean, whose derivative in k is -x
        ratio = discount**t * (to_go[t] - baseline) * noise[t] / s
        v_p, v_l = np.var(-x[t] * p, ddof=1), np.var(-x[t] * ratio, ddof=1)
        shares.append(v_l / (v_p + v_l))
        g = shares[-1] * p + (1 - shares[-1]) * ratio
        adjoint = discount**t * -2 * q * x[t] + a * adjoint - k * g
        total += np.mean(-x[t] * g)
    assert min(shares) < 0.9  # both sides count
    assert estimate == pytest.approx(total, rel=1e-10)


@pytest.mark.slow
def test_total_propagation_by_derivatives_alone_is_the_pathwise_gradient(monkeypatch):
    """Here through a network, and on a world whose observation is not its state."""
    monkeypatch.setattr(mixing, "mix", lambda path, ratio, *_: path)
    problem, params = swing(5)
    key, estimators = jax.random.key(0), (total_propagation(problem, 8), pathwise(problem, 8))
    both = jit(lambda params: [estimator(key, params) for estimator in estimators])(params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * np.abs(y).max()), *both)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("world", "settings"),
    [
        ("linear", {0.9: "pathwise", 1.3: "pathwise"}),  # spectral radius
        ("chaotic", {0.8: "pathwise", 4.0: "likelihood ratio"}),  # largest derivative of a step
    ],
)
def test_mixtures_are_as_good_as_the_better_side(world, settings):
    """Variances of the same number of samples, of which inverse variance uses half on each side.

    The pathwise gradient loses where products of Jacobians grow although the return does not. On an unstable linear
    system, whose return grows as the square of its state, the likelihood ratio loses more.
    """

    @functools.partial(long_jit, static_argnums=0)
    def run(make_estimator, keys, system, gain, slope):
        chaos = chaotic_problem(slope, 10)
        problem = problem_of(system, 10, 1.0) if world == "linear" else chaos
        params = gain if world == "linear" else jnp.full((1, 1), 0.2)
        estimator = make_estimator(problem, 32)
        return jax.vmap(lambda key: estimator(key, params))(keys)

    for setting, better in settings.items():
        linear = system_of(2, 1, noise_std=0.3, spectral_radius=setting)
        path, ratio, total, weighted = (
            np.asarray(run(make_estimator, jax.random.split(jax.random.key(0), 1000), *linear, setting), float)
            .var(0, ddof=1)
            .sum()
            for make_estimator in (pathwise, likelihood_ratio, total_propagation, inverse_variance)
        )
        assert ratio > 4 * path if better == "pathwise" else path > 1000 * ratio
        assert total < 1.3 * min(path, ratio)
        assert weighted < 1.3 * 2 * min(path, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("horizon", [10, 30])
def test_total_propagation_is_as_good_as_the_better_side_on_the_double_pendulum(horizon, capsys):
    world = make("classic/double_pendulum")
    policy = gaussian_policy(world.spec, (), 0.5)
    problem, params = Problem(world, policy, initial(world), horizon), policy.init(jax.random.key(0))
    keys, variances = jax.random.split(jax.random.key(0), 100), []
    for make_estimator in (pathwise, likelihood_ratio, total_propagation):
        estimator = make_estimator(problem, 32)
        each = long_jit(lambda keys, e=estimator: jax.lax.map(lambda key: e(key, params), keys, batch_size=20))(keys)
        variances.append(sum(np.asarray(x, float).var(0, ddof=1).sum() for x in jax.tree.leaves(each)))
    path, ratio, mixed = variances
    with capsys.disabled():
        print(f"\nH {horizon}: variance pathwise {path:.3g}, likelihood ratio {ratio:.3g}, mixed {mixed:.3g}")
    assert path < ratio and mixed < 1.3 * path


@pytest.mark.slow
@pytest.mark.parametrize(("make_estimator", "expected"), [(total_propagation, -0.024), (inverse_variance, -0.095)])
def test_the_bias_of_mixtures_falls_as_1_over_samples(make_estimator, expected, capsys):
    """Samples with a large gradient also measure a large variance, and lose weight: the estimate is too short."""
    system, gain = system_of(3, 2)
    exact = np.asarray(closed_form(system, gain, 5, 1.0, 1.0)).ravel()
    biases, errors = [], []
    for samples, count in ((64, 10_000), (256, 8_000)):
        estimator = make_estimator(problem_of(system, 5, 1.0, 1.0), samples)
        each = long_jit(lambda keys, e=estimator: jax.lax.map(lambda key: e(key, gain).ravel(), keys, batch_size=100))
        along = np.asarray(each(jax.random.split(jax.random.key(3), count)), float) @ exact / (exact @ exact)
        biases.append(along.mean() - 1)
        errors.append(along.std() / np.sqrt(count))
    with capsys.disabled():
        print(f"\n{make_estimator.__name__}: relative bias {biases} with standard errors {errors}")
    assert biases[0] == pytest.approx(expected, abs=3 * errors[0] + 0.003)
    assert biases[1] == pytest.approx(biases[0] / 4, abs=3 * errors[1] + errors[0])


@pytest.mark.slow
def test_the_weight_of_inverse_variance_is_that_of_numpy():
    """On the estimates that it draws: one pathwise a key, and the terms of one batch of the likelihood ratio."""
    system, gain = system_of(2, 1)
    problem, samples, key = problem_of(system, 3, 0.9), 20, jax.random.key(0)
    key_path, key_ratio = jax.random.split(key)
    alone = pathwise(problem, 1)
    each_path = jit(jax.vmap(lambda key: alone(key, gain)))(jax.random.split(key_path, 10))
    each_ratio = jit(lambda key: per_sample(problem, key, gain, 10))(key_ratio)
    whole = jit(likelihood_ratio(problem, 10))(key_ratio, gain)
    np.testing.assert_allclose(each_ratio.mean(0), whole, rtol=1e-4)
    path, ratio = (np.asarray(x, np.float64).reshape(10, -1) for x in (each_path, each_ratio))
    v_p, v_l = (np.trace(np.cov(x.T)) for x in (path, ratio))
    expected = (v_l * path.mean(0) + v_p * ratio.mean(0)) / (v_p + v_l)
    assert 0.02 < v_p / v_l < 50  # so that both count
    estimate = jit(inverse_variance(problem, samples))(key, gain)
    np.testing.assert_allclose(estimate.ravel(), expected, rtol=1e-4)


def test_mix_leaves_out_a_side_that_is_not_finite():
    good, bad, nan = jnp.array([1.0, 2.0]), jnp.array([3.0, jnp.inf]), jnp.array([jnp.nan, jnp.inf])
    one, inf = jnp.float32(1.0), jnp.float32(jnp.inf)
    np.testing.assert_allclose(mix(good, 3 * good, one, 3 * one), 0.75 * good + 0.25 * 3 * good)
    for side in (bad, nan):
        np.testing.assert_array_equal(mix(side, good, inf, one), good)
        np.testing.assert_array_equal(mix(good, side, one, inf), good)
    np.testing.assert_array_equal(mix(good, 3 * good, 0 * one, 0 * one), good)
    np.testing.assert_array_equal(mix(good, 3 * good, 0 * one, one), good)
    np.testing.assert_array_equal(mix(good, 3 * good, jnp.float32(3e38), jnp.float32(3e38)), 3 * good)  # overflow
    rows = jnp.array([[1.0, 5.0], [2.0, 5.0], [4.0, 8.0]])
    assert float(total_variance(rows)) == pytest.approx(np.var(rows, 0, ddof=1).sum())
    assert all(float(total_variance(rows.at[1, 1].set(x))) == np.inf for x in (jnp.nan, jnp.inf, 1e25))


@pytest.mark.slow
def test_total_propagation_survives_products_of_jacobians_that_overflow():
    """20 factors of up to 1e6 in float32. The returns are bounded, so that the likelihood ratio is finite."""
    problem, params, key = chaotic_problem(1e6, 20), jnp.full((1, 1), 0.2), jax.random.key(0)
    makers = pathwise, total_propagation, inverse_variance
    path, *mixed = jit(lambda: [make_estimator(problem, 64)(key, params) for make_estimator in makers])()
    assert not np.isfinite(path).any() and np.isfinite(mixed).all() and np.all(np.abs(mixed) > 1e-3)


# --- any parameters, any world ----------------------------------------------------------------------------------------


def swing(horizon):
    """A small network on the pendulum, whose parameters are a nested dictionary."""
    world = make("classic/pendulum")
    policy = gaussian_policy(world.spec, (4,), 0.1)
    rng, params = np.random.default_rng(1), jit(policy.init)(jax.random.key(1))
    moved = jax.tree.map(lambda x: jnp.asarray(x + 0.1 * rng.normal(size=x.shape), x.dtype), params)
    return Problem(world, policy, initial(world), horizon, 0.95), moved


def test_through_a_network_the_pathwise_gradient_is_that_of_finite_differences():
    with jax.enable_x64(True):
        problem, params = swing(5)
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
        key = jax.random.key(0)
        exact = jit(pathwise(problem, 4))(key, params)
        slopes = jit(finite_differences(problem, 4, step=1e-5))(key, params)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6, atol=1e-7), exact, slopes)
    assert all(np.abs(x).max() > 1e-4 for x in jax.tree.leaves(exact))


@pytest.mark.slow
def test_rematerialising_saves_memory():
    """What is remembered between the two passes is the states, not the activations of the policy's network."""
    world = make("classic/pendulum")
    policy = gaussian_policy(world.spec, (64, 64), 0.1)
    problem, params = Problem(world, policy, initial(world), 50), jit(policy.init)(jax.random.key(0))
    plain, again = (
        jit(pathwise(problem, 16, remat=remat)).lower(jax.random.key(0), params).compile() for remat in (False, True)
    )
    found = (compiled(jax.random.key(0), params) for compiled in (plain, again))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4 * np.abs(y).max()), *found)
    assert again.memory_analysis().temp_size_in_bytes < plain.memory_analysis().temp_size_in_bytes / 4


# --- what cannot be had -----------------------------------------------------------------------------------------------


def test_what_cannot_be_had_is_said_with_the_world_the_reason_and_what_can():
    world = make("classic/pendulum")
    rigid = world._replace(spec=world.spec._replace(differentiable=False))
    noisy, still = (linear_policy(world.spec, std) for std in (0.1, 0))
    ask = lambda world, policy: Problem(world, policy, initial(world), 3)  # noqa: E731

    def refused(match, make_estimator, *args, **kwargs):
        with pytest.raises(EstimatorError, match=rf"classic/pendulum: .*{match}"):
            make_estimator(*args, **kwargs)

    everything = "possible here: likelihood ratio, finite differences, evolution strategies; or a learned model"
    for estimator in (pathwise, total_propagation, inverse_variance):
        refused(f"derivatives .* do not exist .*{everything}", estimator, ask(rigid, noisy), 8)
    refused("possible here: finite differences, evolution strategies; or", pathwise, ask(rigid, still), 8)
    for estimator in (likelihood_ratio, total_propagation, inverse_variance):
        refused("deterministic, .* no density .*possible here: pathwise, finite", estimator, ask(world, still), 8)
    refused("deterministic, .*possible here: finite", likelihood_ratio, ask(rigid, still), 8)
    refused("value function.* none is given; possible .*: total, to_go", likelihood_ratio, ask(world, noisy), 8, "gae")
    refused("mean over the other samples.*possible: 2 samples or more", likelihood_ratio, ask(world, noisy), 1)
    refused("no weight 'advantage'; there are total, to_go", likelihood_ratio, ask(world, noisy), 8, "advantage")
    refused("variances over samples; possible with at least 2", total_propagation, ask(world, noisy), 1)
    refused("variances over samples; possible with at least 4", inverse_variance, ask(world, noisy), 3)
    likelihood_ratio(ask(world, noisy), 1, value=lambda obs, time: 0.0)
    likelihood_ratio(ask(rigid, noisy), 2)
    finite_differences(ask(rigid, still), 1)


# --- variances of the scalar case (docs/gradients.md) -----------------------------------------------------------------

B, Q, R, K, DISCOUNT, SCALE = 0.8, 1.2, 0.7, 0.5, 0.9, 0.8  # x' = a x + B u + w, u = -K x + s e, -(Q x^2 + R u^2)
C = Q + R * K**2
MOMENTS = {
    kind: [odd[i] * SCALE ** (2 * i + 2) for i in range(3)]
    for kind, odd in {"two": (1, 1, 1), "normal": (1, 3, 15)}.items()
}


def scalar(horizon, a, s, noise_std, start):
    """The scalar problem, and its starts: -SCALE or SCALE with even odds, or N(0, SCALE^2). s may be traced."""

    def draw(key, count):
        shape = (count, 1)
        x = SCALE * (jax.random.normal(key, shape) if start == "normal" else jax.random.rademacher(key, shape, float))
        return WorldState(x, x, jnp.zeros(count, jnp.int32))

    system = scalar_system(a, noise_std)
    return problem_of(system, horizon, DISCOUNT, start=draw)._replace(policy=limit_policy(s))


def scalar_system(a, noise_std=0.0):
    return LinearSystem(*(jnp.reshape(jnp.asarray(x, float), (1, 1)) for x in (a, B, Q, R)), noise_std)


def check_variance(estimates, expected):
    """The measured variance is the expected one within 3 standard errors, which are below 5 % of it."""
    x = np.asarray(estimates, np.float64).ravel()
    squares = (x - x.mean()) ** 2
    error = squares.std() / np.sqrt(len(x))
    assert error < 0.05 * expected
    assert abs(squares.mean() - expected) < 3 * error


@pytest.mark.parametrize("start", ["two", pytest.param("normal", marks=pytest.mark.slow)])
def test_the_variances_of_one_step_are_those_derived(start):
    n, count, gain = 4, 200_000, jnp.full((1, 1), K)
    m2, m4, m6 = MOMENTS[start]

    @long_jit
    def run(keys, s):
        problem = scalar(1, 0.0, s, 0.0, start)
        estimators = (
            pathwise(problem, 1),
            likelihood_ratio(problem, 1, "to_go"),
            likelihood_ratio(problem, 1, value=lambda x, t: -(C * x[0] ** 2 + R * s**2)),  # V(x)
            likelihood_ratio(problem, 1, value=lambda x, t: -C * x[0] ** 2),  # Q(x, mean(x))
            likelihood_ratio(problem, n),
        )
        return [jax.vmap(lambda key, e=e: e(key, gain)[0, 0])(keys) for e in estimators]

    for s in (0.2, 1.0):
        square = 4 * R**2 * K**2 * m2**2  # of the mean
        second = C**2 * m6 / s**2 + 12 * R**2 * K**2 * m4 + 6 * C * R * m4 + 15 * R**2 * s**2 * m2
        mean = -(C * m2 + R * s**2)
        of_return = C**2 * (m4 - m2**2) + 4 * R**2 * K**2 * s**2 * m2 + 2 * R**2 * s**4
        centred = second + (2 * mean * (C * m4 + 3 * R * s**2 * m2) + mean**2 * m2) / s**2
        expected = (
            4 * R**2 * (K**2 * (m4 - m2**2) + s**2 * m2),
            second - square,
            12 * R**2 * K**2 * m4 + 10 * R**2 * s**2 * m2 - square,
            12 * R**2 * K**2 * m4 + 15 * R**2 * s**2 * m2 - square,
            (centred + m2 * of_return / (s**2 * (n - 1)) - square + square / (n - 1)) / n,
        )
        for estimates, variance in zip(run(jax.random.split(jax.random.key(0), count), s), expected, strict=True):
            check_variance(estimates, variance)
            close(np.asarray(estimates)[:, None], [-2 * R * K * m2], tests=10)


def quadratic_form(horizon, a, s, noise_std):
    """G with pathwise gradient = z' G z, for z = (x_0, e, w) ~ N(0, S), and the diagonal of S."""
    size, m = 1 + 2 * horizon, a - B * K
    x, y, g = np.eye(size)[0], np.zeros(size), np.zeros((size, size))  # x_t and dx_t/dk as combinations of z
    for t in range(horizon):
        noise = s * np.eye(size)[1 + t]
        u, v = -K * x + noise, -x - K * y
        g -= 2 * DISCOUNT**t * (Q * np.outer(x, y) + R * np.outer(u, v))
        x, y = m * x + B * noise + noise_std * np.eye(size)[1 + horizon + t], m * y - B * x
    return (g + g.T) / 2, np.array([SCALE**2] + [1.0] * 2 * horizon)


def test_the_variance_of_the_pathwise_gradient_is_the_one_derived_at_any_horizon():
    horizon, gain = 5, jnp.full((1, 1), K)
    keys = jax.random.split(jax.random.key(1), 100_000)
    m2, m4, _ = MOMENTS["normal"]

    @long_jit
    def run(a, s, noise_std):
        estimator = pathwise(scalar(horizon, a, s, noise_std, "normal"), 1)
        return jax.vmap(lambda key: estimator(key, gain)[0, 0])(keys)

    for a, s, noise_std in [(0.9, 0.0, 0.0), (1.5, 0.0, 0.0), (0.9, 0.4, 0.3), (1.5, 0.4, 0.3)]:
        g, sigma = quadratic_form(horizon, a, s, noise_std)
        expected = 2 * np.trace(g * sigma @ (g * sigma))
        check_variance(run(a, s, noise_std), expected)
        if s == 0:
            assert expected == pytest.approx(derivative(horizon, a - B * K) ** 2 * (m4 - m2**2))


def derivative(horizon, m):
    """D of dJ/dk = D x_0^2, without noise."""
    t = np.arange(horizon)
    powers = DISCOUNT**t * m ** (2.0 * t)
    return -2 * R * K * powers.sum() + 2 * B * C * (t * powers).sum() / m


@pytest.mark.slow
def test_the_variances_of_the_likelihood_ratio_in_the_limit_are_those_derived_at_any_horizon():
    horizon, a, s, gain = 4, 1.1, 0.003, jnp.full((1, 1), K)
    keys = jax.random.split(jax.random.key(2), 100_000)
    m2, m4, m6 = MOMENTS["two"]
    problem = scalar(horizon, a, s, 0.0, "two")
    p, constant = costs_to_go(scalar_system(a), gain, horizon, DISCOUNT, std=0)

    @long_jit
    def run(keys):
        estimators = (
            likelihood_ratio(problem, 1, "total"),
            likelihood_ratio(problem, 1, "to_go"),
            likelihood_ratio(problem, 1, value=value_of(p, constant)),
        )
        return [jax.vmap(lambda key, e=e: e(key, gain)[0, 0])(keys) for e in estimators]

    m, t = a - B * K, np.arange(horizon)
    rewards = C * DISCOUNT**t * m ** (2 * t)
    to_go = np.cumsum(rewards[::-1])[::-1]
    slopes = DISCOUNT**t * 2 * (R * K - DISCOUNT * B * m * np.asarray(p)[1:, 0, 0])
    pairs = np.triu(slopes * m ** (t[:, None] + t))  # C_tj = discount^j h_j m^(t + j), t <= j
    diagonal = np.diag(pairs)
    np.testing.assert_allclose(diagonal.sum(), -derivative(horizon, m), rtol=1e-5)
    expected = (
        m6 * rewards.sum() ** 2 * (m ** (2 * t)).sum() / s**2,
        m6 * (to_go**2 * m ** (2 * t)).sum() / s**2,
        (m4 - m2**2) * diagonal.sum() ** 2 + m4 * ((pairs**2).sum() + (diagonal**2).sum()),
    )
    for estimates, variance in zip(run(keys), expected, strict=True):
        check_variance(estimates, variance)
