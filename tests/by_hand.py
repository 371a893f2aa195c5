"""Updates by hand: NumPy in float64, written from the papers, to compare an agent's update with.

What these tests know of the library's protocols is here, and nowhere else: how an update is called and what it returns,
where the optimizer keeps the gradient, how a model that updates look into is made.
"""

import operator
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from branchax.agents.base import Agent, Ahead, Outcome, Sources
from branchax.dynamics.base import Dynamics, FitReport
from branchax.rollout import rollout
from branchax.types import Largest, Row, Transition
from branchax.worlds.base import World, WorldSpec, WorldState

SPEC = WorldSpec("by_hand", 2, 1, 100)
DISCRETE = WorldSpec("by_hand", 2, 3, 100, discrete=True)
DISCOUNT, BATCH = 0.9, 8


# --- the library's protocols ---


def update(agent, params, sources, key=None):
    """One compiled update: the parameters after it, and all that it reports as {name: float}."""
    key = jax.random.key(5) if key is None else key
    after, told = jax.jit(lambda p: agent.update(key, p, sources))(params)
    return after, {name: float(x) for name, x in reported(told).items()}


def reported(told):
    """What an update reports as one flat dictionary."""
    plain = {name: x.value if isinstance(x, Largest) else x for name, x in told.metrics.items()}
    return told.losses | plain | {"model_steps": told.model_steps}


def watcher(watch, blank):
    """An agent that learns nothing: its parameters are what `watch` made of its last update's (key, sources)."""
    still = jnp.zeros(SPEC.action_size)
    return Agent(
        init=lambda key: blank,
        act=lambda key, params, obs: (still, ()),
        mode=lambda params, obs: still,
        update=lambda key, params, sources: (watch(key, sources), Outcome({}, {})),
    )


def off_batch(rows, ahead=None):
    """Sources whose every batch is `rows` [B]."""
    return Sources(lambda key: rows, None, ahead=ahead)


def off_rollouts(make):
    """Sources of an agent that learns on rollouts of its own; `make` is (key, act) -> [H, B, ...]."""
    return Sources(None, lambda key, act, window: make(key, act))


def gradient(learner):
    """The gradient that Adam's first step took, from its first moment; after two steps, 0.9 times the first's and the
    second's."""
    return jax.tree.map(lambda m: np.asarray(m, np.float64) / 0.1, optax.tree.get(learner.optimizer, "mu"))


def same(found, expected, tolerance=2e-4):
    """Whether two trees of arrays agree, entry by entry, to a share of the largest entry of all."""
    found, expected = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# --- noise that does not depend on keys ---


def fixed_noise(monkeypatch):
    """Every normal draw is `noise(A)`, whatever its key: the references need not split keys as the library does."""

    def normal(key, shape=(), dtype=jnp.float32):
        return jnp.broadcast_to(jnp.asarray(noise(shape[-1] if shape else 1), dtype), shape)

    monkeypatch.setattr(jax.random, "normal", normal)


def noise(size):
    """[size], of both signs."""
    return np.linspace(0.9, -0.6, size)


# --- networks and derivatives ---


def as_numpy(tree):
    """The tree in float64."""
    return jax.tree.map(lambda x: np.array(x, np.float64), tree)  # a copy: `slope` moves its entries


def net(params, x, activation=lambda x: np.maximum(x, 0)):
    """A multilayer perceptron, linear at its output."""
    for i in range(len(params)):
        layer = params[f"layer_{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        x = x if i + 1 == len(params) else activation(x)
    return x


def each_of(params):
    """The members of a tree whose leaves have a leading axis."""
    count = len(jax.tree.leaves(params)[0])
    return [jax.tree.map(operator.itemgetter(c), params) for c in range(count)]


def slope(loss, tree, step=1e-6):
    """The gradient of a NumPy function of a tree, by central differences in float64."""
    leaves, shape = jax.tree.flatten(as_numpy(tree))
    found = []
    for leaf in leaves:
        out = np.zeros_like(leaf)
        for at in np.ndindex(leaf.shape):
            kept = leaf[at]
            leaf[at] = kept + step
            up = loss(jax.tree.unflatten(shape, leaves))
            leaf[at] = kept - step
            out[at] = (up - loss(jax.tree.unflatten(shape, leaves))) / (2 * step)
            leaf[at] = kept
        found.append(out)
    return jax.tree.unflatten(shape, found)


def adam_step(tree, gradient, learning_rate):
    """The first step of Adam."""
    return jax.tree.map(lambda p, g: p - learning_rate * g / (np.abs(g) + 1e-8), as_numpy(tree), gradient)


# --- rows ---


def batch(seed=0, discrete=False):
    """Rows [B] of which some end, some are marked as cut off and most go on; as the library and as NumPy have them."""
    rng = np.random.default_rng(seed)
    f = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    number = np.arange(BATCH)
    action = np.eye(3, dtype=np.float32)[number % 3] if discrete else np.tanh(f(BATCH, 1))
    rows = Transition(f(BATCH, 2), action, f(BATCH), f(BATCH, 2), number % 4 == 1, number % 4 == 2)
    return Row(jax.tree.map(jnp.asarray, rows)), as_numpy(rows)


# --- a model of two members, in both ---

TURN = np.array([[[0.9, 0.2], [-0.3, 0.8]], [[0.7, -0.1], [0.2, 1.1]]])
PUSH = np.array([[0.4, -0.2], [-0.1, 0.5]])
ENDS = 0.6  # an episode ends where the first entry is beyond


def model_step(xp, member, obs, action):
    """What a member says of one step: (next obs [2], reward [], terminated []), in NumPy or JAX."""
    after = xp.tanh(xp.asarray(TURN)[member] @ obs + xp.asarray(PUSH)[member] * action[0])
    reward = obs[0] - 0.5 * obs[1] ** 2 + 0.3 * action[0] + 0.2 * member
    return after, reward, after[0] > ENDS


def member_world(member, steps=model_step):
    """The world in which a member predicts."""

    def step(key, state, action):
        after, reward, ended = steps(jnp, member, state.obs, action)
        after, reward = after.astype(jnp.float32), reward.astype(jnp.float32)
        transition = Transition(state.obs, action, reward, after, ended, jnp.zeros((), bool))
        return WorldState((), after, state.time + 1), transition

    return World(SPEC, lambda key: at(jnp.zeros(2)), step)


def at(obs):
    return WorldState((), obs, jnp.zeros((), jnp.int32))


def two_members(steps=model_step):
    """The model as `Dynamics` that learn nothing."""
    return Dynamics(
        init=lambda key: (),
        fit=lambda key, model, ring: (model, FitReport({})),
        elites=lambda model: jnp.arange(2),
        world=lambda model, member: member_world(member, steps),
        branch=lambda row: at(row.transition.obs),
        after=lambda key, row: at(row.transition.next_obs),
        doubt=lambda model, obs, action: jnp.zeros(()),
        needs_state=False,
    )


def ahead(horizon, longest=3):
    """The model for updates that look `horizon` steps ahead, of `longest` that there is room for."""
    model = two_members()

    def start(key, row, after):
        return jax.vmap(lambda r: model.after(key, r))(row) if after else jax.vmap(model.branch)(row)

    def run(key, act, starts):
        def one(key, member, start):
            return rollout(key, member_world(member), act, start, longest, horizon=jnp.int32(horizon))[1]

        return jax.vmap(one)(jax.random.split(key, 2), jnp.arange(2), starts)

    return Ahead(2, start, run, run)


def walk(member, obs, act, horizon):
    """One rollout in a member from obs [2], up to a termination; `act` is obs [2] -> (action [A], bonus).

    Its steps have .obs, .action, .bonus, .reward, .next_obs and .ended.
    """
    steps = []
    for _ in range(horizon):
        action, bonus = act(obs)
        after, reward, ended = model_step(np, member, obs, action)
        kept = {"obs": obs, "action": action, "bonus": bonus, "reward": reward, "next_obs": after, "ended": ended}
        steps.append(SimpleNamespace(**kept))
        if ended:
            break
        obs = after
    return steps


def member_of(row):
    """The rows of a batch take turns over the members: the first half in the first."""
    return row // (BATCH // 2)
