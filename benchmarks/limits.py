"""What limits the phases: where the time of updates, of a fit and of imagining goes, by kind of operation.

    products     matrix products, with what is fused into them: GFLOP/s beside the ceiling
    elementwise  activations, Adam, target networks, losses: GB/s, of arrays read and written, beside a copy's
    moved        copies, transposes, gathers, slices
    loops        what loops and conditionals take themselves, the rolled ones of random bits included

    python -m benchmarks limits

From a trace of the compiled program, operation by operation, on one core (CPU alone: there the runtime says when each
begins and ends; run it under `taskset -c 0`). Writes `results/bench/limits.json`.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from benchmarks import fit, imagine, improve
from benchmarks.harness import RESULTS, WARM, Case, ceilings
from branchax.runs import rundir

CALLS = 5
INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([a-z\-]+)\((.*?)\)(.*)$", re.MULTILINE)
ITEM = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8}
MOVES = ("copy", "transpose", "gather", "scatter", "slice", "dynamic-slice", "dynamic-update-slice", "concatenate")


def size(shape: str) -> int:
    """Bytes of an array, or of a tuple of them, as HLO writes its shape."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return sum(ITEM.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in arrays)


def operations(text: str) -> dict[str, tuple[str, int]]:
    """Kind and bytes (read and written) of each instruction of a compiled program's text, by its name."""
    found = {name: (shape, opcode, inside, rest) for name, shape, opcode, inside, rest in INSTRUCTION.findall(text)}
    blocks = {b[1]: b[0] for b in re.finditer(r"^%?([\w.\-]+) \(.*?^}", text, re.MULTILINE | re.DOTALL)}
    kinds = {}
    for name, (shape, opcode, inside, rest) in found.items():
        callee = re.search(r"calls=%([\w.\-]+)", rest)
        fused = blocks.get(callee[1], "") if callee and opcode == "fusion" else ""
        codes = {opcode, *(code for _, _, code, _, _ in INSTRUCTION.findall(fused))}
        kind = (
            "products" if "dot" in codes else "loops" if opcode in ("while", "conditional", "call") else "elementwise"
        )
        # A fusion that moves and does nothing else is a move; one that only reads through a slice is not.
        arithmetic = codes - {*MOVES, "fusion", "parameter", "bitcast", "constant", "tuple", "broadcast", "reshape"}
        if kind == "elementwise" and (not arithmetic or codes & {"gather", "scatter", "dynamic-update-slice"}):
            kind = "moved"
        operands = re.findall(r"%([\w.\-]+)", inside)
        kinds[name] = kind, size(shape) + sum(size(found[o][0]) for o in operands if o in found)
    return kinds


def own_seconds(events: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each event by name, without those of the events within it."""
    total: dict[str, float] = defaultdict(float)
    open_: dict[Any, list[dict[str, Any]]] = {}
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        stack = open_.setdefault((event["pid"], event["tid"]), [])
        while stack and stack[-1]["ts"] + stack[-1]["dur"] <= event["ts"]:
            stack.pop()
        if stack:
            total[stack[-1]["name"]] -= event["dur"]
        total[event["name"]] += event["dur"]
        stack.append(event)
    return {name: micro / 1e6 for name, micro in total.items()}


def measure(case: Case) -> dict[str, Any]:
    """Seconds of a call by kind, and what its products and its elementwise operations reach."""
    state, *rest = case.arguments
    compiled = jax.jit(case.function, donate_argnums=0).lower(*case.arguments).compile()
    for _ in range(WARM):
        state = jax.block_until_ready(compiled(state, *rest))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(CALLS):
                state = jax.block_until_ready(compiled(state, *rest))
        (file,) = Path(folder).glob("plugins/profile/*/*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    kinds = operations(compiled.as_text() or "")
    mine = [event for event in events if event.get("ph") == "X" and event["name"] in kinds]
    own = {name: total / CALLS for name, total in own_seconds(mine).items()}
    seconds: dict[str, float] = defaultdict(float)
    for name, each in own.items():
        seconds[kinds[name][0]] += each
    read = sum(kinds[event["name"]][1] for event in mine if kinds[event["name"]][0] == "elementwise") / CALLS
    longest = sorted(own, key=lambda name: -own[name])[:12]
    return {
        "settings": case.settings,
        "work": case.work,
        "seconds": dict(seconds),
        "gflops_of_products": (case.flops or 0.0) / (seconds["products"] or math.inf) / 1e9,
        "gbs_of_elementwise": read / (seconds["elementwise"] or math.inf) / 1e9,
        "longest": [{"name": name, "kind": kinds[name][0], "seconds": own[name]} for name in longest],
    }


def main() -> None:
    """Measures and writes."""
    before = ceilings()
    found = {
        "improve": measure(improve.case((256, 256), 256, 2, updates=10)),
        "fit": measure(fit.case("7 x (4 x 200)", rounds=1)),
        "imagine": measure(imagine.case(10_000, 1)),
    }
    top = {key: max(value, after) for (key, value), after in zip(before.items(), ceilings().values(), strict=True)}
    table = Table("phase", "products", "elementwise", "moved", "loops", "of both ceilings", title="where the time goes")
    for name, row in found.items():
        total = sum(row["seconds"].values())
        row["share"] = {kind: own / total for kind, own in row["seconds"].items()}
        row["of_ceiling"] = {
            "products": row["gflops_of_products"] / top["matmul_gflops"],
            "elementwise": row["gbs_of_elementwise"] / top["copy_gbs"],
        }
        cells = [f"{row['share'].get(kind, 0.0):.0%}" for kind in ("products", "elementwise", "moved", "loops")]
        reached = ", ".join(f"{kind} {share:.0%}" for kind, share in row["of_ceiling"].items())
        table.add_row(name, *cells, reached)
    made = {"command": "python -m benchmarks limits", "environment": rundir.environment()}
    rundir.write_json(RESULTS / "limits.json", {"benchmark": "limits", "ceilings": top, "phases": found, "made": made})
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
