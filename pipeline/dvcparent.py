"""A stage that DVC started ends when DVC is gone.

SIGTERM and SIGKILL end DVC alone. The stage would go on, unseen, and the next `dvc repro` start a second one beside it.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CHECK_SECONDS = 0.2
SECONDS_TO_END = 8.0  # less than the next writer waits: pipeline/stages/layout.py


@contextmanager
def ending_with_dvc() -> Iterator[None]:
    """In the block, this process gets SIGTERM when the DVC that started it has ended, and SIGALRM 8 s later.

    Nothing happens outside a stage of DVC, which is told by the variable DVC_STAGE. A shell between DVC and this
    process counts as DVC does. The parent is looked at and no signal asked of the kernel (PR_SET_PDEATHSIG): that comes
    from the parent alone, which may be such a shell, and when its thread ends.
    """
    stage = os.environ.get("DVC_STAGE")
    if not stage:
        yield
        return
    over = threading.Event()
    threading.Thread(target=_watch, args=(_links(stage), over), name="dvc", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(links: list[tuple[int, int]], over: threading.Event) -> None:
    """Wait until the block is over, or one of these processes has another parent."""
    is_gone = any(_is_adopted(child, parent) for child, parent in links)
    while not is_gone:
        if over.wait(CHECK_SECONDS):
            return
        is_gone = any(_parent(child) != parent for child, parent in links)
    with suppress(OSError, ValueError):  # nobody may be left to read it
        sys.stderr.write("lrcn: the DVC that started this stage has ended; the stage ends too\n")
        sys.stderr.flush()
    # At SIGALRM the kernel ends the process, whatever Python is at: while it shuts down, no thread could.
    signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_END)
    os.kill(os.getpid(), signal.SIGTERM)  # to the process: one raised here would be this thread's


def _links(stage: str) -> list[tuple[int, int]]:
    """Pairs of child and parent, from this process up to DVC: what it started for the stage has its variable."""
    links = [(os.getpid(), os.getppid())]
    while _is_of_stage(links[-1][1], stage):
        links.append((links[-1][1], _parent(links[-1][1])))
    return links


def _is_of_stage(pid: int, stage: str) -> bool:
    try:
        return f"DVC_STAGE={stage}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # another user's, or gone, which will be noticed
        return False


def _parent(pid: int) -> int:
    """Process id of the parent; 0 of a process that is gone, or whose parent is outside this container."""
    if pid == os.getpid():
        return os.getppid()
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _is_adopted(child: int, parent: int) -> bool:
    """Whether a process had another parent before: DVC may be gone before it can be looked at.

    A process is in its parent's session, or leads its own. So one that does neither was adopted.
    """
    try:
        session = os.getsid(child)
        return session != child and session != os.getsid(parent)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
