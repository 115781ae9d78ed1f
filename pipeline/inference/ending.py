"""A command that ends soon after it is told to, whatever it is doing."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 3.0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A signal that comes in this block is handled at its end, if it has a handler of Python's.

    For loading libraries: an exception that is raised while C++ code initialises itself aborts the process. Only the
    main thread can have signals; elsewhere nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    held = {number: handler for number, handler in before.items() if callable(handler)}
    for number in held:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
        if came:
            held[signal.Signals(came[0])](came[0], None)


@contextmanager
def ending_soon(command: str, seconds: float = SECONDS_TO_END) -> Iterator[None]:
    """In the block, Ctrl-C, SIGTERM and SIGHUP raise KeyboardInterrupt(number), and end the process after `seconds`.

    Regular ways to end close files and say goodbye, but may wait for something that takes its time (a network over a
    long video, a library that is being loaded), or be swallowed by it. So the block may hold only work of which
    nothing is lost by a sudden end. A signal that is ignored (nohup) stays ignored. Only the main thread can have
    signals; elsewhere nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        told.append(number)
        if len(told) == 1:  # a second one would only disturb the end that is under way
            raise KeyboardInterrupt(number)

    before = {number: signal.getsignal(number) for number in SIGNALS}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    watched, written = os.pipe()
    os.set_blocking(written, False)
    over = threading.Event()
    # Python runs handlers between two steps of the main thread, which may be far apart; this pipe has a number at once.
    wakeup = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(watched, over, command, seconds), name="ending", daemon=True)
    watcher.start()
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except Exception:
        if told:  # what was interrupted made another error of it
            raise KeyboardInterrupt(told[0]) from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        over.set()
        os.close(written)
        watcher.join()
        os.close(watched)


def _watch(descriptor: int, over: threading.Event, command: str, seconds: float) -> None:
    """Wait for a signal, then end the process unless the block is over in time."""
    while data := os.read(descriptor, 1):
        if data[0] in SIGNALS:
            if not over.wait(seconds):
                with suppress(OSError, ValueError):
                    print(
                        f"lrcn {command}: stopped at once; what was finished is kept, "
                        "the same command goes on from there",
                        file=sys.stderr,
                        flush=True,
                    )
                os._exit(128 + data[0])
            return
