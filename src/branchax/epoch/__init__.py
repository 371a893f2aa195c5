"""The compiled epoch: its stages, what they are given, and the program made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from branchax.epoch.parts import Parts as Parts
    from branchax.epoch.parts import Stages as Stages
    from branchax.epoch.parts import Starts as Starts
    from branchax.epoch.program import STAGES as STAGES
    from branchax.epoch.program import Program as Program
    from branchax.epoch.program import make_program as make_program
    from branchax.epoch.state import TrainState as TrainState
else:
    from branchax.public import hand_on

    __getattr__, __dir__, __all__ = hand_on(
        __name__,
        {
            "Parts": "branchax.epoch.parts",
            "Program": "branchax.epoch.program",
            "STAGES": "branchax.epoch.program",
            "Stages": "branchax.epoch.parts",
            "Starts": "branchax.epoch.parts",
            "TrainState": "branchax.epoch.state",
            "make_program": "branchax.epoch.program",
        },
    )
