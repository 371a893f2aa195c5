"""Builds the wheel and the sdist, and tries the wheel as a stranger would: a clean environment, outside the checkout.

`make dist-check` (PYTHON= names the Python to try it with). The packages are the newest that the wheel allows, not
those of constraints.txt. Prints a line per step with its seconds; the first step that fails ends it with its output.
"""

import argparse
import email
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAIN = "train sac --world classic/pendulum --env-steps 600 --explore-steps 100 --epoch-steps 50 --checkpoint-every 1"
OWN = (
    "train v2.5 --world own_world:world --agent own_agent:make_search --model own_model:make_dynamics --env-steps 300"
    " --explore-steps 100 --epoch-steps 20 --collect-steps 20 --updates-per-step 0.1 --rollout.horizon 5"
    " --rollout.per-update 12 --model.members 2 --model.elites 2 --model.hidden 8 --model.max-rounds 2"
    " --eval-episodes 2 --checkpoint-every 1"
)
SAME = """
import jax, numpy, pathlib
from branchax.runs.restoring import restore
def leaves(run):
    plain = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [numpy.asarray(plain(x)) for x in jax.tree.leaves(restore(pathlib.Path(run))[1])]
killed, whole = leaves("own"), leaves("whole")
assert len(killed) == len(whole) and all((a.tobytes() == b.tobytes()) for a, b in zip(killed, whole)), "not bit-equal"
"""
VERSIONS = """
import sys, jax, numpy
print(f"Python {sys.version.partition(' ')[0]}, jax {jax.__version__}, numpy {numpy.__version__}")
"""
NUMPY = """
import sys, numpy
from policy import load
action = load()(numpy.zeros((2, 3), numpy.float32))
assert action.shape == (2, 1) and numpy.isfinite(action).all(), action
assert not {"branchax", "jax"} & set(sys.modules), "not NumPy alone"
"""
PRETRAINED = """
import branchax, numpy
from branchax import pretrained
print(*pretrained.names())
assert branchax.load("pendulum").policy(numpy.zeros(3)).shape == (1,)
"""
SMALL = "--updates-per-step 1 --batch-size 32 --agent.hidden 16 --eval-episodes 2"


def check(python: str) -> None:
    """Every step in turn, with the interpreter called `python` for the clean environment."""
    with tempfile.TemporaryDirectory(prefix="branchax-dist-") as name:
        place = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(place / "cache")  # what a stranger has compiled: nothing
        os.environ.pop("PYTHONPATH", None)
        step("build", [sys.executable, "-m", "build", "--outdir", place / "dist", ROOT], place)
        (wheel,), (sdist,) = (list((place / "dist").glob(ending)) for ending in ("*.whl", "*.tar.gz"))
        version = contents(wheel, sdist)
        step("environment", [python, "-m", "venv", place / "env"], place)
        programs = place / "env" / "bin"
        step("install", [programs / "pip", "install", "--quiet", "--disable-pip-version-check", wheel], place)
        said = step("--version", [programs / "branchax", "--version"], place)
        where = step("import", [programs / "python", "-c", "import branchax; print(branchax.__file__)"], place)
        if said.strip() != version or not where.startswith(str(place)):
            sys.exit(
                f"dist-check: branchax {said.strip()} at {where.strip()}, where {version} of the wheel was expected"
            )
        print(step("versions", [programs / "python", "-c", VERSIONS], place), end="")
        step("list", [programs / "branchax", "list"], place)
        train_killed([programs / "branchax", *TRAIN.split(), *SMALL.split(), "--run", "run"], place)
        step("resume", [programs / "branchax", "resume", "run"], place)
        step("evaluate", [programs / "branchax", "evaluate", "run", "--episodes", "2"], place)
        step("report", [programs / "branchax", "report", "run"], place)
        pages = list((place / "run").rglob("*.html"))
        if not pages:
            sys.exit("dist-check: `branchax report` wrote no page")
        take_away(programs, place)
        own_parts(programs, place)


def take_away(programs: Path, place: Path) -> None:
    """The finished run beside others, its policy in NumPy alone, and the policies that come with the library."""
    branchax, python = programs / "branchax", programs / "python"
    step("runs", [branchax, "runs", "."], place)
    step("plot", [branchax, "plot", "run"], place)
    step("export", [branchax, "export", "run"], place)
    step("in NumPy", [python, "-c", NUMPY], place / "run" / "policy")
    step("render", [branchax, "render", "run", "--steps", "10"], place)
    names = step("pretrained", [python, "-c", PRETRAINED], place).split()
    kept = sorted(folder.name for folder in (ROOT / "src" / "branchax" / "pretrained").iterdir() if folder.is_dir())
    if names != [name for name in kept if not name.startswith("_")]:
        sys.exit(f"dist-check: the wheel has the policies {names}")
    step("play", [branchax, "play", "pendulum", "--out", "play.html"], place)


def own_parts(programs: Path, place: Path) -> None:
    """An agent, a model and a world in files of one's own: from a shell, killed and resumed; then from Python."""
    for file in (ROOT / "examples").glob("own_*.py"):
        (place / file.name).write_text(file.read_text())
    branchax = programs / "branchax"
    train_killed([branchax, *OWN.split(), "--run", "own"], place, "own parts, killed")
    step("resume", [branchax, "resume", "own"], place)
    step("left alone", [branchax, *OWN.split(), "--run", "whole"], place)
    step("bit-equal", [programs / "python", "-c", SAME], place)
    step("report", [branchax, "report", "own"], place)
    step("from Python", [programs / "python", "own_agent.py"], place)


def contents(wheel: Path, sdist: Path) -> str:
    """The version that the wheel says; what has to be in both is there, or the program ends."""
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as source:
        packed = archive.namelist()
        needed = {
            str(file.relative_to(ROOT / "src")) for file in (ROOT / "src" / "branchax").rglob("*") if counts(file)
        }
        missing = needed - set(packed) | {f"src/{file}" for file in needed if not packs(source, f"src/{file}")}
        if missing or "branchax/py.typed" not in packed:
            sys.exit(f"dist-check: left out of the wheel or the sdist: {', '.join(sorted(missing)) or 'py.typed'}")
        (metadata,) = (file for file in packed if file.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(metadata))["Version"]


def counts(file: Path) -> bool:
    """Is it a file of the package, rather than one that Python keeps beside them?"""
    return file.is_file() and "__pycache__" not in file.parts


def packs(source: tarfile.TarFile, file: str) -> bool:
    """Does the sdist have it, below its one folder?"""
    return f"{source.getnames()[0].partition('/')[0]}/{file}" in source.getnames()


def step(name: str, command: list[str | Path], place: Path) -> str:
    """What the command prints, run in `place`; its time goes to the terminal, and a failure ends the program."""
    begun = time.monotonic()
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\ndist-check: {name} failed (exit code {done.returncode})")
    tell(name, begun)
    return done.stdout


def train_killed(command: list[str | Path], place: Path, name: str = "train, killed") -> None:
    """Trains until a checkpoint is there, and kills it so that nothing of it can clear up."""
    begun = time.monotonic()
    with (place / "train.txt").open("w+") as output:
        child = subprocess.Popen(command, cwd=place, stdout=output, stderr=output)
        saved = place / command[-1] / "checkpoints"
        while child.poll() is None and not any(x.name.isdigit() for x in saved.glob("*")):
            if time.monotonic() - begun > 900:
                child.kill()
                sys.exit("dist-check: no checkpoint after 900 s of training")
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        if child.wait() != -signal.SIGKILL:
            output.seek(0)
            sys.exit(f"{output.read()}\ndist-check: training ended by itself (exit code {child.returncode})")
    tell(name, begun)


def tell(name: str, begun: float) -> None:
    """A line with a step's seconds."""
    print(f"{name:18} {time.monotonic() - begun:6.1f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the Python of the clean environment")
    begun = time.monotonic()
    check(parser.parse_args().python)
    tell("all", begun)
