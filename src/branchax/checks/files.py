"""Reads the settings in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from branchax.errors import ConfigError


def read_settings(path: Path) -> dict[str, Any]:
    """What a JSON file says, or a YAML file (`.yaml`, `.yml`). Raises `ConfigError` unless it is a set of fields."""
    try:
        text = path.read_text(encoding="utf-8")
        data = _read_yaml(text) if path.suffix in (".yaml", ".yml") else json.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(f"config: {path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"config: {path} is not a set of fields")
    return data


def _read_yaml(text: str) -> Any:
    """YAML 1.2, in which 1e-3 is a number. Raises `ValueError` for what is none; an empty file has no fields."""
    import yaml  # not above: few need it, and it takes a while

    class Loader(yaml.SafeLoader):
        """PyYAML's, which reads YAML 1.1."""

    number = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+"
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{number}$"), list("-+.0123456789"))
    try:
        data = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    return {} if data is None else data
