"""Compiles the functions of a program over all lanes, and makes the values that differ between lanes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from branchax import build
from branchax.config import Config, value_at, with_field
from branchax.devices import cache, memory
from branchax.devices import mesh as meshes
from branchax.epoch.program import Program
from branchax.epoch.state import TrainState
from branchax.runs import runlog
from branchax.runs.host_epoch import HostEpochs
from branchax.runs.progress import Progress
from branchax.sharding import over_seeds
from branchax.types import Key, Metrics, Stream, stream
from branchax.worlds.base import World

Floats = dict[str, jax.Array]  # path of a field -> its value, or one for each lane


class Compiled(NamedTuple):
    """The functions of a `Program` over all lanes, each a future that holds the compiled function.

    A lane is one seed of one run.
    """

    template: TrainState  # of `ShapeDtypeStruct`s with their shardings, leading axis K
    lanes: tuple[Floats, Key]  # [K] each: the values of the swept fields, and the root keys
    init: Future  # lanes -> state
    epoch: Future  # (floats, state, horizon [] int32) -> (state, report of [K]); the state that goes in is donated
    evaluate: Future  # (*lanes, env_steps [K], agent) -> {"return": [K, N], "length": [K, N]}
    host: HostEpochs | None = None  # steps the world if it lives on the host


def seed_keys(config: Config) -> Key:
    """The root keys of the seeds, [K]."""
    return jax.vmap(jax.random.key)(jnp.arange(config.seed, config.seed + config.seeds))


def lanes_of(configs: list[Config], swept: Sequence[str]) -> tuple[Floats, Key]:
    """For each seed of each run: the values of the `swept` fields, and the root key; [K]."""
    seeds = configs[0].seeds
    floats = {f: jnp.repeat(jnp.float32([value_at(config, f) for config in configs]), seeds) for f in swept}
    return floats, jnp.concatenate([seed_keys(config) for config in configs])


def program_of(config: Config, swept: Sequence[str], world: World | None = None) -> Callable[[Floats], Program]:
    """A function from the values of the float fields `swept` ([] each, may be traced) to the program.

    The program uses `world`, by default that of the `config`.
    """
    if not swept:
        program = build.build(config, world)
        return lambda floats: program
    world = world or build.make_world(config)

    def of(floats: Floats) -> Program:
        settings = config
        for path, value in floats.items():
            settings = with_field(settings, path, value)
        return build.assemble(settings, world)

    return of


def compile_program(
    program: Callable[[Floats], Program],
    lanes: Callable[[], tuple[Floats, Key]],
    config: Config,
    mesh: Mesh,
    view: Progress,
    pool: ThreadPoolExecutor,
    restored: bool = False,
    ready: Callable[[TrainState], None] = lambda template: None,
) -> Compiled:
    """Compiles the functions of `program` over all `lanes` (`sharding.over_seeds`), laid out on `mesh`, in parallel in
    `pool`. `init` is not compiled if `restored`. There are as many lanes as `config` has seeds, times the number of
    runs.

    `ready` is called with the shapes of the state before anything is compiled, and may raise an error. Raises
    `ConfigError` when the state, or what a function reserves beside it, cannot fit into memory.
    """

    limit, kind = memory.limit_of(mesh), mesh.devices.flat[0].device_kind

    def submit(name: str, function: Any, *arguments: Any) -> Future:
        def work() -> Any:
            start = time.perf_counter()
            with meshes.entered(mesh):  # a setting of each thread
                compiled = cache.compiled(function.lower(*arguments), cache.SOONER.get(name))
            view.compiled(name, time.perf_counter() - start)
            memory.check_reserved(config, name, compiled, limit, kind)
            if name == "epoch" and (reserved := memory.describe_reserved(compiled)):
                view.say(f"  {reserved}", "dim")
            return compiled

        view.compiling(name)
        return pool.submit(work)

    view.phase("tracing")
    whole = meshes.everywhere(mesh)
    floats, keys = jax.jit(lanes, out_shardings=meshes.by_seed(mesh))()
    all_init = over_seeds(lambda floats, key: program(floats).init(key))
    all_epoch = over_seeds(lambda floats, *state: program(floats).epoch(*state), in_axes=(0, 0, None))
    all_evaluate = over_seeds(lambda floats, *agent: evaluate_at(program(floats))(*agent))
    with meshes.entered(mesh):  # as when it is compiled, so that it is traced only once
        template = meshes.placed(jax.eval_shape(jax.jit(all_init), floats, keys), mesh)
    ready(template)
    planned = memory.plan(template, mesh)
    view.say(f"  {memory.describe(planned)}", "dim")
    runs = keys.shape[0] // config.seeds
    memory.check(config, planned, limit, kind, runs)
    host = None
    if program({}).host is not None:
        host = HostEpochs(program, (floats, keys), config, template, mesh, submit)
        if config.dataset is None:
            return Compiled(template, (floats, keys), _done(host.init), _done(host.epoch), _done(host.evaluate), host)
    lie = meshes.shardings(template)
    init = jax.jit(all_init, out_shardings=lie)
    epoch = jax.jit(all_epoch, donate_argnums=1, out_shardings=(lie, whole))
    evaluate = jax.jit(all_evaluate, out_shardings=whole)
    init_at = floats, keys
    epoch_at = floats, template, jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    evaluate_with = floats, keys, template.counts.env_steps, template.agent
    return Compiled(
        template,
        (floats, keys),
        Future() if restored else submit("init", init, *init_at),
        submit("epoch", epoch, *epoch_at),
        submit("evaluate", evaluate, *evaluate_with) if host is None else _done(host.evaluate),
        host,
    )


def _done(value: Any) -> Future:
    """A future that is already done."""
    future: Future = Future()
    future.set_result(value)
    return future


def compiled_now(name: str, function: Any, *arguments: Any) -> Future:
    """Compiles a function immediately: the `submit` of a `HostEvaluation`."""
    return _done(cache.compiled(function.lower(*arguments), cache.SOONER.get(name)))


def evaluate_at(program: Program) -> Callable[[Key, jax.Array, Any], Metrics]:
    """`(root key, env_steps, agent) -> program.evaluate(...)`, with random keys that training never uses."""
    return lambda key, env_steps, agent: program.evaluate(stream(key, Stream.EVALUATE, env_steps), agent)


def summarise(evaluation: Metrics) -> dict[str, np.ndarray]:
    """Mean and standard deviation over episodes of `{"return": [K, N], "length": [K, N]}`; [K] each."""
    returns, lengths = np.asarray(evaluation["return"]), np.asarray(evaluation["length"])
    return {runlog.RETURN: returns.mean(-1), runlog.RETURN_SPREAD: returns.std(-1), runlog.LENGTH: lengths.mean(-1)}


def finish(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a compiled function and waits for its result."""
    return jax.block_until_ready(function(*arguments))
