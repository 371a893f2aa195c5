"""`branchax export`: the policy of a run, in files that need no branchax."""

from __future__ import annotations

from dataclasses import dataclass

from branchax.commands.base import check_run
from branchax.commands.flags import Directory, parse


@dataclass(frozen=True)
class ExportOptions:
    """Writes the policy of a run's last checkpoint into DIR/policy, for jax.export and for NumPy alone."""

    run: Directory
    """Directory of the run."""
    seed: int | None = None
    """Which of the run's seeds; the first by default."""


def run(arguments: list[str]) -> None:
    """Writes the files and says how they are used."""
    options = parse(ExportOptions, arguments, "branchax export")
    check_run(options.run)

    from branchax.deploy import export

    folder = export.export(options.run, options.seed)
    print(f"written to {folder}")
    print(f"  {export.SPEC:<16}  what goes in and what comes out")
    print(f'  {export.JAX:<16}  jax.export.deserialize(open("{export.JAX}", "rb").read()).call(obs)')
    print(f"  {export.NUMPY:<16}  from policy import load; load()(obs), which needs NumPy and {export.ARRAYS} alone")
