"""How a package hands on its public names: each loads its module when it is first used (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def hand_on(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of `package`.

    Args:
      package: the package's own name.
      homes: for each public name the module that defines it, as `module`, or as `module:other` where it is called
        `other` there. A submodule whose home is itself is handed on whole.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home, _, other = homes[name].partition(":")
        module = importlib.import_module(home)
        return module if homes[name] == f"{package}.{name}" else getattr(module, other or name)

    return load, lambda: sorted(homes), sorted(homes)
