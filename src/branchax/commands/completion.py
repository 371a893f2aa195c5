"""`branchax completion`: a script by which a shell completes commands, presets, worlds, flags and files."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from branchax.commands import USAGE
from branchax.commands.flags import names_of, parse
from branchax.commands.train import Own, flags
from branchax.presets import PRESETS
from branchax.worlds.catalog import WORLDS

SHELLS = ("bash", "zsh")
FIRST = {  # what comes before the flags, where it is one of few
    "train": PRESETS,
    "sweep": PRESETS,
    "lab": ("gradients",),
    "check-world": WORLDS,
    "completion": SHELLS,
}
SCRIPT = """\
_branchax() {{
  local words
  case "${{COMP_WORDS[COMP_CWORD - 1]}}" in
    --world) words="{worlds}" ;;
    *) case "$((COMP_CWORD > 1)) ${{COMP_WORDS[1]}}" in
      0*) words="{commands}" ;;
{cases}
    esac ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _branchax branchax"""  # by default: files
CASE = '      "1 {command}") words="{words}" ;;'
ZSH = "autoload -U +X compinit bashcompinit && compinit && bashcompinit"


@dataclass(frozen=True)
class CompletionOptions:
    """Prints a script by which a shell completes commands, presets, worlds, flags and files: put
    eval "$(branchax completion bash)" into ~/.bashrc, or the same with zsh into ~/.zshrc."""

    shell: Annotated[Literal["bash", "zsh"], tyro.conf.Positional]
    """The shell."""


def run(arguments: list[str]) -> None:
    """Prints it."""
    options = parse(CompletionOptions, arguments, "branchax completion")
    cases = [CASE.format(command=name, words=_joined([*FIRST.get(name, ()), *_flags(name)])) for name in USAGE]
    if options.shell == "zsh":
        print(ZSH)
    print(
        SCRIPT.format(worlds=_joined(WORLDS), commands=_joined([*USAGE, "--help", "--version"]), cases="\n".join(cases))
    )


def _flags(command: str) -> list[str]:
    """The flags of a command, as `--help` has them; of agents', those that `mbpo` has."""
    home = "lab.options" if command == "lab" else f"commands.{command.replace('-', '_')}"
    module: Any = importlib.import_module(f"branchax.{home}")
    (options,) = (x for x in vars(module).values() if _is_options(x, module.__name__))
    names = [name for name in names_of(options) if name not in ("config", "processes", "file")]
    if command in ("train", "resume", "sweep"):
        names += flags(PRESETS["mbpo"])
    if command in ("train", "sweep"):
        names += names_of(Own)
    return [f"--{name}".replace("_", "-") for name in dict.fromkeys([*names, "help"])]


def _is_options(x: Any, module: str) -> bool:
    """Whether it is the dataclass that a command's module reads its arguments into."""
    return dataclasses.is_dataclass(x) and getattr(x, "__module__", "") == module and x.__name__.endswith("Options")  # type: ignore[union-attr]


def _joined(words: Iterable[str]) -> str:
    return " ".join(words)
