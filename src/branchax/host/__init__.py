"""Everything outside the compiled programs: runs and their directories, evaluation, checkpoints, pictures."""


class RunError(RuntimeError):
    """Something that a run could not survive, or a file that cannot be used; the message is for its user."""

    exit_code = 1
