"""What all tests share: the CPU, one compilation cache that outlives them, and a run small enough for unit tests."""

import gc
import os
import signal
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["BRANCHAX_CACHE"] = str(Path(__file__).parents[1] / ".cache" / "jax")

import jax
import jax.numpy as jnp
import pytest

from branchax.config import with_field
from branchax.devices import cache


def pytest_configure(config):
    """The tests spend their time in compilation. The fast ones: without optimisation, and with the older way to emit
    fusions, code is ready in a fifth of the time (an epoch of mbpo: 29 s of processor time, and 5.6). In one piece,
    because there is a worker to a core: LLVM takes a fifth longer for many pieces side by side. The slow ones run for
    longer: with a little optimisation, an epoch of dhmbpo_tiny is ready in half the time and takes a sixth longer."""
    level = 0 if config.option.markexpr == "not slow" else 1
    sooner = cache.ready_sooner(level) | {"xla_cpu_parallel_codegen_split_count": 1}
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {cache.as_flags(sooner)}".strip()
    cache.enable()
    # In the background of a shell, or under `nohup`, these come ignored, and branchax would leave them so.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    # Tracing makes objects by the million, and few of them cycles: looking for those after each 700 objects was 5 % of
    # the fast tests' time, and after each 20,000 it is 1 %, for no more memory.
    gc.set_threshold(20_000, 20, 50)


def pytest_collection_finish():
    """What was imported stays."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def undrawn(request, monkeypatch):
    """A finished run draws its curve, which takes as long as the rest of a small run: only where a test looks at it."""
    if not request.node.get_closest_marker("drawn"):
        monkeypatch.setattr("branchax.runs.plots.curve", lambda *_, **__: None)


@pytest.fixture
def strict():
    """JAX refuses implicit changes of rank and dtype. Not for all tests: Brax relies on both."""
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def toy_config():
    """A valid configuration of 4 epochs of 10 steps; with `toy_program` it runs in about a second."""
    from branchax.presets import preset

    return replace(preset("sac", "classic/lqr"), env_steps=60, explore_steps=20, epoch_steps=10, batch_size=4)


def replace(config, **changes):
    """`with_field` for each change; `model__members` means `model.members`."""
    for name, value in changes.items():
        config = with_field(config, name.replace("__", "."), value)
    return config


def jit_soon(function):
    """`jax.jit` of what compiles for longer than it runs, in slow tests too."""
    return jax.jit(function, compiler_options=cache.ready_sooner(0))


def toy_program(config, world=None, fault_at=None, traces=None):
    """A `Program` whose "agent" is a random walk: enough to test the host loop without any learning.

    Its world returns NaN as the reward of env step `fault_at`. `traces` counts how often each function is traced.
    """
    from branchax import replay
    from branchax.dynamics.base import MemberFaults
    from branchax.epoch.program import Program
    from branchax.epoch.report import Health, Report
    from branchax.epoch.state import Counts, TrainState, no_fault
    from branchax.types import Row, Stream, Transition, stream
    from branchax.worlds.base import WorldSpec, WorldState

    spec = WorldSpec(config.world, 2, 1, 5)
    traces = {} if traces is None else traces

    def rows(start, count):
        at = start + jnp.arange(count)
        zeros = jnp.zeros((count, 2))
        return Row(
            Transition(
                zeros + at[:, None], zeros[:, :1], at * 1.0, zeros, jnp.zeros(count, bool), jnp.zeros(count, bool)
            )
        )

    def add(state, count):
        env_steps = state.counts.env_steps
        fault = no_fault(state.fault.first)
        if fault_at is not None:
            hit = (env_steps <= fault_at) & (fault_at < env_steps + count)
            fault = fault._replace(
                step=jnp.where(hit, fault_at, -1), field=jnp.where(hit, 2, 0), rows=hit.astype(jnp.int32)
            )
        counts = state.counts._replace(env_steps=env_steps + count)
        return state._replace(real=replay.add(state.real, rows(env_steps, count)), counts=counts, fault=fault)

    def init(key):
        traces["init"] = traces.get("init", 0) + 1
        zero = jnp.zeros((), jnp.int32)
        row = jax.tree.map(lambda x: x[0], rows(zero, 1))
        state = TrainState(
            key,
            WorldState((), jnp.zeros(2), zero + 0),
            replay.init(row, config.real_capacity),
            (),
            (),
            {"walk": jnp.zeros(3), "half": jnp.zeros((2,), jnp.bfloat16), "key": stream(key, Stream.AGENT)},
            Counts(zero + 0, zero + 0, zero + 0, zero + 0),
            no_fault(row.transition),
        )
        return add(state, config.explore_steps)

    def epoch(state, horizon):
        traces["epoch"] = traces.get("epoch", 0) + 1
        key = stream(state.key, Stream.IMPROVE, state.counts.epochs)
        seen = replay.sample(key, state.real, 8).transition.reward.mean()
        agent = state.agent | {"walk": state.agent["walk"] + jax.random.normal(key, (3,)) + seen / 100}
        counts = state.counts
        counts = counts._replace(
            epochs=counts.epochs + 1, updates=counts.updates + 7, model_steps=counts.model_steps + horizon
        )
        state = add(state._replace(agent=agent, counts=counts), config.epoch_steps)
        metrics = {"policy/entropy": agent["walk"].mean(), "critic/loss": jnp.nan, "model/holdout_error": 1.0 / seen}
        none = jnp.zeros((), jnp.int32)
        return state, Report(metrics, Health({}, none, MemberFaults(none, none, none)))

    def evaluate(key, agent):
        traces["evaluate"] = traces.get("evaluate", 0) + 1
        noise = jax.random.normal(key, (config.eval_episodes,))
        return {"return": agent["walk"].sum() + noise, "length": jnp.full(config.eval_episodes, 5)}

    return Program(spec, init, epoch, evaluate)
