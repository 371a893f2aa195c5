"""The persistent compilation cache: the second run of a configuration skips most of its compilation.

Entries made for another CPU or jaxlib can crash a process, so each combination has its own directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from pathlib import Path
from typing import Any

VARIABLE = "BRANCHAX_CACHE"  # another directory, or "off"
# A run explores once and evaluates rarely: compiling these two takes longer than running them (`ready_sooner`).
SOONER = {"init": 0, "evaluate": 1}


def enable() -> Path | None:
    """Enables the cache and returns its directory; `None` if it is off or cannot be written.

    An already configured cache (`JAX_COMPILATION_CACHE_DIR`) is used unchanged.
    """
    import importlib.metadata

    import jax  # not above: the command line loads this module before it needs JAX

    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    if configured := getattr(jax.config, "jax_compilation_cache_dir", None):
        return Path(configured)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(chosen) if chosen else home / "branchax" / "xla"
    directory = root / f"{importlib.metadata.version('jaxlib')}-{_cpu_hash()}-{jax.default_backend()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def ready_sooner(level: int) -> dict[str, Any]:
    """XLA options that reduce compile time to between a half and a fifth; the programs run slower.

    `level` is LLVM's optimisation level, 0 or 1. The older way of emitting fusions is used where XLA has it; jaxlib
    0.12 refuses that option.
    """
    import importlib.metadata

    older = {"xla_cpu_use_fusion_emitters": False} if importlib.metadata.version("jaxlib").startswith("0.10.") else {}
    return {"xla_backend_optimization_level": level, **older}


def compiled(lowered: Any, level: int | None = None) -> Any:
    """Compiles a `jax.stages.Lowered`: with `ready_sooner` on a CPU, if `level` is given and `XLA_FLAGS` sets none."""
    import jax

    chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    if level is not None and not chosen and jax.default_backend() == "cpu":
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # other versions may not have these options
            return lowered.compile(compiler_options=ready_sooner(level))
    return lowered.compile()


def as_flags(options: dict[str, Any]) -> str:
    """Compiler options in the format of `XLA_FLAGS`."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in options.items())


def cpu_model() -> str:
    """The processor's name, or its architecture if the system does not report a name."""
    return next((v for k, v in _cpu_lines() if k == "model name"), platform.processor() or platform.machine())


def _cpu_lines() -> list[tuple[str, str]]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return []
    pairs = (line.partition(":") for line in text.splitlines())
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def _cpu_hash() -> str:
    facts = [platform.machine(), cpu_model(), *(v for k, v in _cpu_lines() if k in ("flags", "Features"))]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
