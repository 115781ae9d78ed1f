"""What a stopped training leaves for the process that goes on with it: its run, and when each epoch was logged."""

import json
import uuid
from contextlib import suppress
from pathlib import Path

from pipeline.files import write_text
from pipeline.trackingevents import now_ms


class Memory:
    """A run's key and the times of its epochs in a file, so that a training that goes on logs the same points again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times: dict[int, int] = {}
        self.key = uuid.uuid4().hex
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for line in text.splitlines(keepends=True):
            with suppress(ValueError, KeyError):  # a line that was cut off when the process was killed
                known = json.loads(line)
                if "key" in known:
                    self.key = known["key"]
                else:
                    self._times[known["step"]] = known["time_ms"]
        lines = [{"key": self.key}, *({"step": step, "time_ms": ms} for step, ms in self._times.items())]
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))

    def time_ms(self, step: int) -> int:
        """When an epoch was first logged."""
        if step not in self._times:
            self._times[step] = now_ms()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "time_ms": self._times[step]}) + "\n")
        return self._times[step]
