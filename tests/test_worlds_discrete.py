"""Discrete worlds against Gymnasium's own; tables against value iteration, shortest paths and counted transitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax.rollout import rollout
from branchax.worlds import make
from branchax.worlds.base import never
from branchax.worlds.catalog import WORLDS
from branchax.worlds.probes import DISCRETE_PROBES
from branchax.worlds.tabular import MDP, dyna_maze, optimal_q, slippery_chain, tabular_world

NAMES = [name for name, entry in WORLDS.items() if entry.discrete]
MDPS = {"gridworld": dyna_maze, "chain": slippery_chain}
# name -> Gymnasium's id, and the limits of the states that are tried
GYMNASIUM = {
    "cartpole_discrete": ("CartPole-v1", [2.4, 3.0, 0.2, 3.0]),
    "acrobot": ("Acrobot-v1", [np.pi, np.pi, 4 * np.pi, 9 * np.pi]),
    "mountain_car": ("MountainCar-v0", [0.9, 0.07]),
}


def wander(world, steps, batch=64):
    """Transitions [H, B] under uniformly random actions (not one-hot: the largest entry counts), with restarts."""
    act = lambda key, obs: (jax.random.uniform(key, (world.spec.action_size,)), ())  # noqa: E731

    @jax.jit
    def run(key):
        start = jax.vmap(world.reset)(jax.random.split(key, batch))
        return rollout(key, world, act, start, steps, restart=True)[1].transition

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def one_step_each(world, inner, actions):
    """The world after one step from each of `inner [B, ...]` under each index of `actions [B]`, and the transitions."""

    @jax.jit
    def run(inner, actions):
        keys = jax.random.split(jax.random.key(1), len(actions))
        start = jax.vmap(world.reset)(keys)._replace(inner=inner)
        return jax.vmap(world.step)(keys, start, jax.nn.one_hot(actions, world.spec.action_size))

    return run(inner, actions)


@pytest.mark.parametrize("name", NAMES)
def test_every_row_agrees_with_the_specification(name):
    world = make(name) if name.startswith("probe/") else make(name, episode_length=30)
    spec, t = world.spec, wander(world, 70)
    assert spec.discrete and not spec.differentiable
    assert t.obs.shape == t.next_obs.shape == (70, 64, spec.obs_size) and t.action.shape == (70, 64, spec.action_size)
    assert t.obs.dtype == t.next_obs.dtype == t.reward.dtype == np.float32
    assert t.terminated.dtype == t.truncated.dtype == bool
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(jax.vmap(spec.termination)))(t.obs, t.action, t.next_obs), t.terminated
    )
    over = t.terminated | t.truncated
    assert over.any() and not (t.terminated & t.truncated).any()
    np.testing.assert_array_equal(t.next_obs[:-1][~over[:-1]], t.obs[1:][~over[:-1]])
    if spec.tabular:
        assert (t.obs.sum(-1) == 1).all() and (t.obs.max(-1) == 1).all()
    state = jax.eval_shape(world.reset, jax.random.key(0))
    after, _ = jax.eval_shape(world.step, jax.random.key(0), state, jax.ShapeDtypeStruct((spec.action_size,), float))
    look = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)  # noqa: E731
    assert look(after) == look(state)


# --- Gymnasium --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GYMNASIUM)
def test_transitions_are_gymnasium_s(name):
    """From random states in the whole range: in float64 to rounding, and in float32 as close as that allows."""
    gymnasium = pytest.importorskip("gymnasium")
    env_name, limits = GYMNASIUM[name]
    rng, count = np.random.default_rng(0), 3000
    states = rng.uniform(-1.0, 1.0, (count, len(limits))) * limits
    if name == "mountain_car":
        states[:, 0] -= 0.3  # -1.2 to 0.6, the flag behind it included
    states = states.astype(np.float32)
    actions = rng.integers(make(f"classic/{name}").spec.action_size, size=count)
    env = gymnasium.make(env_name)
    assert env.spec.max_episode_steps == make(f"classic/{name}").spec.episode_length
    env, expected = env.unwrapped, []
    for state, action in zip(states.astype(np.float64), actions, strict=True):
        env.reset()
        env.state = state
        obs, reward, terminated, _, _ = env.step(action)
        expected.append((np.asarray(env.state), obs, reward, terminated))
    inner, obs, reward, terminated = map(np.array, zip(*expected, strict=True))
    assert 0.01 < terminated.mean() < 0.99  # both cases are tried

    with jax.enable_x64(True):
        after, t = one_step_each(make(f"classic/{name}"), jnp.asarray(states, float), actions)
        np.testing.assert_allclose(after.inner, inner, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(t.next_obs, obs, rtol=1e-6, atol=1e-6)  # Gymnasium's are in float32
        np.testing.assert_array_equal(t.reward, reward)
        np.testing.assert_array_equal(t.terminated, terminated)

    _, t = one_step_each(make(f"classic/{name}"), jnp.asarray(states), actions)
    # One step of the acrobot is 0.2 s at up to 28 rad/s, which magnifies rounding by a thousand.
    np.testing.assert_allclose(t.next_obs, obs, rtol=1e-5, atol=5e-3 if name == "acrobot" else 1e-5)
    np.testing.assert_array_equal(t.reward, reward)
    np.testing.assert_array_equal(t.terminated, terminated)


@pytest.mark.parametrize("name", GYMNASIUM)
def test_episodes_start_as_gymnasium_s_do(name):
    gymnasium = pytest.importorskip("gymnasium")
    env = gymnasium.make(GYMNASIUM[name][0])
    theirs = np.array([env.reset(seed=seed)[0] for seed in range(500)])
    ours = np.asarray(jax.jit(jax.vmap(make(f"classic/{name}").reset))(jax.random.split(jax.random.key(0), 500)).obs)
    spread = np.ptp(theirs, axis=0)
    for statistic in (np.min, np.max, np.mean):
        np.testing.assert_array_less(np.abs(statistic(ours, 0) - statistic(theirs, 0)), 0.08 * spread + 1e-6)


def test_the_mountain_car_stops_at_the_wall():
    after, t = one_step_each(make("classic/mountain_car"), jnp.array([[-1.19, -0.06], [-1.2, 0.01]]), jnp.array([0, 2]))
    np.testing.assert_array_equal(t.next_obs[0], np.float32([-1.2, 0.0]))
    assert after.inner[1, 1] > 0.01  # not when it is already leaving


# --- tables -----------------------------------------------------------------------------------------------------------


def value_iteration(mdp, discount, sweeps=5000):
    """Q by plain loops over the Bellman optimality equation's terms."""
    q = np.zeros(mdp.transition.shape[:2])
    for _ in range(sweeps):
        value = np.where(mdp.terminal, 0.0, q.max(1))
        q = np.einsum("san,san->sa", mdp.transition, mdp.reward + discount * value)
        q[mdp.terminal] = 0.0
    return q


def distances(mdp):
    """Moves to the goal from each state, by breadth-first search backwards over deterministic transitions."""
    follows = mdp.transition.argmax(-1)
    distance = np.where(mdp.terminal, 0, -1)
    for length in range(1, len(distance)):
        reaches = (distance[follows] == length - 1).any(1) & (distance < 0)
        distance[reaches] = length
    return distance, follows


@pytest.mark.parametrize("discount", [0.0, 0.5, 0.95, 0.99])
@pytest.mark.parametrize("name", MDPS)
def test_optimal_q_is_what_value_iteration_converges_to(name, discount):
    mdp = MDPS[name]()
    q = optimal_q(mdp, discount)
    assert q.dtype == np.float64 and q.shape == mdp.transition.shape[:2]
    np.testing.assert_allclose(q, value_iteration(mdp, discount), rtol=1e-10, atol=1e-14)


def test_optimal_q_of_a_random_process():
    rng = np.random.default_rng(0)
    transition, terminal = rng.dirichlet(np.full(12, 0.3), (12, 3)), np.arange(12) >= 10
    mdp = MDP(transition, rng.normal(size=(12, 3, 12)), terminal, np.full(12, 1 / 12))
    q = optimal_q(mdp, 0.9)
    np.testing.assert_allclose(q, value_iteration(mdp, 0.9), rtol=1e-10)
    assert (q[terminal] == 0).all()
    t = wander(tabular_world("random", mdp, 50), 100)
    seen = t.obs[1:][(t.terminated | t.truncated)[:-1]].mean(0)  # how often episodes start in each state
    np.testing.assert_allclose(seen, mdp.start, atol=0.02)


def test_the_maze_is_the_book_s():
    mdp = dyna_maze()
    free = [(i, j) for i in range(6) for j in range(9)]
    for wall in [(1, 2), (2, 2), (3, 2), (4, 5), (0, 7), (1, 7), (2, 7)]:
        free.remove(wall)
    assert mdp.transition.shape == (47, 4, 47) and len(free) == 47
    assert free[mdp.start.argmax()] == (2, 0) and free[mdp.terminal.argmax()] == (0, 8)
    assert mdp.start.sum() == mdp.terminal.sum() == 1
    for state, (i, j) in enumerate(free):
        moves = [(i - 1, j), (i + 1, j), (i, j + 1), (i, j - 1)]
        assert [free[s] for s in mdp.transition[state].argmax(-1)] == [m if m in free else (i, j) for m in moves]
        assert (mdp.transition[state].max(-1) == 1).all() and (mdp.transition[state].sum(-1) == 1).all()


def test_the_shortest_way_through_the_maze_has_14_moves_and_gives_q():
    mdp, discount = dyna_maze(), 0.95
    distance, follows = distances(mdp)
    assert distance.min() == 0 and distance[mdp.start.argmax()] == 14
    q = optimal_q(mdp, discount)
    alive = ~mdp.terminal
    np.testing.assert_allclose(q[alive], discount ** distance[follows][alive], rtol=1e-12)
    assert (q[~alive] == 0).all()

    world, table = make("classic/gridworld"), jnp.asarray(q)
    act = lambda key, obs: (jax.nn.one_hot(jnp.argmax(obs @ table), 4), ())  # noqa: E731
    start = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 2))
    t = rollout(jax.random.key(1), world, act, start, 14)[1].transition
    np.testing.assert_array_equal(t.reward, np.eye(14)[13][:, None].repeat(2, 1))
    np.testing.assert_array_equal(t.terminated, t.reward == 1)


def test_the_chain_is_strens_s():
    world, mdp = make("classic/chain"), slippery_chain()
    assert world.spec.termination is never and world.spec.episode_length == 100
    t = wander(world, 800)
    state, action, following = t.obs.argmax(-1), t.action.argmax(-1), t.next_obs.argmax(-1)
    counts = np.zeros((5, 2, 5))
    np.add.at(counts, (state, action, following), 1)
    assert counts.sum(-1).min() > 100
    for s, a in np.ndindex(5, 2):
        forward = 0.8 if a == 0 else 0.2
        expected = np.zeros(5)
        expected[0] += 1 - forward
        expected[min(s + 1, 4)] += forward
        np.testing.assert_allclose(mdp.transition[s, a], expected, atol=1e-15)
        n = counts[s, a].sum()
        deviation = np.abs(counts[s, a] / n - expected)
        assert (deviation <= 4 * np.sqrt(expected * (1 - expected) / n)).all()
    # The performed action shows in where it leads, and alone decides the reward.
    np.testing.assert_array_equal(t.reward, np.where(following == 0, 2.0, np.where(state == 4, 10.0, 0.0)))
    assert not t.terminated.any() and (state[0] == 0).all()
    assert (optimal_q(mdp, 0.85).argmax(1) == 0).all() and (optimal_q(mdp, 0.99).argmax(1) == 0).all()
    # The return of the best policy over 1,000 steps is 3677 in the paper's table.
    limit = np.linalg.matrix_power(mdp.transition[:, 0], 50)[0]
    assert round(1000 * limit @ (mdp.transition * mdp.reward).sum(-1)[:, 0]) == 3677


# --- the probe --------------------------------------------------------------------------------------------------------


def test_the_probe_rewards_the_action_that_fits_the_observation():
    probe = DISCRETE_PROBES["choice"]
    world = probe.world()
    starts = jax.jit(jax.vmap(world.reset))(jax.random.split(jax.random.key(0), 32))
    step = jax.jit(jax.vmap(world.step))
    assert set(np.asarray(starts.obs).ravel()) == {-1.0, 1.0}
    for action in np.eye(2, dtype=np.float32):
        actions = jnp.tile(action, (32, 1))
        _, t = step(jax.random.split(jax.random.key(1), 32), starts, actions)
        np.testing.assert_array_equal(t.reward, t.obs[:, 0] == (1 if action[1] else -1))
        np.testing.assert_array_equal(probe.q(t.obs, actions, 0.9), t.reward)  # no bootstrap: every step terminates
        assert t.terminated.all() and not t.truncated.any()
