"""What a drawing in the plane is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BODY, ACCENT, GOAL, GROUND = "body", "accent", "goal", "ground"  # the roles that a drawing gives colours to


class Shape(NamedTuple):
    """One thing, in world units with y upwards; a `size` in world units too."""

    kind: str  # "line": x1, y1, x2, y2; "disc": x, y; "box": x, y, angle [rad]; "path": x1, y1, x2, y2, ...
    role: str
    size: Sequence[float]  # line, path: width; disc: radius; box: width, height
    at: np.ndarray  # [T, n] what moves, or [n]


class Scene(NamedTuple):
    """What is drawn, the ground first."""

    view: tuple[float, float, float, float]  # x from, y from, x to, y to
    shapes: list[Shape]

    def data(self) -> dict[str, Any]:
        """Ready for JSON."""
        shapes = [
            {"kind": s.kind, "role": s.role, "size": list(s.size), "at": np.round(s.at.astype(float), 4).tolist()}
            for s in self.shapes
        ]
        return {"view": list(self.view), "shapes": shapes}
