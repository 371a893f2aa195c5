"""All claims, one after the other, then the page and the table.

python -m experiments.lecture           # quick settings
python -m experiments.lecture --full
"""

from __future__ import annotations

import subprocess
import sys

from experiments.lecture import page
from experiments.lecture.predictions import CLAIMS


def main() -> None:
    """Exit code 1 if a claim could not be run or is missing."""
    command = [sys.executable, "-m"]
    failed = [n for n in CLAIMS if subprocess.run([*command, f"experiments.lecture.{n}", *sys.argv[1:]]).returncode]
    page.main()
    if failed:
        sys.exit(f"failed, and shown as they were before: {', '.join(failed)}")


if __name__ == "__main__":
    main()
