"""`python -m branchax` is the same as `branchax`."""

from branchax.cli import entry

if __name__ == "__main__":
    entry()
