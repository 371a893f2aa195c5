"""Brax's environments as worlds: true next observations, fresh resets, stable carries, refusals that come early."""

import subprocess
import sys
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import jit_soon, replace

from branchax.build import build
from branchax.checks import check
from branchax.config import Config
from branchax.devices import mesh
from branchax.errors import ConfigError
from branchax.rollout import rollout
from branchax.runs import compiling
from branchax.worlds import brax as module
from branchax.worlds import make, terminations
from branchax.worlds.brax import brax_world
from branchax.worlds.catalog import BRAX_BACKENDS, WORLDS

NAMES = [name.removeprefix("brax/") for name in WORLDS if name.startswith("brax/")]


@pytest.fixture(scope="module")
def pendulum():
    return brax_world("inverted_pendulum")


@pytest.fixture(scope="module")
def walk(pendulum):
    """10,000 transitions [100, 100] of random actions with restarts."""

    def act(key, obs):
        return jax.random.uniform(key, (1,), minval=-1.0), ()

    @jax.jit
    def run(key):
        start = jax.vmap(pendulum.reset)(jax.random.split(key, 100))
        return rollout(key, pendulum, act, start, 100, restart=True)[1].transition

    return jax.tree.map(np.asarray, run(jax.random.key(0)))


def looks(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def test_shapes_and_dtypes(pendulum, walk):
    assert pendulum.spec[:5] == ("brax/inverted_pendulum", 4, 1, 1000, False)
    assert walk.obs.shape == walk.next_obs.shape == (100, 100, 4) and walk.action.shape == (100, 100, 1)
    assert walk.obs.dtype == walk.reward.dtype == np.float32 and walk.terminated.dtype == walk.truncated.dtype == bool
    assert all(np.isfinite(x).all() for x in walk)
    assert (walk.reward == 1.0).all()


def test_next_obs_is_the_true_one_across_terminations(walk):
    over = walk.terminated
    assert over.sum() > 100
    assert (np.abs(walk.next_obs[over][:, 1]) > 0.2).all()  # fallen: Brax's auto-reset would show a new start here
    np.testing.assert_array_equal(walk.obs[1:][~over[:-1]], walk.next_obs[:-1][~over[:-1]])
    begins = walk.obs[1:][over[:-1]]
    assert (np.abs(begins) <= 0.01).all()
    assert len(np.unique(begins, axis=0)) == len(begins)  # every reset from a key of its own


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System")  # it says at every build that it is no longer maintained
def test_next_obs_follows_from_obs_and_action_on_every_row(walk):
    """The physics rebuilt from the observation alone, in Brax's own environment."""
    from brax import envs

    env = envs.get_environment("inverted_pendulum", backend="generalized")
    reset = jax.jit(env.reset)(jax.random.key(0))

    @jax.jit
    @jax.vmap
    def step(obs, action):
        after = env.step(reset.replace(pipeline_state=env.pipeline_init(obs[:2], obs[2:])), action)
        return after.obs, after.reward, after.done

    obs, reward, done = step(walk.obs.reshape(-1, 4), walk.action.reshape(-1, 1))
    np.testing.assert_allclose(walk.next_obs.reshape(-1, 4), obs, atol=1e-4)
    np.testing.assert_array_equal(walk.reward.ravel(), reward)
    np.testing.assert_array_equal(walk.terminated.ravel(), done > 0.5)


def test_the_predicate_agrees_on_10000_transitions(pendulum, walk):
    predicted = jax.vmap(jax.vmap(pendulum.spec.termination))(walk.obs, walk.action, walk.next_obs)
    assert walk.terminated.size == 10_000
    np.testing.assert_array_equal(predicted, walk.terminated)


def test_the_clock_truncates_and_can_be_shortened():
    world = brax_world("fast", episode_length=3)
    state = world.reset(jax.random.key(0))
    truncated = []
    for _ in range(3):
        state, t = world.step(jax.random.key(0), state, jnp.ones(1))
        truncated.append(bool(t.truncated))
    assert truncated == [False, False, True] and not t.terminated
    assert t.reward > 0


def test_the_environment_is_traced_once(monkeypatch):
    """Programs that step the same world share its trace: tracing Brax takes seconds for the larger environments."""
    from brax.envs.fast import Fast

    count, step = [], Fast.step
    monkeypatch.setattr(Fast, "step", lambda *args: count.append(1) or step(*args))
    world = brax_world("fast")
    state, action = world.reset(jax.random.key(0)), jnp.zeros(1)
    for batch in (2, 3):
        states, actions, keys = jax.tree.map(lambda x, n=batch: jnp.stack([x] * n), (state, action, jax.random.key(0)))
        jax.make_jaxpr(jax.vmap(world.step))(keys, states, actions)
        jax.make_jaxpr(lambda k, s, a: jax.lax.scan(lambda s, _: world.step(k, s, a), s, length=2))(
            jax.random.key(0), state, action
        )
    assert len(count) == 1


def test_a_run_traces_the_environment_once(toy_config, monkeypatch):
    """Exploring, epochs and evaluation share the trace of `step`, and that of `reset` with building the world."""
    from brax.envs.fast import Fast

    count = Counter()
    for name in ("reset", "step"):
        function = getattr(Fast, name)
        monkeypatch.setattr(Fast, name, lambda *args, n=name, f=function: count.update([n]) or f(*args))
    # Lowered is enough.
    monkeypatch.setattr(compiling.cache, "compiled", mock.Mock())
    monkeypatch.setattr(compiling, "memory", mock.Mock())
    config = replace(toy_config, world="brax/fast", agent__hidden=(4,))
    program = build(config)
    with ThreadPoolExecutor(1) as pool:
        lanes = lambda: ({}, compiling.seed_keys(config))  # noqa: E731
        made = compiling.compile_program(lambda floats: program, lanes, config, mesh.make(config), mock.Mock(), pool)
        assert made.epoch.result() and made.evaluate.result()
    assert count == {"reset": 1, "step": 1}


def test_the_catalog_is_brax_s_registry():
    from brax import envs

    assert sorted(NAMES) == sorted(envs._envs) == sorted(terminations.BRAX)


def test_refused_before_brax_is_asked():
    with pytest.raises(ConfigError, match=r"backend: spring is not possible for brax/swimmer; allowed: generalized"):
        make("brax/swimmer", backend="spring")
    with pytest.raises(ConfigError, match="did you mean spring"):
        make("brax/ant", backend="sprin")
    with pytest.raises(ConfigError, match="did you mean hopper"):
        make("brax/hoper")
    with pytest.raises(ConfigError, match="backend: mjx is not possible; allowed: generalized"):
        check(Config(world="brax/swimmer", backend="mjx"))


def test_an_environment_of_one_s_own_needs_only_brax_s_registry(monkeypatch):
    from brax import envs
    from brax.envs.fast import Fast

    monkeypatch.setitem(envs._envs, "mine", Fast)
    world = make("brax/mine")
    assert world.spec.obs_size == 2 and world.spec.termination is None  # a model has to learn when it ends


def test_spring_warns_once_that_it_hides_state():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        brax_world("inverted_pendulum", "spring")  # what Brax imports for it warns too, the first time
    module._warn_of_spring.cache_clear()
    with pytest.warns(UserWarning, match="spring backend hides part of its state") as record:
        brax_world("inverted_pendulum", "spring")
        brax_world("inverted_pendulum", "spring")
    assert len(record) == 1


def test_brax_is_imported_only_when_one_of_its_worlds_is_built():
    code = (
        "import sys, branchax.worlds.brax, branchax.worlds.terminations\n"
        "from branchax.worlds import make\n"
        "make('classic/pendulum'), make('probe/action')\n"
        "assert 'brax' not in sys.modules and 'mujoco' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def steps_like_it_starts(name, backend):
    """Nothing is compiled: the shapes, dtypes and weak types of a reset are those of a step."""
    world = brax_world(name, backend)
    state = jax.eval_shape(world.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((world.spec.action_size,), jnp.float32)
    after, transition = jax.eval_shape(world.step, jax.random.key(0), state, action)
    assert looks(after) == looks(state)
    assert transition.next_obs.shape == transition.obs.shape == (world.spec.obs_size,)
    for leaf in (transition.reward, transition.terminated, transition.truncated):
        assert leaf.shape == () and not leaf.weak_type
    assert transition.reward.dtype == jnp.float32


@pytest.mark.filterwarnings("ignore:Brax's spring backend")
@pytest.mark.parametrize("backend", BRAX_BACKENDS)
def test_a_step_looks_like_a_reset(backend):
    steps_like_it_starts("inverted_pendulum", backend)


def says_whether_reverse_mode_exists(name, backend):
    """Nothing is compiled: JAX refuses a `while_loop` when it traces the derivative."""
    world = brax_world(name, backend)
    state = jax.eval_shape(world.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((world.spec.action_size,), jnp.float32)
    gradient = jax.grad(lambda a, s: world.step(jax.random.key(0), s, a)[1].next_obs.sum())
    if world.spec.differentiable:
        assert jax.eval_shape(gradient, action, state) == action
    else:
        with pytest.raises(ValueError, match=r"Reverse-mode .* does not work for lax.while_loop"):
            jax.eval_shape(gradient, action, state)
    return world.spec.differentiable


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["generalized", "mjx"])
def test_the_spec_says_whether_reverse_mode_exists(backend):
    assert says_whether_reverse_mode_exists("inverted_pendulum", backend) == (backend != "mjx")


@pytest.mark.slow
def test_on_mjx_only_worlds_that_take_one_iteration_are_differentiable():
    names = [name for name in NAMES if "mjx" in WORLDS[f"brax/{name}"].backends]
    found = [name for name in names if says_whether_reverse_mode_exists(name, "mjx")]
    assert sorted(found) == ["ant", "fast", "humanoid"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax's spring backend")
@pytest.mark.parametrize("backend", ["generalized", "positional", "spring"])
def test_reverse_mode_through_contacts_equals_finite_differences(backend):
    """In float64, because the gradient of a step that changes its contacts within 1e-3 is right, but not to be seen."""
    with jax.enable_x64(True):
        world = brax_world("hopper", backend)

        def walk(offset, start, steps):
            act = lambda key, obs: (0.3 * jax.random.uniform(key, (3,), minval=-1.0) + offset, ())  # noqa: E731
            return rollout(jax.random.key(1), world, act, start, steps)

        @jit_soon
        def landed():
            start = jax.vmap(world.reset)(jax.random.split(jax.random.key(0), 16))
            return walk(jnp.zeros(3), start, 40)[0]

        start, eps = landed(), 1e-6
        total = lambda offset: walk(offset, start, 3)[1].transition.reward.sum(0)  # noqa: E731
        value, gradient = jit_soon(total), jit_soon(jax.jacrev(total))(jnp.zeros(3))  # [16, 3]
        differences = np.stack([(value(e) - value(-e)) / (2 * eps) for e in eps * jnp.eye(3)], -1)
    np.testing.assert_allclose(gradient, differences, rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(gradient, axis=-1).min() > 0.01


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax's spring backend")
@pytest.mark.parametrize("name", NAMES)
def test_every_environment_builds_on_every_backend_it_has(name):
    for backend in WORLDS[f"brax/{name}"].backends:
        steps_like_it_starts(name, backend)


@pytest.mark.filterwarnings("ignore:Brax System")
def test_a_model_is_read_as_brax_reads_it_but_compiles_almost_nothing():
    from brax import envs

    programs = []

    def count(event, _, **__):
        programs.extend([event] if "backend_compile" in event else [])

    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        ours = module.environment("reacher", "generalized")  # first: what Brax has compiled is compiled for us, too
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(programs) < 10  # Brax's own way: 11 to 46, by the model
    theirs = envs.get_environment("reacher", backend="generalized")
    for a, b in zip(jax.tree.leaves(theirs.sys), jax.tree.leaves(ours.sys), strict=True):
        assert jnp.asarray(a).aval == jnp.asarray(b).aval  # weak types, too
        np.testing.assert_array_equal(a, b)
