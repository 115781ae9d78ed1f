"""Folders that fill up: which files are whole, and which are still being written."""

import time

WATCH_SECONDS = 10.0


class Looks:
    """Tells whole files from those still being written, by looking at them again and again.

    A file is whole when it looks as it did at the look before, and its last change is at least `quiet_seconds` ago.
    """

    def __init__(self, quiet_seconds: float) -> None:
        self._quiet_seconds = quiet_seconds
        self._before: dict[str, str] = {}
        self._growing: set[str] = set()

    def whole(self, states: dict[str, str], now_seconds: float | None = None) -> list[str]:
        """The whole ones of some files. states: how they look now, see `file_state`. now_seconds: since the epoch."""
        now = time.time() if now_seconds is None else now_seconds
        before, self._before = self._before, dict(states)
        return [path for path, state in states.items() if before.get(path) == state and self._is_quiet(state, now)]

    def newly_growing(self, states: dict[str, str]) -> list[str]:
        """Files that changed since the last look, each once. To be asked before `whole`, which looks."""
        changed = [path for path, state in states.items() if self._before.get(path, state) != state]
        new = [path for path in changed if path not in self._growing]
        self._growing.update(new)
        return new

    def _is_quiet(self, state: str, now_seconds: float) -> bool:
        try:
            _, *changes = map(int, state.split())
        except ValueError:
            return True  # it cannot be read, which does not pass by waiting
        # Times to come are those of another machine's clock, and tell nothing; then two equal looks must do.
        return not 0 <= now_seconds - max(changes) / 1e9 < self._quiet_seconds
