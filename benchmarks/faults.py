"""What a run survives: each fault many times over, and what the protection costs. `make faults` (an hour on 2 cores).

    kills      50 kill -9, half of them aimed at a save: the final state and every row bit-equal to a run left alone
    damage     50 flipped bits, 20 truncated files, 10 half-copied steps: all found, the step before restored
    full_disk  a file system too small for the next checkpoint: the older ones stay, nothing is left behind
    sigterm    seconds from SIGTERM to a committed checkpoint and exit 75, on the preset `mbpo` as it is
    refusals   200 bad settings, a process each: exit 2 without a traceback or a directory, and how fast
    overhead   of the flags in the compiled epoch, and of looking at them and saving, as shares of the epoch

    python -m benchmarks.faults [PART ...]

Writes `results/faults.json`; parts that are not named keep what stands there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

RESULT = Path("results/faults.json")
SETTINGS = """
    --world classic/cartpole --seed 4 --env-steps 1000 --explore-steps 40 --epoch-steps 40 --collect-steps 4
    --batch-size 32 --updates-per-step 20 --model.members 3 --model.elites 2 --model.hidden 8 --model.round-steps 5
    --model.max-rounds 3 --rollout.per-step 10 --rollout.groups 4 --rollout.horizon 2 --agent.hidden 8
    --eval-episodes 3 --checkpoint-every 2
"""
TINY = ["train", "mbpo", *SETTINGS.split()]
SMALL = ["train", "mbpo", "--world", "classic/pendulum", "--eval-every", "4", "--checkpoint-every", "20"]


def branchax(*arguments: str) -> list[str]:
    """The command line of a fresh interpreter."""
    return [sys.executable, "-m", "branchax", *arguments]


def start(*arguments: str) -> subprocess.Popen:
    """A command in the background, silent."""
    return subprocess.Popen(branchax(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_until(true: Callable[[], bool], process: subprocess.Popen, nap: float = 0.01) -> None:
    """Returns when `true()` is, or the process has ended."""
    while process.poll() is None and not true():
        time.sleep(nap)


# --- kills ---


def contents(directory: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """The bits of every array of the last checkpoint by name, and the rows without the clock."""
    import jax
    import numpy as np

    from branchax.runs import rundir, runlog
    from branchax.runs.restoring import restore

    _, state = restore(directory, say=print)
    is_key = lambda x: jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    leaves = jax.tree_util.tree_leaves_with_path(state)
    bits = {
        jax.tree_util.keystr(path): np.asarray(jax.random.key_data(x) if is_key(x) else x).tobytes()
        for path, x in leaves
    }
    return bits, [{k: v for k, v in row.items() if k != "wall_s"} for row in runlog.read(directory / rundir.METRICS)]


def saving(directory: Path) -> bool:
    """Whether a step is being written: Orbax has its draft there, or it has no manifest yet."""
    from branchax.runs import checkpoint

    folders = [path for path in directory.glob("checkpoints/*") if path.is_dir()]
    return any("tmp" in p.name or not (p / checkpoint.MANIFEST).exists() for p in folders)


def killed_run(command: list[str], directory: Path, kills: int, rng: random.Random) -> list[str]:
    """Kills the command so many times at random moments, starting it again each time, then lets it end.

    Returns what each kill hit: `saving`, `running` or, before the first row of a process, `starting`.
    """
    hit, row_s = [], 0.3
    while len(hit) < kills:
        rows = directory / "metrics.jsonl"
        process, before = start(*command, "--run", str(directory)), rows.stat().st_size if rows.exists() else 0
        grown = lambda: rows.exists() and rows.stat().st_size > before  # noqa: B023, E731
        wait_until(grown, process)
        if len(hit) % 2:
            for _ in range(rng.randrange(1, 4)):
                wait_until(lambda: not saving(directory), process, 0.001)
                wait_until(lambda: saving(directory), process, 0.001)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 6 * row_s))
        if process.poll() is not None:  # it was faster
            break
        where = "saving" if saving(directory) else "running"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        hit.append(where)
    done = subprocess.run(branchax(*command, "--run", str(directory)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return hit


def kills(work: Path, runs: int = 10, each: int = 5) -> dict[str, Any]:
    """`runs` runs, each killed `each` times, against one that was left alone."""
    subprocess.run(branchax(*TINY, "--run", str(work / "alone")), check=True, stdout=subprocess.DEVNULL)
    alone, hits, equal, rng = contents(work / "alone"), [], 0, random.Random(0)
    for number in range(runs):
        hit = killed_run(TINY, work / f"run_{number}", each, rng)
        same = contents(work / f"run_{number}") == alone
        hits, equal = hits + hit, equal + same * len(hit)
        print(f"run {number}: killed while {', '.join(hit)}: {'equal' if same else 'DIFFERENT'}", flush=True)
    return {"kills": len(hits), "bit_equal": equal, "arrays": len(alone[0]), "rows": len(alone[1])} | {
        where: hits.count(where) for where in sorted(set(hits))
    }


# --- damage ---


def damage(work: Path) -> dict[str, Any]:
    """Breaks copies of a folder with two checkpoints of a tiny run in three ways."""
    from branchax.runs import checkpoint

    subprocess.run(branchax(*TINY, "--run", str(work / "run")), check=True, stdout=subprocess.DEVNULL)
    whole, rng, out = work / "run" / "checkpoints", random.Random(1), {}
    older, newer = checkpoint.steps(whole)

    def flip(path: Path) -> None:
        file = rng.choice([p for p in path.rglob("*") if p.is_file() and p.stat().st_size])
        data = bytearray(file.read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)

    def cut(path: Path) -> None:
        file = rng.choice([p for p in path.rglob("*") if p.is_file() and p.stat().st_size])
        os.truncate(file, rng.randrange(file.stat().st_size))

    def half(path: Path) -> None:
        files = sorted(p for p in path.rglob("*") if p.is_file())
        for file in rng.sample(files, rng.randrange(1, len(files))):
            file.unlink()

    for name, break_it, times in (("flipped_bits", flip, 50), ("truncations", cut, 20), ("half_copies", half, 10)):
        found = 0
        for _ in range(times):
            copy, said = work / "copy", []
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(whole, copy)
            break_it(copy / str(newer))
            found += checkpoint.newest(copy, said.append) == older and len(said) == 1
        out[name] = {"times": times, "found_and_fell_back": found}
    return out


# --- a full disk ---

SAVE_UNTIL_FULL = """
import sys, pathlib, jax.numpy as jnp, jax
from branchax.runs import checkpoint
folder = pathlib.Path(sys.argv[1])
for step in range(1, 9):
    checkpoint.save(folder, step, {"x": jax.random.normal(jax.random.key(step), (step * 250_000,))}, {})
"""


def full_disk(work: Path) -> dict[str, Any]:
    """Saves growing checkpoints until one does not fit: on a tmpfs of 6 MB, or where that is not allowed with a limit
    on the size of files."""
    from branchax.runs import checkpoint

    folder = work / "disk"
    folder.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True).returncode
        == 0
    )
    limit = None if mounted else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000))
    try:
        done = subprocess.run(
            [sys.executable, "-c", SAVE_UNTIL_FULL, str(folder)],
            capture_output=True,
            text=True,
            preexec_fn=limit,
            check=False,
        )
        left = sorted(path.name for path in folder.iterdir())
        steps = checkpoint.steps(folder)
        sound = [step for step in steps if not checkpoint.problem(folder, step)]
        last = done.stderr.strip().splitlines()[-1] if done.stderr else ""
        return {
            "by": "a tmpfs of 6 MB" if mounted else "RLIMIT_FSIZE",
            "steps_left": steps,
            "sound": len(sound),
            "other_files_left": [name for name in left if not name.isdecimal()],
            "said": last.replace(str(work), "..."),
        }
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


# --- SIGTERM ---


def sigterm(work: Path, times: int = 7) -> dict[str, Any]:
    """Sends SIGTERM at a random moment after an epoch of `mbpo` on classic/pendulum, and goes on with the same command.

    The seconds are those until the process has ended.
    """
    from branchax.runs import rundir

    directory, rng, seconds, codes, states = work / "run", random.Random(2), [], [], []
    for _ in range(times):
        rows = directory / "metrics.jsonl"
        before = max(rows.read_text().count("\n"), 1) if rows.exists() else 1  # the first is of no epoch
        process = start(*SMALL, "--run", str(directory))
        wait_until(lambda: rows.exists() and rows.read_text().count("\n") > before, process)  # noqa: B023
        time.sleep(rng.uniform(0, 4))
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        process.communicate()
        if rundir.is_done(directory):  # before the signal came
            break
        seconds.append(round(time.perf_counter() - began, 2))
        codes.append(process.returncode)
        states.append({k: rundir.status(directory)[k] for k in ("state", "last_good_step")})
        print(f"SIGTERM: exit {codes[-1]} after {seconds[-1]} s", flush=True)
    return {"seconds": seconds, "exit_codes": codes, "status": states, "command": SMALL}


# --- bad settings ---


def fields(config: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """`(flag, type hint, value)` of every setting."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), f"{path}{f.name}"
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{name}.")
        else:
            yield name, hints[f.name], value


CROSSED = (  # each breaks a rule between fields, on the preset `mbpo`
    ["--model.elites", "9"],
    ["--rollout.horizon", "0"],
    ["--explore-steps", "999999"],
    ["--collect-steps", "7"],
    ["--parallel-worlds", "3"],
    ["--updates-per-step", "0.3"],
    ["--rollout.horizon-end", "3"],
    ["--real-fraction", "1"],
    ["--replay-capacity", "5"],
    ["--agent.critic.subset", "9"],
    ["--rollout.gate", "rank", "--model.kind", "oracle"],
    ["--seed", "2147483647", "--seeds", "2"],
    ["--backend", "sprng"],
    ["--world", "classic/acrobot", "--agent.through-model"],
)


def bad_arguments(rng: random.Random, folder: Path) -> list[str]:
    """A `branchax train` command that cannot work: out of range, of another type, misspelt, at odds with others, or a
    settings file (written into `folder`) that is broken in one of these ways."""
    from branchax.config import Range, to_dict
    from branchax.presets import PRESETS

    def wrong(hint: Any, of_json: bool) -> Any:
        limits = next((m for m in getattr(hint, "__metadata__", ()) if isinstance(m, Range)), None)
        text = ["", "many", "1e999", "nan", "[]", "0x"] if not of_json else ["many", None, [], {}, [[1]], 1e400, True]
        base = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        options = typing.get_args(base) or (base,)
        if (
            typing.get_origin(base) is typing.Literal
            or base in (str, bool)
            or str in options
            or typing.get_origin(base) is tuple
        ):
            return {} if of_json else rng.choice(["maybe", "0.5.1"])
        low, high = (limits.low, limits.high) if limits else (None, None)
        beyond = [
            x for x in (None if low is None else low - 1, None if high is None else high * 2 + 1) if x is not None
        ]
        beyond = [int(x) if int in options else x for x in beyond]
        chosen = rng.choice([*beyond, *(x for x in text if not (x is None and type(None) in options))])
        return chosen if of_json else str(chosen)

    config = PRESETS["mbpo"]
    # A flag that only switches takes no value, and these two are names that only the machine can judge.
    settings = [x for x in fields(config) if x[0] not in ("dataset", "world") and not isinstance(x[2], bool)]
    name, hint, _ = rng.choice(settings)
    flag = f"--{name}".replace("_", "-")
    kind = rng.choice(("value", "value", "typo", "crossed", "world", "preset", "file", "file"))
    if kind == "value":
        return ["train", "mbpo", f"{flag}={wrong(hint, of_json=False)}"]
    if kind == "typo":
        place = rng.randrange(3, len(flag))
        return ["train", "mbpo", f"{flag[:place]}{rng.choice('qxz')}{flag[place:]}", "1"]
    if kind == "crossed":
        return ["train", "mbpo", *rng.choice(CROSSED)]
    if kind == "world":
        return [
            "train",
            "mbpo",
            "--world",
            rng.choice(["", "brax", "brax/hoper", "classic/", "gym/NoSuch-v0", "nowhere:at_all", "../x"]),
        ]
    if kind == "preset":
        return ["train", rng.choice(["mbop", "", "MBPO", "sac2", "./mbpo"])]
    data = to_dict(config)
    inner, *parents = reversed(name.split("."))
    node = data
    for parent in reversed(parents):
        node = node[parent]
    if rng.random() < 0.3:
        node[inner + "x"] = node.pop(inner)
    else:
        node[inner] = wrong(hint, of_json=True)
    text = json.dumps(data)
    if rng.random() < 0.3:
        text = rng.choice(
            [text[: rng.randrange(len(text) - 1)], "[" * 100_000, "null", "[]", '"x"', "\x00", "{'a': 1}"]
        )
    path = folder / "settings.json"
    path.write_text(text)
    return ["train", "--config", str(path)]


def refusals(work: Path, times: int = 200) -> dict[str, Any]:
    """Runs bad commands in an empty directory, a process each."""
    rng, good, seconds, failures = random.Random(3), 0, [], []
    for _ in range(times):
        arguments, empty = bad_arguments(rng, work), work / "here"
        empty.mkdir(exist_ok=True)
        before = os.times()
        done = subprocess.run(branchax(*arguments), capture_output=True, text=True, cwd=empty, check=False)
        after = os.times()
        seconds.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if done.returncode == 2 and "Traceback" not in done.stderr and not any(empty.iterdir()):
            good += 1
        else:
            failures.append([*arguments, done.returncode, done.stderr[-300:]])
    return {
        "times": times,
        "refused_well": good,
        "failures": failures,
        "processor_s_median": round(statistics.median(seconds), 3),
        "processor_s_max": round(max(seconds), 3),
    }


# --- overhead ---


def overhead(work: Path, rounds: int = 12) -> dict[str, Any]:
    """The epoch of `mbpo` on classic/pendulum with and without its flags, in turn, from the same states; and what the
    host does about them and for checkpoints between two epochs. Medians."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from branchax.build import build
    from branchax.config import to_dict
    from branchax.devices import cache
    from branchax.epoch import collect
    from branchax.epoch.state import copy_state
    from branchax.presets import preset
    from branchax.runs import checkpoint, faults, rundir, runlog
    from branchax.runs.compiling import seed_keys
    from branchax.sharding import over_seeds

    cache.enable()
    config = preset("mbpo", "classic/pendulum")
    program = build(config)

    def bare(state: Any, horizon: Any) -> Any:
        state, report = program.epoch(state, horizon)
        return state, report.metrics

    keys, horizon = seed_keys(config), jnp.int32(1)
    state = jax.jit(over_seeds(program.init))(keys)
    compiled, flags = {}, collect.first_fault
    for name, function in (("with", program.epoch), ("without", bare)):
        collect.first_fault = flags if name == "with" else lambda fault, *_: fault
        compiled[name] = jax.jit(over_seeds(function, (0, None))).lower(state, horizon).compile()
    collect.first_fault = flags
    seconds: dict[str, list[float]] = {name: [] for name in ("with", "without", "look", "save", "log", "copy")}
    jax.block_until_ready(copy_state(state))  # compiled before it is timed

    def timed(name: str, function: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        out = jax.block_until_ready(function())
        seconds[name].append(time.perf_counter() - began)
        return out

    log = runlog.Log(work / "metrics.jsonl")
    for number in range(rounds):
        timed("copy", lambda: copy_state(state))  # noqa: B023
        order = ("with", "without") if number % 2 else ("without", "with")
        outs = {name: timed(name, lambda: compiled[name](state, horizon)) for name in order}  # noqa: B023
        state, report = outs["with"]
        fault, health = jax.tree.map(np.asarray, (state.fault, report.health))
        timed("look", lambda: faults.find(config, fault, health))  # noqa: B023
        timed("log", lambda: (log.sync(), rundir.write_status(work, "running", 0)))
        note = {"config": to_dict(config)}
        timed("save", lambda: checkpoint.save(work / "checkpoints", number, state, note))  # noqa: B023
    median = {name: statistics.median(x) for name, x in seconds.items()}
    ratios = [a / b - 1 for a, b in zip(seconds["with"], seconds["without"], strict=True)]
    between = median["look"] + median["copy"] + (median["save"] + median["log"]) / config.checkpoint_every
    return {
        "median_s": {name: round(x, 4) for name, x in median.items()},
        "flags_share": round(statistics.median(ratios), 4),
        "host_share": round(between / median["with"], 4),
        "rounds": rounds,
        "checkpoint_every": config.checkpoint_every,
        "load_average": round(os.getloadavg()[0], 1),
    }


PARTS = {f.__name__: f for f in (kills, damage, full_disk, sigterm, refusals, overhead)}


def main() -> None:
    """Runs the parts that are named, or all, and writes `results/faults.json`."""
    from branchax.runs import rundir

    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in sys.argv[1:] or PARTS:
        with tempfile.TemporaryDirectory() as work:
            began = time.perf_counter()
            found = PARTS[name](Path(work))
            known[name] = {
                **found,
                "wall_s": round(time.perf_counter() - began),
                "commit": rundir.environment()["commit"],
            }
        print(name, json.dumps(known[name]), flush=True)
        known["made"] = {"command": "python -m benchmarks.faults", "environment": rundir.environment()}
        rundir.write_json(RESULT, known)


if __name__ == "__main__":
    main()
