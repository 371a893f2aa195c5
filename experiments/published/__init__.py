"""Our learning curves beside published ones: tasks of Gymnasium, any preset, seeds as runs that go on.

    python -m experiments.published                                # what is done and missing; goes on with what is next
    python -m experiments.published --list                         # only says it
    python -m experiments.published --task Hopper --preset dhmbpo --seeds 3 --steps 50000
    python -m experiments.published --task Hopper --preset mbpo --again  # also what was run elsewhere
    python -m experiments.published --collect                      # draws and writes what has been run so far
    python -m experiments.published --check                        # a short fresh run against the committed curve

A seed is a run in `runs/published/<task>_<preset>_s<seed>/`, and the same command goes on exactly where it stopped. On
a CPU each seed is a process on one core, `--jobs` at once; on an accelerator seeds are side by side in one program.

What is published is `results/published/<task>_<preset>.json`, a figure a task with the published curves
(`data/README.md`), and the tables in `results/published/README.md` and `docs/reproduction.md`. Runs that are not at
their end are published with how far they are.
"""
