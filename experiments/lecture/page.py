"""One page of all claims, built from their results alone: self-contained, opens offline.

python -m experiments.lecture.page           # runs/lecture.html, from quick results
python -m experiments.lecture.page --full    # results/lecture.html
"""

from __future__ import annotations

import base64
import html
import importlib
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.lecture.claim import FAILS, HOLDS, NAMES, UNDECIDED, folder, read, shown, table

MARKS = {HOLDS: ("✓", "holds"), FAILS: ("✗", "fails"), UNDECIDED: ("?", "quiet")}  # a sign and a colour of STYLE

STYLE = """
:root { color-scheme: light dark; --text: #111; --back: #fff; --line: #ddd; --link: #0a4f9e;
  --holds: #00664b; --fails: #a34700; --quiet: #555; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e6e6; --back: #16181d; --line: #3a3d45; --link: #8ab8ff;
  --holds: #4fd1a5; --fails: #ff9d5c; --quiet: #a8a8a8; } }
body { font: 17px/1.5 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; } a { color: var(--link); }
h1 { font-size: 1.9rem; } h2 { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
section { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }
.words { flex: 1 1 24rem; min-width: min(20rem, 100%); }
img { width: 26rem; max-width: 100%; height: auto; background: #fff; }
table { border-collapse: collapse; width: 100%; font-size: 0.85rem; }
td, th { text-align: left; vertical-align: top; padding: 0.3rem 0.6rem 0.3rem 0; border-bottom: 1px solid var(--line); }
td:last-child { white-space: nowrap; } td.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.holds { color: var(--holds); } .fails { color: var(--fails); } .quiet { color: var(--quiet); }
.claim { font-size: 1.1rem; } .small { font-size: 0.8rem; color: var(--quiet); overflow-wrap: anywhere; }
.missing { color: var(--fails); font-weight: bold; }
@media (max-width: 40rem) { td.number { white-space: normal; } td:last-child { white-space: normal; } }
@media print { h2 { break-before: page; } }
"""


def rows(result: dict[str, Any]) -> str:
    """The predictions of a claim as rows of a table."""
    made = []
    for p in result["predictions"].values():
        mark, colour = MARKS[p["verdict"]]
        number = html.escape(shown(p["measured"], p["unit"]))
        verdict = f'<span class="{colour}"><b>{mark}</b> {p["verdict"]}</span>'
        made.append(f'<tr><td>{html.escape(p["words"])}</td><td class="number">{number}</td><td>{verdict}</td></tr>')
    return "\n".join(made)


def part(name: str, result: dict[str, Any] | None, picture: Path) -> str:
    """One claim."""
    if result is None or not picture.exists():
        return f'<h2 id="{name}">{name}</h2><p class="missing">missing: make lecture-{name}</p>'
    data = base64.b64encode(picture.read_bytes()).decode()
    made, title = result["made"], html.escape(result["title"])
    where = made["environment"]
    origin = f"{made['command']} · commit {str(where['commit'])[:12]} · {where['cpu']}, jax {where['jax']}"
    return f"""<h2 id="{name}">{title}</h2>
<section><div class="words"><p class="claim">{html.escape(result["claim"])}</p>
<table><tr><th>prediction, stated beforehand</th><th>measured [95 %]</th><th>verdict</th></tr>
{rows(result)}</table>
<p>{html.escape(importlib.import_module(f"experiments.lecture.{name}").CLAIM.note)}</p>
<p class="small">Intervals: {html.escape(result["intervals"])}.<br>{html.escape(origin)}</p></div>
<img alt="{title}" src="data:image/png;base64,{data}"></section>"""


def build(results: dict[str, dict[str, Any] | None], pictures: Path, full: bool) -> str:
    """The page."""
    counts = [p["verdict"] for r in results.values() if r is not None for p in r["predictions"].values()]
    said = ", ".join(f"{counts.count(verdict)} {word}" for verdict, word in (
        (HOLDS, "hold"), (FAILS, "do not"), (UNDECIDED, "are undecided")
    ))  # fmt: skip
    links = " · ".join(f'<a href="#{name}">{name}</a>' for name in results)
    parts = "\n".join(part(name, result, pictures / f"{name}.png") for name, result in results.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Model-based reinforcement learning, claim by claim</title><style>{STYLE}</style></head><body>
<h1>Model-based reinforcement learning, claim by claim</h1>
<p>{len(counts)} predictions, each a number with a threshold that was written down first: {said}.
{"Full" if full else "Quick"} settings. A prediction holds if the whole interval lies on its side of the threshold, and
is undecided if the threshold lies inside.</p>
<p>{links}</p>
{parts}
</body></html>
"""


def main() -> None:
    """Builds the page, prints the table; exit code 1 if a claim has not been run."""
    full = "--full" in sys.argv[1:]
    results = {name: read(name, full) for name in NAMES}
    path = folder(full).with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(build(results, folder(full), full), encoding="utf-8")
    Console(width=140).print(table(results))
    print("written to", path)
    missing = [
        name for name, result in results.items() if result is None or not (folder(full) / f"{name}.png").exists()
    ]
    if missing:
        sys.exit(f"missing: {', '.join(missing)} (make lecture-NAME{' FULL=1' if full else ''})")


if __name__ == "__main__":
    main()
