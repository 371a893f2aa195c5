"""One file per command, each with `run(arguments)`; none loads JAX before it knows that it has to.

A new command is a file here and a line of `USAGE`; the command line finds it by its name.
"""

USAGE = {
    "train": """\
PRESET [--world NAME] [--seed N] [--seeds K] [--env-steps N] [--run DIR]
PRESET --world NAME --dataset FILE
--run DIR --resume [--env-steps N]""",
    "evaluate": "DIR [--episodes N]",
    "dataset": "DIR FILE",
    "lab": "gradients [--world NAME] [--dynamics known|learned|oracle] [--horizons 1,2,5,10]",
    "bench": "compare A.json B.json",
    "list": "",
}
