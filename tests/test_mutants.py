"""The list of faults fits the code as it is, and its driver tells what is killed from what survives."""

import ast
import functools
import json
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import Mutant, attempt, copy_of, digest, read, run, stale

ROOT = Path(__file__).parents[1]


def test_every_fault_can_be_put_in_and_is_guarded_by_tests_that_exist():
    listed = read()
    assert len(listed) >= 100
    wrong = [why for m in listed if (why := stale(m))]
    assert not wrong, "mend benchmarks/mutants.toml: " + "; ".join(wrong)
    for m in listed:
        text = (ROOT / m.file).read_text(encoding="utf-8")
        if m.file.endswith(".py"):
            ast.parse(text.replace(m.old, m.new))  # a fault that does not parse would be killed by anything
        assert m.tests and m.reason, m.name()
        for test in m.tests:
            file, _, function = test.partition("::")
            slow = are_slow(file).get(function.partition("[")[0])
            assert slow is not None, f"{m.name()}: {test} does not exist"
            assert not slow, f"{m.name()}: {test} is slow, and no gate runs slow tests"


@functools.cache
def are_slow(file):
    """Of each test in a file, by its name, whether it or the whole file is marked as slow."""
    nodes = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    whole = "pytestmark = pytest.mark.slow" in map(ast.unparse, nodes)
    return {f.name: whole or "pytest.mark.slow" in map(ast.unparse, f.decorator_list) for f in functions}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A tree of one module and two tests of it."""
    monkeypatch.setattr(mutants.rundir, "environment", dict)  # asks for devices, which takes seconds
    for folder in ("src", "tests"):
        (tmp_path / folder).mkdir()
    (tmp_path / "src" / "sums.py").write_text("def add(a, b):\n    return a + b\n\n\ndef half(a):\n    return a / 2\n")
    tests = "from sums import add, half\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    tests += "\n\ndef test_half():\n    assert half(0) == 0\n"
    (tmp_path / "tests" / "test_sums.py").write_text(tests)
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['slow: long']\n")
    return tmp_path


KILLED = Mutant("src/sums.py", "a + b", "a - b", ("tests/test_sums.py::test_add",), "a sign")
SURVIVES = Mutant("src/sums.py", "a / 2", "a / 3", ("tests/test_sums.py::test_half",), "a factor, at zero")
STALE = Mutant("src/sums.py", "return a", "return b", ("tests/test_sums.py::test_add",), "stands there twice")


def test_the_driver_says_what_is_killed_and_goes_on_where_it_was(tree, monkeypatch):
    result = tree / "results" / "mutants.json"
    found = run([KILLED, SURVIVES, STALE], [], False, tree, result)
    assert [found[m.name()]["outcome"] for m in (KILLED, SURVIVES, STALE)] == ["killed", "survived", "stale"]
    assert "test_add" in found[KILLED.name()]["by"] and "2 times" in found[STALE.name()]["by"]
    assert "a + b" in (tree / "src" / "sums.py").read_text()  # the tree itself is left alone
    tried = []
    monkeypatch.setattr(mutants, "passes", lambda *a: ("passed", ""))
    monkeypatch.setattr(
        mutants, "attempt", lambda m, copy: tried.append(m) or {"outcome": "killed", "by": "", "seconds": 0}
    )
    run([KILLED, SURVIVES], [], False, tree, result)
    assert tried == []  # nothing has changed
    run([KILLED, SURVIVES], ["factor"], True, tree, result)
    assert tried == [SURVIVES]
    text = (tree / "tests" / "test_sums.py").read_text()
    (tree / "tests" / "test_sums.py").write_text(text + "\n# more\n")
    before = digest(KILLED, tree)
    run([KILLED, SURVIVES], ["factor"], False, tree, result)
    assert tried == [SURVIVES, SURVIVES]
    counts = json.loads(result.read_text())["counts"]
    assert counts == {"killed": 1, "survived": 0, "stale": 0, "outdated": 1, "not run": 0}
    run([KILLED, SURVIVES], [], False, tree, result)
    assert tried == [SURVIVES, SURVIVES, KILLED] and before == digest(KILLED, tree)


def test_tests_that_do_not_end_kill_and_tests_that_fail_anyway_stop_it(tree):
    endless = KILLED._replace(new="a + b if b < 0 else add(a, b - 0) if not __import__('time').sleep(60) else 0")
    with copy_of(tree) as copy:
        out = attempt(endless, copy, timeout=3)
        assert out["outcome"] == "killed" and "3 s" in out["by"]
    broken = SURVIVES._replace(tests=("tests/test_sums.py::test_missing",))
    with pytest.raises(SystemExit, match="already fail"):
        run([broken], [], False, tree, tree / "mutants.json")


def test_two_faults_that_are_one_are_refused(tmp_path):
    one = '[[mutant]]\nfile = "a.py"\nold = "x"\nnew = "y"\ntests = ["t"]\nreason = "r"\n'
    (tmp_path / "list.toml").write_text(one * 2)
    with pytest.raises(ValueError, match="twice"):
        read(tmp_path / "list.toml")
    (tmp_path / "list.toml").write_text(one.replace('"y"', '"x"'))
    with pytest.raises(ValueError, match="nothing is changed"):
        read(tmp_path / "list.toml")
