"""`branchax list`: the presets and the worlds."""

from __future__ import annotations

from dataclasses import dataclass

from branchax import pretrained
from branchax.commands.base import installed
from branchax.commands.flags import parse
from branchax.presets import ABOUT, PRESETS
from branchax.worlds.catalog import PLAYGROUND, WORLDS


@dataclass(frozen=True)
class ListOptions:
    """Shows the presets, the worlds and the pretrained policies."""


def run(arguments: list[str]) -> None:
    """Prints them."""
    parse(ListOptions, arguments, "branchax list")
    print("presets (branchax train PRESET)")
    for name in PRESETS:
        print(f"  {name:<14} {ABOUT[name]}")
    brax = "installed" if installed("brax") else "not installed: pip install brax==0.14.2"
    print(f"\nworlds (--world NAME); those of brax/ need brax, which is {brax}")
    for name, entry in WORLDS.items():
        print(f"  {name:<31} {entry.about}{' [discrete actions]' if entry.discrete else ''}")
    gymnasium = "any of Gymnasium's, such as gym/Hopper-v5, or module:Id of one's own that the module registers"
    print(f"  {'gym/<Id>':<31} {gymnasium}{'' if installed('gymnasium') else ' [pip install branchax[gym]]'}")
    note = "" if installed("mujoco_playground") else " [pip install branchax[playground]]"
    print(f"  {'playground/<Task>':<31} MuJoCo Playground's control suite: {', '.join(PLAYGROUND)}{note}")
    print(f"\npretrained policies (branchax play NAME): {', '.join(pretrained.names())}")
