"""Parts from outside the library: `module:name` -> the object, and back.

A run's settings record the user's own agent, model, world or stages by this name, so that a later process finds them
again. Parts passed in Python are found by name in this process, even if they cannot be imported.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.machinery
import json
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from branchax.errors import ConfigError, nearest

_GIVEN: dict[str, Any] = {}  # parts passed in Python, by name; the latest one of each name
_FOLDERS: dict[str, Path] = {}  # where to look for a module first, by its name; the others: the current directory


def find(name: str, field: str) -> Any:
    """The object called `module:name`. Its module is searched first where `look_for` says, or in the current directory.

    The folder stays in `sys.path`, because a module may import its neighbours later.

    Raises `ConfigError`, which begins with `field`, if the object cannot be found or its module raises.
    """
    if name in _GIVEN:
        return _GIVEN[name]
    check_module(name, field)
    module, _, attribute = name.partition(":")
    look_in_folder_of(name)
    try:
        found = importlib.import_module(module)
    except Exception as error:  # a user's module may raise anything
        raise ConfigError(f"{field}: {name!r} cannot be imported: {describe_error(error)}") from error
    try:
        return functools.reduce(getattr, attribute.split("."), found)
    except AttributeError:
        pass
    if "<" in attribute:
        raise ConfigError(
            f"{field}: {name!r} was passed in Python and has no name to import it by; allowed: pass it again"
            " (branchax.run), or define it at the top level of a module"
        )
    known = [x for x in vars(found) if not x.startswith("_")]
    raise ConfigError(f"{field}: {name!r} is unknown: {module} has no {attribute!r}{nearest(attribute, known)}")


def look_in_folder_of(name: str) -> None:
    """Has Python look for modules first where a part's own is: where `look_for` says, or in the current directory."""
    folder = str(_FOLDERS.get(module_of(name) or "", Path.cwd()))
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def module_of(name: str) -> str | None:
    """The top module of `module:name` (also of an environment that registers itself, `gym/module:Id`), or None."""
    module, colon, _ = name.removeprefix("gym/").rpartition(":")
    return module.partition(".")[0] if colon else None


def folder_of(name: str) -> Path | None:
    """The folder in which the module of a part was found; None if it is not loaded, or has none."""
    module = sys.modules.get(module_of(name) or "")
    places = [*getattr(module, "__path__", []), getattr(module, "__file__", None)]
    return None if places[0] is None else Path(places[0]).absolute().parent


def look_for(name: str, field: str, folder: Path) -> None:
    """Has the module of a part be looked for in `folder`, where it once was, if it is still there.

    Raises `ConfigError`, which begins with `field`, if another module of that name is in use.
    """
    module = module_of(name)
    if module is None or importlib.machinery.PathFinder.find_spec(module, [str(folder)]) is None:
        return
    if (other := folder_of(name) or _FOLDERS.get(module)) not in (None, folder):
        raise ConfigError(
            f"{field}: {name!r} of {folder} cannot be used beside the one of {other}; do one after the other"
        )
    _FOLDERS[module] = folder
    look_in_folder_of(name)


def check_module(name: str, field: str) -> None:
    """Raises `ConfigError` if there is no such module; nothing is imported."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f"{field}: {name!r} is not possible; allowed: module:function")
    top = module.partition(".")[0]
    if name in _GIVEN or top in sys.modules:
        return
    if importlib.machinery.PathFinder.find_spec(top, [str(Path.cwd()), *sys.path]) is None:
        raise ConfigError(
            f"{field}: {name!r} cannot be imported: no module {top!r} in {Path.cwd()} or in Python's path (PYTHONPATH)"
        )


def name_of(part: Any, field: str) -> str:
    """The name by which a part passed in Python is found again: `module:qualname`. A string is returned unchanged.

    A value, such as `Stages`, gets the name of its variable in a module. Raises `ConfigError` for parts without a name.
    """
    if isinstance(part, str):
        return part
    name = getattr(part, "__qualname__", None)
    owners = sorted(_members(part), key=lambda x: str(getattr(x, "__module__", "")).startswith("branchax."))
    owner = part if name is not None else next(iter(owners), None)
    if owner is None or not isinstance(getattr(owner, "__module__", None), str):
        raise ConfigError(f"{field}: {type(part).__name__} is not possible; allowed: a function, or 'module:function'")
    if name is None:
        modules = dict.fromkeys([*(x.__module__ for x in owners), *sys.modules])
        names = [(m, k) for m in modules for k, v in list(_globals(m).items()) if v is part]
        module, name = names[0] if names else (owner.__module__, "<value>")
    else:
        module = owner.__module__
    full = f"{_importable(module)}:{name}"
    _GIVEN[full] = part
    return full


_WORDS = {"true": True, "false": False, "none": None, "null": None}  # however they are written; quoted, they are text


def arguments_of(entries: Iterable[str], field: str) -> dict[str, Any]:
    """`["noise=0.2"]` -> `{"noise": 0.2}`: values in JSON or as Python writes them, and text where they are neither.

    Raises `ConfigError`, which names the `field`, for an entry that is not NAME=VALUE.
    """
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"{field}: {entry!r} is not possible; allowed: NAME=VALUE, such as noise=0.2")
        found[name] = _read_value(value)
    return found


def _read_value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return read(text)
    return text


def describe_error(error: BaseException, name: str = "") -> str:
    """The message of an error in a user's code, in one line, with the place in `module:function` that raised it."""
    module = sys.modules.get(name.partition(":")[0])
    file = getattr(_GIVEN.get(name), "__code__", None)
    mine = {getattr(module, "__file__", None), getattr(file, "co_filename", None)}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename in mine]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    said = f": {text[:300]}{'...' if len(text) > 300 else ''}" if text else ""
    return f"{type(error).__name__}{said}{where}"


def _members(part: Any) -> list[Any]:
    """The functions in a NamedTuple; none for other parts."""
    return [x for x in part if callable(x)] if isinstance(part, tuple) else []


def _globals(module: str) -> dict[str, Any]:
    return getattr(sys.modules.get(module), "__dict__", {})


def _importable(module: str) -> str:
    """The name by which another process can import a module; for the running script, the name of its file."""
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    return spec.name if spec is not None else Path(file).stem if file else module
