"""branchax: model-based reinforcement learning in JAX, on short rollouts that branch off real states.

    import branchax

    config = branchax.preset("mbpo", "brax/inverted_pendulum")
    branchax.run(config, "runs/first")

The names below load their modules when they are first used, so that `import branchax` imports no JAX. To drive the
functions yourself, `build(config)` from `branchax.build` returns them as a `Program`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from branchax.config import Config, ConfigError, check
    from branchax.host.run import train as run
    from branchax.presets import preset

__version__ = "0.1.0"
__all__ = ["Config", "ConfigError", "__version__", "check", "preset", "run"]

_HOME = {
    "Config": ("branchax.config", "Config"),
    "ConfigError": ("branchax.config", "ConfigError"),
    "check": ("branchax.config", "check"),
    "preset": ("branchax.presets", "preset"),
    "run": ("branchax.host.run", "train"),
}


def __getattr__(name: str) -> Any:
    """Loads a public name from the module that defines it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'branchax' has no attribute {name!r}")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
