"""The command `lrcn`. Heavy imports stay inside each command, so that `lrcn --help` answers at once."""

import argparse
import importlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline import __version__
from pipeline.discovery import printable
from pipeline.dvcparent import ending_with_dvc
from pipeline.errors import LrcnError
from pipeline.inference.ending import uninterrupted

# name: (module whose `main(argv)` does it, one line of help)
COMMANDS = {
    "predict": ("pipeline.inference.predict", "label every video of files and folders with a trained model"),
    "stream": ("pipeline.inference.stream", "label a camera, an address or a file as it plays, as lines of JSON"),
    "check": ("pipeline.inference.check", "decode video files and say which are ok, damaged or rejected"),
    "extract": (
        "pipeline.inference.extract",
        "one feature vector per frame of files and folders; with --config a stage",
    ),
    "probe": (
        "pipeline.inference.probe",
        "change backgrounds, order and light of videos: does the answer change? with --config a stage",
    ),
    "export": ("pipeline.inference.export", "a model as ONNX files, checked against PyTorch"),
    "store": ("pipeline.inference.store", "verify stored frames and features; prune what no video needs"),
    "explain": (
        "pipeline.explain.command",
        "what a prediction, model, run or video was made from, and does each hash still hold?",
    ),
    "doctor": ("pipeline.inference.doctor", "versions, codecs, GPU, weights and tracking of this installation"),
    "synthesize": (
        "pipeline.stages.synthesize",
        "draw the demo data set, with a shortcut if asked for, or recordings as features",
    ),
    "select": ("pipeline.stages.select", "choose the experiments that `dvc repro` builds"),
    "results": ("pipeline.stages.results", "print the scores of an experiment"),
    "runs": ("pipeline.stages.runs", "runs in MLflow: list, compare, best by validation; deliver what it missed"),
    "promote": (
        "pipeline.stages.promote",
        "give a training's model a name and an alias in MLflow, if its scores allow",
    ),
    "code": ("pipeline.stages.code", "stage: which files of code each stage runs"),
    "index": ("pipeline.stages.index", "stage: media folder and card to tables of videos, segments and splits"),
    "decode": ("pipeline.stages.decode", "stage: each video once into the lossless frame store"),
    "audit": ("pipeline.stages.audit", "stage: pictures on two sides of a split, and what file properties give away"),
    "finetune": (
        "pipeline.stages.finetune",
        "stage: the backbone's weights, trained on frames and end to end if asked for",
    ),
    "train": ("pipeline.stages.train", "stage: a recurrent network for one task, stream, fold and seed"),
    "evaluate": ("pipeline.stages.evaluate", "stage: its scores on the test split, with controls and intervals"),
    "fuse": ("pipeline.stages.fuse", "stage: the scores of the RGB and the flow stream together"),
    "report": ("pipeline.stages.report", "stage: one HTML page for an experiment"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 all done, 1 some inputs failed, 2 nothing could run, 128 + signal)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in itertools.takewhile(lambda argument: argument != "--", arguments)  # after it come file names
    if debug:
        arguments.remove("--debug")
    if not arguments or arguments[0] in ("-h", "--help"):
        _help().print_help()
        return 0
    if arguments[0] == "--version":
        print(f"lrcn {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        _help().error(f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}")
    try:
        if argv is None:
            _run_code_of_working_folder()
        with _stopping_signals(), ending_with_dvc():
            return _run(name, rest)
    except LrcnError as error:
        if debug:
            raise
        print(printable(f"lrcn {name}: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"lrcn {name}: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except BrokenPipeError:  # the reader of our output went away, as in `lrcn check | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a folder taken away, a mount gone read-only, something else in the place of a file
        if debug or error.filename is None:
            raise
        where = error.filename if error.filename2 is None else error.filename2
        where = os.fsdecode(where) if isinstance(where, str | bytes | os.PathLike) else where
        what = f"{where}: {error.strerror}; see to that and run again (--debug shows where it came from)"
        print(printable(f"lrcn {name}: {what}"), file=sys.stderr)
        return 2


def _run_code_of_working_folder() -> None:
    """In a stage of DVC, begin again with the code below the working folder, where this is another checkout's.

    That code is what DVC compares, and what results are kept under. It is another one in a second clone, and in the
    copy that `dvc exp run --queue` works in: the environment has this package from where it was installed. Raises
    LrcnError where Python does not take the code from there.
    """
    folder = Path.cwd()
    own = folder / "pipeline" / "cli.py"
    if not os.environ.get("DVC_STAGE") or not own.is_file() or own.samefile(__file__):
        return
    before = os.environ.get("PYTHONPATH", "")
    if f"{before}{os.pathsep}".startswith(f"{folder}{os.pathsep}"):
        raise LrcnError(
            f"{folder}: DVC compares the code here, but that of {Path(__file__).parents[1]} runs; "
            "expected a Python that uses PYTHONPATH"
        )
    paths = f"{folder}{os.pathsep}{before}" if before else str(folder)
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONPATH": paths})


@contextmanager
def _stopping_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a command as Ctrl-C does, files closed; one that is ignored (nohup) stays ignored."""

    def stop(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    numbers = [signal.SIGTERM, signal.SIGHUP] if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run(name: str, arguments: Sequence[str]) -> int:
    with uninterrupted():
        module: Any = importlib.import_module(COMMANDS[name][0])
    code = module.main(arguments)
    sys.stdout.flush()
    return int(code or 0)


def _help() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items())
    return argparse.ArgumentParser(
        prog="lrcn",
        usage="lrcn COMMAND [options]      (lrcn COMMAND --help; --debug shows tracebacks)",
        description="Recurrent action recognition: from video files to a label per clip or per frame.",
        epilog=f"commands:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )


if __name__ == "__main__":
    sys.exit(main())
