"""Exports a run's policy to files that do not need branchax.

policy.jaxexport  the policy as a portable program, for `jax.export.deserialize`, on a CPU or a GPU
policy.npz        its arrays, for policy.py
policy.py         the same policy in pure NumPy (`numpy_policy.py`); both only if it is a stack of dense layers
spec.json         the meaning of inputs and outputs

All compute the policy's mode, the action that `branchax evaluate` takes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build
from branchax.agents.base import Layers
from branchax.config import Config
from branchax.deploy import numpy_policy
from branchax.errors import ConfigError
from branchax.runs import rundir
from branchax.runs.restoring import restore
from branchax.sharding import of_seed
from branchax.worlds.base import World

POLICY = "policy"  # the folder in a run's directory
JAX, ARRAYS, NUMPY, SPEC = "policy.jaxexport", "policy.npz", "policy.py", "spec.json"
FORMAT = 1  # of spec.json
PLATFORMS = ("cpu", "cuda")


def export(directory: str | os.PathLike[str], seed: int | None = None) -> Path:
    """Writes the policy of a run's last checkpoint into `policy/` in its directory; returns that folder.

    Args:
      directory: a run's directory.
      seed: one of the run's seeds; the first by default.

    Raises:
      ConfigError: the directory holds no run or no checkpoint, the run does not have this seed, or the agent plans in
        its model and has no policy.
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
    """Raises `ConfigError` unless a run with these settings has a policy for this seed."""
    config.place_of(seed, "this run")
    if config.plans:
        raise ConfigError(
            f"export: an agent of kind {config.agent.kind} has no policy to export: it searches in its model at every"
            " step; `branchax evaluate` runs it"
        )


def write(folder: Path, config: Config, agent: Any, origin: dict[str, Any]) -> Path:
    """Writes the policy of an agent's state (of one seed) into `folder`; `origin` is added to spec.json."""
    world = build.make_world(config)
    made = build.build_agent(config, world)
    if made.memory is not None:
        raise ConfigError("export: this agent's policy has a memory, which the exported files do not support")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JAX).write_bytes(serialised(lambda obs: made.mode(agent, obs), world.spec.obs_size, config.precision))
    layers = None if made.layers is None else made.layers(agent)
    if layers is not None:
        np.savez_compressed(folder / ARRAYS, **arrays_of(layers))  # type: ignore[arg-type]
        (folder / NUMPY).write_bytes(Path(numpy_policy.__file__).read_bytes())
    rundir.write_json(folder / SPEC, spec_of(config, world, layers, origin))
    return folder


def serialised(mode: Callable[[jax.Array], jax.Array], obs_size: int, precision: str) -> bytes:
    """`jax.export` bytes of mode: [D] -> [A], as float32 [b, D] -> [b, A] for any number b of rows."""
    (rows,) = jax.export.symbolic_shape("b")
    with jax.default_matmul_precision(precision):
        exported = jax.export.export(jax.jit(jax.vmap(mode)), platforms=PLATFORMS)(
            jax.ShapeDtypeStruct((rows, obs_size), jnp.float32)
        )
    return bytes(exported.serialize())


def arrays_of(layers: Layers) -> dict[str, np.ndarray]:
    """The arrays that `numpy_policy.load` reads."""
    arrays = {"activation": np.array(layers.activation), "head": np.array(layers.head)}
    for i, layer in enumerate(layers.layers):
        outputs = layers.outputs if i + 1 == len(layers.layers) else slice(None)
        row = lambda x: np.reshape(x, (-1, 1, x.shape[-1]))  # noqa: E731  # [C, 1, out]
        kernel = np.asarray(layer.kernel)
        arrays[f"kernel_{i}"] = kernel.reshape(-1, *kernel.shape[-2:])[..., outputs]
        arrays[f"bias_{i}"] = row(np.asarray(layer.bias))[..., outputs]
        if layer.pre_norm:
            arrays[f"pre_norm_{i}"] = np.array(True)
        if layer.scale is not None and layer.shift is not None:
            arrays[f"scale_{i}"], arrays[f"shift_{i}"] = row(np.asarray(layer.scale)), row(np.asarray(layer.shift))
    return arrays


def spec_of(config: Config, world: World, layers: Layers | None, origin: dict[str, Any]) -> dict[str, Any]:
    """The contents of spec.json."""
    spec, own = world.spec, {} if world.host is None else world.host.spaces
    if spec.discrete:
        bounds, meaning = [0.0, 1.0], "one-hot: the number of the action is its argmax"
    else:
        bounds, meaning = [-1.0, 1.0], "each entry in units of half its actuator's range, around the range's middle"
        if layers is None or layers.head == "identity":
            meaning += "; clip entries outside the bounds"
    files: dict[str, Any] = {
        JAX: {"reads": "jax.export.deserialize", "shapes": "[b, D] -> [b, A], any b", "platforms": list(PLATFORMS)}
    }
    if layers is not None:
        files[ARRAYS] = {"read_by": NUMPY, "activation": layers.activation, "head": layers.head}
    seen = "one-hot: which state" if spec.tabular else f"as {config.world} returns it"
    if own:
        seen += f": {own['observation']}, as gymnasium.spaces.flatten makes it a vector"
    return {
        "format": FORMAT,
        "world": {
            "name": config.world,
            "backend": config.backend,
            "episode_length": spec.episode_length,
            "arguments": list(config.world_args),
        },
        "agent": config.agent.kind,
        **origin,
        "observation": {"size": spec.obs_size, "dtype": "float32", "meaning": seen, "normaliser": None},
        "action": {
            "size": spec.action_size,
            "dtype": "float32",
            "discrete": spec.discrete,
            "bounds": bounds,
            "meaning": meaning,
            **({"in_the_world": own["action"]} if own else {}),
            "deterministic": True,
        },
        "files": files,
        "versions": {name: version for name, version in rundir.environment().items() if name in rundir.PACKAGES},
    }
