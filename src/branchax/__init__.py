"""branchax: model-based reinforcement learning in JAX, on short rollouts that branch off real states.

    import branchax

    config = branchax.preset("mbpo", "brax/inverted_pendulum")
    branchax.run(config, "runs/first")

The names below load their modules when they are first used, so that `import branchax` imports no JAX. To drive the
functions yourself, `build(config)` from `branchax.build` returns them as a `Program`; `examples/` has a run, a world
and an agent made by hand.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from branchax.agents.base import Agent
    from branchax.checks import check
    from branchax.config import Config, with_field
    from branchax.deploy.export import export
    from branchax.epoch.program import make_program
    from branchax.errors import ConfigError
    from branchax.presets import preset
    from branchax.runs.evaluate import evaluate
    from branchax.runs.train import train as run
    from branchax.worlds.base import World, WorldSpec, make_world

__version__ = "0.1.0"
__all__ = [
    "Agent",
    "Config",
    "ConfigError",
    "World",
    "WorldSpec",
    "__version__",
    "check",
    "evaluate",
    "export",
    "make_program",
    "make_world",
    "preset",
    "run",
    "with_field",
]

_HOME = {
    "Agent": ("branchax.agents.base", "Agent"),
    "Config": ("branchax.config", "Config"),
    "ConfigError": ("branchax.config", "ConfigError"),
    "World": ("branchax.worlds.base", "World"),
    "WorldSpec": ("branchax.worlds.base", "WorldSpec"),
    "check": ("branchax.config", "check"),
    "evaluate": ("branchax.runs.evaluate", "evaluate"),
    "export": ("branchax.deploy.export", "export"),
    "make_program": ("branchax.epoch.program", "make_program"),
    "make_world": ("branchax.worlds.base", "make_world"),
    "preset": ("branchax.presets", "preset"),
    "with_field": ("branchax.config", "with_field"),
    "run": ("branchax.runs.train", "train"),
}


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'branchax' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
