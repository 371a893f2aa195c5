"""One file per command, each with `run(arguments)`; none loads JAX before it knows that it has to.

A new command is a file here and a line of `USAGE`; the command line finds it by its name, with `_` for `-`.
"""

USAGE = {
    "train": """\
PRESET [--world NAME] [--paper] [--seed N] [--seeds K] [--env-steps N] [--run DIR]
PRESET --world NAME --dataset FILE
PRESET --agent MODULE:FUNCTION [--model MODULE:FUNCTION] [--stages MODULE:NAME]
PRESET --config FILE
--config FILE""",
    "resume": "DIR [--env-steps N]",
    "evaluate": "DIR [--episodes N] [--step N]",
    "play": "DIR [--seed N] [--out FILE.html]",
    "runs": "[DIR...]",
    "plot": "DIR... [--out FOLDER] [--diagnose]",
    "report": "DIR... [--out FILE] [--diagnose]",
    "render": "DIR [--out FILE.gif|FILE.mp4] [--imagined]",
    "diagnose": "DIR [--seed N]",
    "export": "DIR [--seed N]",
    "sweep": """\
PRESET --grid FIELD=A,B [--grid ...] [--seeds K] [--launcher local|submitit] [any of train's flags]
PRESET --search FIELD=LOW..HIGH [--search ...] [--trials N] [any of train's flags]""",
    "doctor": "[DIR] [--replay]",
    "check-world": "NAME [--episode-length N]",
    "dataset": "DIR FILE",
    "lab": "gradients [--world NAME] [--dynamics known|learned|oracle] [--horizons 1,2,5,10]",
    "list": "",
    "completion": "bash|zsh",
}
