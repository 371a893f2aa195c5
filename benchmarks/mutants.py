"""Whether the tests see faults: single-line ones, put in one at a time, each against the tests that guard the line.

`mutants.toml` lists them: a file, the text that stands there exactly once, the text that takes its place, the tests (as
pytest names them) and why it matters. A mutant is applied to a copy of the tree, never to the tree itself. It is killed
if one of its tests then fails or does not come to its end, and survives if all pass. Where the text no longer stands
there exactly once, the mutant is stale, and a fast test (`tests/test_mutants.py`) fails until the list is mended.

    python -m benchmarks.mutants                 # `make mutants`: what is new, or has changed since it was run last
    python -m benchmarks.mutants sac td3         # those alone whose file, reason or tests contain one of the words
    python -m benchmarks.mutants --again         # all of them anew

Writes `results/mutants.json` after each mutant, so that it goes on where it was stopped. A result is outdated when the
mutant, its file or the files of its tests have changed since. Ends with 1 if any survived or is stale.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from branchax.devices import cache
from branchax.runs import rundir

ROOT = Path(__file__).parents[1]
LIST, RESULT = Path(__file__).with_name("mutants.toml"), Path("results/mutants.json")
COPIED = ("src", "tests", "benchmarks", "experiments", "examples", "pyproject.toml", "Makefile", "README.md")
TIMEOUT = 180  # seconds for the tests of one mutant


class Mutant(NamedTuple):
    """One fault."""

    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    reason: str

    def name(self) -> str:
        """What tells it from the others."""
        return f"{self.file}: {' '.join(self.old.split())} -> {' '.join(self.new.split())}"


def read(path: Path = LIST) -> list[Mutant]:
    """The list, in its order. Raises `ValueError` for two mutants that are one, and for one that changes nothing."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    mutants = [Mutant(m["file"], m["old"], m["new"], tuple(m["tests"]), m["reason"]) for m in found]
    names = [m.name() for m in mutants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} has twice: {'; '.join(twice)}")
    if idle := [m.name() for m in mutants if m.old == m.new]:
        raise ValueError(f"{path}: nothing is changed by {'; '.join(idle)}")
    return mutants


def stale(mutant: Mutant, root: Path = ROOT) -> str:
    """Why a mutant cannot be applied to the tree, or `""`."""
    path = root / mutant.file
    if not path.is_file():
        return f"{mutant.file} does not exist"
    count = path.read_text(encoding="utf-8").count(mutant.old)
    return "" if count == 1 else f"{mutant.old!r} stands {count} times in {mutant.file}; allowed: exactly once"


def digest(mutant: Mutant, root: Path = ROOT) -> str:
    """What a result depends on: the mutant, the file that it changes, and the files of its tests."""
    files = sorted({mutant.file, *(test.partition("::")[0] for test in mutant.tests)})
    parts = [json.dumps(mutant), *((root / file).read_text(encoding="utf-8") for file in files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


@contextlib.contextmanager
def copy_of(root: Path) -> Iterator[Path]:
    """A copy of the tree, with the tree's own compilation cache: what is compiled for one mutant serves the next."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            elif (root / name).is_file():
                shutil.copy(root / name, copy / name)
        (root / ".cache").mkdir(exist_ok=True)
        (copy / ".cache").symlink_to((root / ".cache").absolute())
        yield copy


def passes(tests: tuple[str, ...], copy: Path, timeout: float = TIMEOUT) -> tuple[str, str]:
    """How the tests end in a copy of the tree: ("passed", "failed" or "timeout", the last line that they print)."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-m", "slow or not slow"]
    command += ["-p", "no:cacheprovider", *tests]
    # No bytecode: two versions of a file within a second, and of one size, would be taken for each other. Compiled as
    # the fast tests are (`tests/conftest.py`), which here it takes to be slow ones.
    variables = os.environ | {"PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # no test needs them, and they take seconds to import
    variables["XLA_FLAGS"] = cache.as_flags(cache.ready_sooner(0) | {"xla_cpu_parallel_codegen_split_count": 1})
    try:
        done = subprocess.run(command, cwd=copy, env=variables, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return "timeout", f"not done after {timeout:.0f} s"
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    says = next(
        (line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1] if lines else done.stderr[-200:]
    )
    return ("passed" if done.returncode == 0 else "failed"), says[:200]


def attempt(mutant: Mutant, copy: Path, timeout: float = TIMEOUT) -> dict[str, Any]:
    """Puts a fault into the copy, runs its tests, and takes it out again."""
    path = copy / mutant.file
    sound = path.read_text(encoding="utf-8")
    begun = time.monotonic()
    try:
        path.write_text(sound.replace(mutant.old, mutant.new), encoding="utf-8")
        ended, says = passes(mutant.tests, copy, timeout)
    finally:
        path.write_text(sound, encoding="utf-8")
    return {
        "outcome": "survived" if ended == "passed" else "killed",
        "by": says,
        "seconds": round(time.monotonic() - begun, 1),
    }


def load(path: Path) -> dict[str, Any]:
    """What was written before; empty where there is nothing."""
    return json.loads(path.read_text(encoding="utf-8"))["mutants"] if path.is_file() else {}


def run(
    mutants: list[Mutant], words: list[str], again: bool, root: Path = ROOT, result: Path = RESULT
) -> dict[str, Any]:
    """Runs what is new or changed and writes the results as they come; those of the whole list are returned.

    Raises:
      SystemExit: when a test that guards a mutant fails in the tree as it is.
    """
    known = load(result)
    found = {m.name(): known[m.name()] for m in mutants if m.name() in known}
    todo = []
    for mutant in mutants:
        asked = not words or any(word in f"{mutant.name()} {mutant.reason} {mutant.tests}" for word in words)
        if why := stale(mutant, root):
            found[mutant.name()] = {"outcome": "stale", "by": why}
        elif asked and (again or found.get(mutant.name(), {}).get("digest") != digest(mutant, root)):
            todo.append(mutant)
    with copy_of(root) as copy:
        guards = tuple(sorted({test for mutant in todo for test in mutant.tests}))
        ended, says = passes(guards, copy, TIMEOUT * max(len(guards), 1)) if guards else ("passed", "")
        if ended != "passed":
            raise SystemExit(f"without any fault, the tests already fail: {says}")
        for i, mutant in enumerate(todo, 1):
            out = attempt(mutant, copy)
            found[mutant.name()] = out | {"tests": list(mutant.tests), "digest": digest(mutant, copy)}
            print(f"{i}/{len(todo)} {out['outcome']}, {out['seconds']} s: {mutant.name()}", flush=True)
            write(found, mutants, words, result, root)
    write(found, mutants, words, result, root)
    return found


def outcome_of(mutant: Mutant, found: dict[str, Any], root: Path = ROOT) -> str:
    """What became of a mutant, as far as that is known of the tree as it is."""
    out = found.get(mutant.name(), {"outcome": "not run"})
    return "outdated" if "digest" in out and out["digest"] != digest(mutant, root) else out["outcome"]


def count(found: dict[str, Any], mutants: list[Mutant], root: Path = ROOT) -> dict[str, int]:
    """How many of the list were killed, survived, and so on."""
    outcomes = [outcome_of(mutant, found, root) for mutant in mutants]
    return {kind: outcomes.count(kind) for kind in ("killed", "survived", "stale", "outdated", "not run")}


def write(found: dict[str, Any], mutants: list[Mutant], words: list[str], result: Path, root: Path) -> None:
    """Writes the results, in the order of the list."""
    command = " ".join(["python", "-m", "benchmarks.mutants", *words])
    made = {"command": command, "environment": rundir.environment()}
    ordered = {m.name(): found[m.name()] for m in mutants if m.name() in found}
    rundir.write_json(result, {"counts": count(found, mutants, root), "mutants": ordered, "made": made})


def main() -> None:
    """Runs what was asked for and says what survived."""
    parser = argparse.ArgumentParser("python -m benchmarks.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", metavar="WORD", help="run those alone that contain one of these")
    parser.add_argument("--again", action="store_true", help="run those too whose result is known")
    options = parser.parse_args()
    mutants = read()
    found = run(mutants, options.words, options.again)
    table = Table("outcome", "mutant", "by", title=f"{len(found)} of {len(mutants)} faults")
    for mutant in mutants:
        outcome = outcome_of(mutant, found)
        if outcome != "killed":
            table.add_row(outcome, mutant.name(), found.get(mutant.name(), {}).get("by", ""))
    Console(width=150).print(table)
    counts = count(found, mutants)
    print(", ".join(f"{n} {kind}" for kind, n in counts.items()), f"in {RESULT}")
    raise SystemExit(bool(counts["survived"] or counts["stale"]))


if __name__ == "__main__":
    main()
