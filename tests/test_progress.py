"""The display of a run: what is live on a terminal, how wide it is, and the plain lines otherwise."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from branchax.config import Config
from branchax.runs import rundir, runlog
from branchax.runs.progress import BAR, LEVELS, TREND, Progress, fallen, number, sparkline

CONFIG = Config(world="classic/pendulum", env_steps=100_000)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


def row(env_steps, mean=None, **more):
    scores = {} if mean is None else {runlog.RETURN: mean, runlog.RETURN_SPREAD: 1.0, runlog.LENGTH: 200.0}
    return {
        "seed": 0,
        "env_steps": env_steps,
        "wall_s": 1.0,
        "horizon": 5,
        runlog.MODEL_ERROR: 0.0123,
        **scores,
        **more,
    }


def shown(view, width=80):
    """The live lines as a terminal of a width has them."""
    console = Console(width=width, file=io.StringIO(), soft_wrap=True)
    with console.capture() as capture:
        console.print(view._lines())
    return [line.rstrip() for line in capture.get().splitlines()]


@pytest.fixture
def view():
    clock = Clock()
    file = io.StringIO()
    return Progress(CONFIG, Console(width=80, file=file, highlight=False, soft_wrap=True), clock), clock, file


def test_before_training_it_says_what_is_being_done_and_for_how_long(view):
    view, clock, _ = view
    view.phase("building classic/pendulum")
    clock.seconds += 65
    (line,) = shown(view)
    assert line.endswith("building classic/pendulum 1:05")
    view.compiling("epoch")
    clock.seconds += 7
    assert shown(view)[0].endswith("compiling epoch 0:07")
    view.advanced([row(250, -100.0)])  # after exploring: at a speed that says nothing of training's
    assert shown(view)[0].endswith("250/100,000 env steps")


def test_what_is_compiled_has_a_clock_in_every_phase(view):
    view, clock, _ = view
    view.began(250)
    view.advanced([row(250, -1200.0)])
    view.phase("evaluating")
    view.compiling("epoch")
    clock.seconds += 67
    assert " compiling epoch 1:07 " in shown(view)[0] and "250/100,000 env steps" in shown(view)[0]
    view.compiled("epoch", 67.0)
    assert "1:07" not in shown(view)[0]


@pytest.mark.parametrize(
    ("value", "text"), [(2.5e-7, "2.5e-07"), (-0.0123, "-0.0123"), (-1034.56, "-1034.6"), (3.14159e21, "3.1416e+21")]
)
def test_numbers_of_any_units_keep_digits(value, text):
    assert number(value) == text


def test_live_lines_hold_phase_steps_time_left_speed_return_with_trend_error_and_horizon(view):
    view, clock, _ = view
    view.phase("training")
    view.began(0)
    for epoch, mean in enumerate([-200.0, 0.0, -100.0], start=1):
        clock.seconds += 10
        view.advanced([row(10_000 * epoch, mean)])
    clock.seconds += 5  # 70,000 steps at 1,000 a second are left, and 5 seconds are over
    work, found = shown(view)
    assert work[2:] == f"training {'━' * 3}{'╌' * (BAR - 3)} 30,000/100,000 env steps · 1:05 left · 1,000 steps/s"
    assert found.strip() == f"return -100.0 {LEVELS[0]}{LEVELS[7]}{LEVELS[4]} · model error 0.0123 · horizon 5"


def test_at_its_widest_it_fits_80_columns_and_a_narrow_terminal_cuts_the_end_off(view):
    view, clock, _ = view
    view.phase("evaluating")
    view.began(0)
    for i in range(2 * TREND):
        clock.seconds += 60
        view.advanced([row(95_000 + i, -1234.5 - i)])
    lines = shown(view)
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    assert (
        len(sparkline(view._returns[""])) == TREND and lines[0].endswith("steps/s") and lines[1].endswith("horizon 5")
    )
    assert all(len(line) <= 40 and line.endswith("…") for line in shown(view, 40))


def test_of_several_runs_each_has_its_own_trend_and_a_run_without_a_model_neither_error_nor_horizon(view):
    view, clock, _ = view
    view.began(0)
    for i in range(3):
        clock.seconds += 1
        view.advanced([row(100 * i, 1.0 * i)], "a")
        view.advanced([row(100 * i, 5.0, horizon=0, **{runlog.MODEL_ERROR: None})], "b")
    assert shown(view)[1].strip() == f"return 5 {LEVELS[0] * 3}"
    clock.seconds += 1
    view.advanced([row(300, 3.0)], "a")
    assert f"return 3 {LEVELS[0]}{LEVELS[2]}{LEVELS[5]}{LEVELS[7]} " in shown(view)[1]


def test_plain_lines_where_there_is_no_terminal(view):
    view, _, file = view
    with view:
        view.advanced([row(20_000, -100.0)])
        view.advanced([row(30_000)])  # not evaluated
        view.advanced([row(40_000, -50.0)])
    lines = file.getvalue().splitlines()
    assert (
        len(lines) == 4
        and all(len(line) <= 80 for line in lines)
        and lines[1].split()[:3] == ["env", "steps", "horizon"]
    )
    assert [line.split()[:5] for line in lines[2:]] == [
        ["20,000", "5", "-100.0", "±", "1"],
        ["40,000", "5", "-50", "±", "1"],
    ]
    assert "\x1b" not in file.getvalue() and "━" not in file.getvalue()


def test_on_a_terminal_the_live_lines_are_gone_in_the_end():
    file = io.StringIO()
    with Progress(CONFIG, Console(width=80, file=file, force_terminal=True)) as view:
        view.advanced([row(20_000, -100.0)])
        view._live.refresh()
    text = file.getvalue()
    assert "20,000/100,000" in text and text.rindex("\x1b[2K") > text.rindex("20,000/100,000")


def test_sparkline():
    assert sparkline([]) == "" and sparkline([3.0, 3.0]) == LEVELS[0] * 2
    assert sparkline([0.0, np.nan, 7.0, 3.0]) == f"{LEVELS[0]}×{LEVELS[7]}{LEVELS[3]}"
    assert sparkline([np.nan]) == "×"


def test_offline_steps_are_called_so():
    view = Progress(replace(CONFIG, dataset="data.npz"), Console(width=80, file=io.StringIO()))
    view.advanced([row(0, **{runlog.OFFLINE: 500})])
    assert "500/100,000 offline" in shown(view)[0]


def test_in_a_notebook_it_is_plain_text(monkeypatch, capsys):
    """Jupyter's kernel forces colours, and rich would make an output of its own of each line."""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(CONFIG) as view:
        view.say("into runs/first", "bold")
    assert capsys.readouterr().out == "into runs/first\n"


def test_a_last_evaluation_that_is_much_worse_than_the_best_is_told():
    assert fallen([]) is None
    assert fallen([(100, 20.0)]) is None
    assert fallen([(100, 20.0), (200, 1000.0), (300, 1000.0), (400, 950.0)]) is None  # within a tenth of the range
    assert fallen([(100, 20.0), (200, 1000.0), (300, 1000.0), (400, 150.0)]) == (300, 1000.0)
    assert fallen([(100, -900.0), (200, -150.0), (300, -800.0)]) == (200, -150.0)
    assert fallen([(100, float("nan"))]) is None


@pytest.mark.parametrize("kept", [False, True])
def test_the_end_of_a_run_says_how_to_get_at_the_better_checkpoint(kept, tmp_path, monkeypatch):
    from branchax.runs import checkpoint, train

    told = []
    rows = [row(n, mean, epoch=n // 100) for n, mean in ((100, 20.0), (200, 1000.0), (300, 150.0))]
    (tmp_path / rundir.METRICS).write_text("".join(json.dumps(r) + "\n" for r in rows))
    monkeypatch.setattr(checkpoint, "steps", lambda directory: [200, 300] if kept else [300])
    train._summarise(tmp_path, SimpleNamespace(say=lambda text, style="": told.append(text.strip())))
    assert "150.0 at the end, 390.0 over the last 3 evaluations" in told[1]
    how = f" evaluate {tmp_path} --step 200" if kept else " --keep-best keeps its checkpoint"
    assert told[2].startswith("better     1000.0 after 200 env steps:") and told[2].endswith(how)
