"""`tb/seed_N/`: the numbers of `metrics.jsonl` as TensorBoard reads them, over env steps.

When a run goes on, its curves are written again from the rows that were kept, into a new file that replaces the old
one: whatever a crash lost or left behind is gone, and there is one clean curve. The file begins with the mark of a
restart (what `purge_step` writes), so that a TensorBoard that is open drops what it had read, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

from branchax.runs.runlog import SKIPPED, Row, clock


class TensorBoard:
    """Writes rows as they come; each call is in the file when it returns. `rows` are those written before."""

    def __init__(self, directory: Path, rows: Iterable[Row]) -> None:
        self._directory = directory
        self._writers: dict[int, Any] = {}
        for old in directory.glob("seed_*/events.out.tfevents.*"):
            old.unlink()
        self.write(rows)

    def write(self, rows: Iterable[Row]) -> None:
        """Appends rows; numbers that are not finite (`None`) leave a gap."""
        for row in rows:
            writer = self._writer(row["seed"])
            for name, value in row.items():
                if name not in SKIPPED and value is not None:
                    writer.write_event(Event(wall_time=time.time(), step=clock(row), summary=scalar(name, value)))
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, seed: int) -> Any:
        if seed not in self._writers:
            folder = self._directory / f"seed_{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            self._writers[seed] = writer = EventsWriter(str(folder / "events"))
            writer.write_event(Event(wall_time=time.time(), step=0, session_log=SessionLog(status=SessionLog.START)))
        return self._writers[seed]
