"""A policy to take away: what a run has learned, in files that need no branchax.

policy.jaxexport  the policy as a compiled-for-anything program, for `jax.export.deserialize`, on a CPU or a GPU
policy.npz        its arrays, and
policy.py         the same policy in NumPy alone (`numpy_policy.py`)
spec.json         what goes in and what comes out

All compute the policy's mode, the action that `branchax evaluate` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build
from branchax.config import Config, DQNConfig, PlannerConfig, QLearningConfig, SACConfig, TD3Config
from branchax.deploy import numpy_policy
from branchax.errors import ConfigError
from branchax.runs import rundir
from branchax.runs.restoring import restore
from branchax.sharding import of_seed
from branchax.worlds.base import WorldSpec

POLICY = "policy"  # the folder in a run's directory
JAX, ARRAYS, NUMPY, SPEC = "policy.jaxexport", "policy.npz", "policy.py", "spec.json"
FORMAT = 1  # of spec.json
PLATFORMS = ("cpu", "cuda")


class Layers(NamedTuple):
    """A policy as a stack of dense layers, which all agents' modes are."""

    params: Any  # as `nn.mlp` has them, with a leading axis [C] for networks whose mean is taken
    activation: str  # relu or tanh, between the layers
    head: str  # tanh, argmax (a one-hot vector) or identity
    outputs: slice  # the last layer's that the mode depends on


def export(directory: str | Path, seed: int | None = None) -> Path:
    """Writes the policy of a run's last checkpoint into `policy/` in its directory; returns that folder.

    Args:
      directory: a run's directory.
      seed: which of the run's seeds; the first by default.

    Raises:
      ConfigError: the directory holds no run or no checkpoint, the seed is none of its own, or the agent has no policy
        but plans in its model.
      CheckpointError: when the checkpoint cannot be read.
    """
    directory = Path(directory)
    config = rundir.load_config(directory)
    check(config, seed)
    config, state = restore(directory)
    lane = 0 if seed is None else seed - config.seed
    agent = of_seed(state.agent, lane)
    env_steps = int(state.counts.env_steps[lane])
    return write(directory / POLICY, config, agent, {"seed": config.seed + lane, "env_steps": env_steps})


def check(config: Config, seed: int | None) -> None:
    """Raises `ConfigError` unless a run of these settings has a policy of this seed."""
    last = config.seed + config.seeds - 1
    if seed is not None and not config.seed <= seed <= last:
        raise ConfigError(f"seed: {seed} is not in this run; allowed: {config.seed} to {last}")
    if isinstance(config.agent, PlannerConfig):
        raise ConfigError(
            "export: an agent of kind planner has no policy to take away: it searches in its model at every step, and"
            " would need all of it; `branchax evaluate` runs it"
        )


def write(folder: Path, config: Config, agent: Any, origin: dict[str, Any]) -> Path:
    """Writes the policy of an agent's state (of one seed) into `folder`; `origin` says where it comes from."""
    world = build.make_world(config)
    mode = build.build_agent(config, world).mode
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JAX).write_bytes(serialised(lambda obs: mode(agent, obs), world.spec.obs_size, config.precision))
    layers = layers_of(config, world.spec, agent)
    arrays = arrays_of(layers)
    np.savez(folder / ARRAYS, **arrays)  # type: ignore[arg-type]
    (folder / NUMPY).write_bytes(Path(numpy_policy.__file__).read_bytes())
    rundir.write_json(folder / SPEC, spec_of(config, world.spec, layers, origin))
    return folder


def serialised(mode: Callable[[jax.Array], jax.Array], obs_size: int, precision: str) -> bytes:
    """`jax.export` bytes of mode: [D] -> [A], as float32 [b, D] -> [b, A] for any number b of rows."""
    (rows,) = jax.export.symbolic_shape("b")
    with jax.default_matmul_precision(precision):
        exported = jax.export.export(jax.jit(jax.vmap(mode)), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct((rows, obs_size), jnp.float32)
        )
    return bytes(exported.serialize())


def layers_of(config: Config, spec: WorldSpec, agent: Any) -> Layers:
    """The layers behind the mode of an agent's state (of one seed)."""
    one = lambda params: jax.tree.map(lambda x: x[None], params)  # noqa: E731
    kind, every = config.agent, slice(None)
    if isinstance(kind, QLearningConfig):  # obs is one-hot: a linear layer reads the table
        zero = jnp.zeros(spec.action_size)
        return Layers(one({"layer_0": {"kernel": agent.table, "bias": zero}}), "relu", "argmax", every)
    if isinstance(kind, DQNConfig):
        # Dueling: V(s) and the mean advantage are the same for all actions, so only the advantages decide.
        return Layers(agent.critics.params, "relu", "argmax", slice(1, None) if kind.dueling else every)
    if isinstance(kind, TD3Config):
        return Layers(one(agent.actor.params), "relu", "tanh", every)
    if isinstance(kind, SACConfig):
        params = one(agent.actor.params)
        if spec.discrete:
            return Layers(params, "relu", "argmax", every)
        return Layers(params, "relu", "tanh", slice(spec.action_size))  # what follows are deviations
    params = agent.policy.params
    net = params.get("mean", params)  # beside it there is a deviation, unless the policy is deterministic
    head = "argmax" if spec.discrete else "tanh" if getattr(kind, "squash", False) else "identity"
    return Layers(one(net), "tanh", head, every)


def arrays_of(layers: Layers) -> dict[str, np.ndarray]:
    """What `numpy_policy.load` reads."""
    depth = sum(name.startswith("layer_") for name in layers.params)
    arrays = {"activation": np.array(layers.activation), "head": np.array(layers.head)}
    for i in range(depth):
        outputs = layers.outputs if i + 1 == depth else slice(None)
        dense = layers.params[f"layer_{i}"]
        arrays[f"kernel_{i}"] = np.asarray(dense["kernel"])[..., outputs]
        arrays[f"bias_{i}"] = np.asarray(dense["bias"])[:, None, outputs]
        if norm := layers.params.get(f"norm_{i}"):
            arrays[f"scale_{i}"] = np.asarray(norm["scale"])[:, None]
            arrays[f"shift_{i}"] = np.asarray(norm["bias"])[:, None]
    return arrays


def spec_of(config: Config, spec: WorldSpec, layers: Layers, origin: dict[str, Any]) -> dict[str, Any]:
    """The contents of spec.json."""
    if spec.discrete:
        bounds, meaning = [0.0, 1.0], "one-hot: the number of the action is its argmax"
    else:
        bounds, meaning = [-1.0, 1.0], "each entry in units of half its actuator's range, around the range's middle"
        if layers.head == "identity":
            meaning += "; entries may lie outside the bounds, and are to be clipped to them"
    seen = "one-hot: which state" if spec.tabular else f"as {config.world} returns it"
    return {
        "format": FORMAT,
        "world": {"name": config.world, "backend": config.backend, "episode_length": spec.episode_length},
        "agent": config.agent.kind,
        **origin,
        "observation": {"size": spec.obs_size, "dtype": "float32", "meaning": seen, "normaliser": None},
        "action": {
            "size": spec.action_size,
            "dtype": "float32",
            "discrete": spec.discrete,
            "bounds": bounds,
            "meaning": meaning,
            "deterministic": True,
        },
        "files": {
            JAX: {"reads": "jax.export.deserialize", "shapes": "[b, D] -> [b, A], any b", "platforms": list(PLATFORMS)},
            ARRAYS: {"read_by": NUMPY, "activation": layers.activation, "head": layers.head},
        },
        "versions": {name: version for name, version in rundir.environment().items() if name in rundir.PACKAGES},
    }
