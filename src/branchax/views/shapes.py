"""The parts of a drawing in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BODY, ACCENT, GOAL, GROUND = "body", "accent", "goal", "ground"  # the roles of shapes; each has a colour


class Shape(NamedTuple):
    """One shape. Its positions and its `size` are in world units, with y upwards."""

    kind: str  # "line": x1, y1, x2, y2; "disc": x, y; "box": x, y, angle [rad]; "path": x1, y1, x2, y2, ...
    role: str
    size: Sequence[float]  # line, path: width; disc: radius; box: width, height
    at: np.ndarray  # [T, n] if it moves, or [n]


class Scene(NamedTuple):
    """The shapes of a drawing, from back to front."""

    view: tuple[float, float, float, float]  # x from, y from, x to, y to
    shapes: list[Shape]

    def data(self) -> dict[str, Any]:
        """The scene as JSON-ready data."""
        shapes = [
            {"kind": s.kind, "role": s.role, "size": list(s.size), "at": np.round(s.at.astype(float), 4).tolist()}
            for s in self.shapes
        ]
        return {"view": list(self.view), "shapes": shapes}
