"""One page of all claims, built from their results alone: self-contained, opens offline.

python -m experiments.lecture.page           # runs/lecture.html, from quick results
python -m experiments.lecture.page --full    # results/lecture.html
"""

from __future__ import annotations

import base64
import html
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.lecture.claim import (
    FAILS,
    HOLDS,
    NOT_RUN,
    TOO_FEW,
    UNDECIDED,
    VERDICTS,
    folder,
    known,
    read,
    shown,
    table,
    verdict,
)
from experiments.lecture.predictions import CLAIMS, DESIGN, LEAST, REPORTED, Claim

# What full results mean for who picks a method; docs/lecture.md has the same sentences.
MEANING = {
    "estimators": "On short rollouts go back through the model; on long ones do not.",
    "jacobians": "Where the gradient explodes, a learned model can make it worse.",
    "compounding": "The law gives the order of magnitude for tens of steps. Shorter rollouts buy more than more data "
    "does.",
    "horizon": "Start at replayed states; the length matters less.",
    "mismatch": "Improve off-policy on branched rollouts; a tight budget did not help PPO.",
    "versions": "Begin with short branched rollouts.",
    "oracle": "A better model helps long rollouts; gradients back through them stay far from a solution even with a "
    "perfect one.",
    "compute": "Some samples are needed; beyond that the model's errors decide, and more compute buys nothing.",
    "data": "Imagine ten rollouts of ten steps per real step; more only costs time. Between none and half, the share "
    "of real rows matters little.",
}

MARKS = {HOLDS: ("✓", "holds"), FAILS: ("✗", "fails"), UNDECIDED: ("?", "quiet")}  # a sign, a colour of STYLE
MARKS |= {TOO_FEW: ("–", "quiet"), NOT_RUN: ("○", "missing")}

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


def rows(claim: Claim, result: dict[str, Any]) -> str:
    """The predictions of a claim as rows of a table."""
    made = []
    for p, measured in zip(claim.predictions.values(), known(claim, result).values(), strict=True):
        said = verdict(p, measured)
        mark, colour = MARKS[said]
        number = html.escape(shown(measured, p.unit))
        words = html.escape(p.words) + (f' <span class="quiet">° {html.escape(p.sure)}</span>' if p.sure else "")
        shown_verdict = f'<span class="{colour}"><b>{mark}</b> {said}</span>'
        made.append(f'<tr><td>{words}</td><td class="number">{number}</td><td>{shown_verdict}</td></tr>')
    return "\n".join(made)


def part(claim: Claim, result: dict[str, Any], picture: Path, meaning: str) -> str:
    """One claim; `meaning` is "" where its results are not full ones."""
    title, origin, image = html.escape(claim.title), "", ""
    if result:
        made, where = result["made"], result["made"]["environment"]
        origin = f"{made['command']} · commit {str(where['commit'])[:12]} · {where['cpu']}, jax {where['jax']}"
    if "data" in result and picture.exists():
        data = base64.b64encode(picture.read_bytes()).decode()
        image = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    else:
        origin = f"not complete yet: make lecture-{claim.name}. {origin}"
    return f"""<h2 id="{claim.name}">{title}</h2>
<section><div class="words"><p class="claim">{html.escape(claim.words)}</p>
<table><tr><th>prediction, stated beforehand</th><th>measured [95 %]</th><th>verdict</th></tr>
{rows(claim, result)}</table>
<p>{html.escape(claim.note)}</p>
<p><b>{html.escape(meaning)}</b></p>
<p class="small">Intervals: {html.escape(claim.intervals)}.<br>{html.escape(origin)}</p></div>
{image}</section>"""


def counted(results: dict[str, dict[str, Any]]) -> str:
    """How many predictions there are, how many could hardly have failed, and the verdicts of both kinds."""
    every = [
        (p, verdict(p, m))
        for name, result in results.items()
        for p, m in zip(CLAIMS[name].predictions.values(), known(CLAIMS[name], result).values(), strict=True)
    ]

    def said(of: list[str]) -> str:
        return ", ".join(f"{of.count(v)} {word}" for v, word in VERDICTS.items() if v in of)

    sure = [v for p, v in every if p.sure]
    return (
        f"{len(every)} predictions, each a number with a threshold that was written down first. {len(sure)} of them "
        f"could hardly have failed (°: {said(sure)}). Of the other {len(every) - len(sure)}: "
        f"{said([v for p, v in every if not p.sure])}."
    )


def build(results: dict[str, dict[str, Any]], pictures: Path, full: bool) -> str:
    """The page."""
    links = " · ".join(f'<a href="#{name}">{name}</a>' for name in results)
    parts = "\n".join(
        part(CLAIMS[name], result, pictures / f"{name}.png", MEANING[name] if full and "data" in result else "")
        for name, result in results.items()
    )
    settings = f"Full settings, seeds from {REPORTED} on" if full else "Quick settings, seeds of development"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Model-based reinforcement learning, claim by claim</title><style>{STYLE}</style></head><body>
<h1>Model-based reinforcement learning, claim by claim</h1>
<p>{counted(results)}</p>
<p>{settings}, design {DESIGN}. A prediction holds if the whole interval lies on its side of the threshold, and is
undecided if the threshold lies inside; of fewer than {LEAST} seeds, models or blocks there is no verdict. A number
just at its threshold would get a verdict by chance in 5 to 8 of 100 cases (simulated: ten pairs of seeds).</p>
<p>{links}</p>
{parts}
</body></html>
"""


def main() -> None:
    """Builds the page, prints the table; exit code 1 if a claim has not been run."""
    full = "--full" in sys.argv[1:]
    results = {name: read(name, full) for name in CLAIMS}
    path = folder(full).with_suffix(".html")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(build(results, folder(full), full), encoding="utf-8")
    Console(width=140).print(table(results))
    print(counted(results))
    print("written to", path)
    missing = [name for name, r in results.items() if "data" not in r or not (folder(full) / f"{name}.png").exists()]
    if missing:
        sys.exit(f"not complete: {', '.join(missing)} (make lecture-NAME{' FULL=1' if full else ''})")


if __name__ == "__main__":
    main()
