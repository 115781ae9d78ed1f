"""`lrcn predict PATH... --model M --out DIR`: label every video of files and folders.

A file is answered for once: a second call does only what is new, has changed, or failed. A call that is ended, in
whatever way, loses the files it was at and no answer.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.engine import add_engine_arguments
from pipeline.errors import LrcnError
from pipeline.files import sweep, update_bytes
from pipeline.inference.answering import Answering
from pipeline.inference.ending import ending_soon
from pipeline.inference.inputs import (
    NOT_THERE,
    Inputs,
    add_decoding_arguments,
    add_input_arguments,
    inputs_of,
    limits_of,
)
from pipeline.inference.ledger import Ledger, LedgerAnswers, file_state, model_identity
from pipeline.inference.mirror import mirrored
from pipeline.inference.page import write_page
from pipeline.inference.precision import add_precision_argument, tell_if_never_sure
from pipeline.inference.resultfolder import Timelines, timeline_of, write_results
from pipeline.inference.resultsettings import ResultSettings, add_result_arguments, result_settings
from pipeline.inference.shards import borrow, inputs_of_shard, take_over
from pipeline.inference.timesteps import has_timesteps
from pipeline.inference.watching import WATCH_SECONDS, Looks
from pipeline.models.modelspec import read_spec
from pipeline.modelstore import model_folder
from pipeline.remotenames import Url, media_at
from pipeline.shards import add_shard_argument, writing
from pipeline.threads import SIGNAL_SECONDS

FOLDERS = ("frames", "thumbnails", "subtitles", "overlays", "exports", "exports/elan", "exports/fiftyone")
DONE = ("ok", "damaged", "rejected")


def main(argv: Sequence[str] | None = None) -> int:
    """Answer for every file; 0 when each got a label, 1 when some did not."""
    parser = argparse.ArgumentParser(prog="lrcn predict", description=__doc__, allow_abbrev=False)
    add_input_arguments(parser)
    parser.add_argument("--model", required=True, help="a model folder, models:/NAME@ALIAS, runs:/RUN_ID/model")
    parser.add_argument(
        "--out", required=True, type=media_at, metavar="DIR", help="folder for the results, or s3://bucket/folder"
    )
    add_precision_argument(parser)
    add_result_arguments(parser)
    work = parser.add_mutually_exclusive_group()
    work.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=WATCH_SECONDS,
        metavar="SECONDS",
        help="go on looking for new files, so often; one is read when it has not changed for as long "
        f"(default {WATCH_SECONDS:g})",
    )
    add_shard_argument(work, "gathers the answers")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add_decoding_arguments(parser)
    add_engine_arguments(parser)
    options = parser.parse_args(argv)
    if options.watch is not None and options.list == "-":
        raise LrcnError("--from - and --watch: standard input comes once; name a folder to watch, or a list in a file")
    if options.shard and (options.overlay or options.export):
        raise LrcnError("--shard writes no overlays and no exports: name them in the call without --shard that gathers")
    options.place, options.exclude = options.out, ""
    with ending_soon("predict"):
        if isinstance(options.place, Url):
            part = f"{options.shard.number}/{options.shard.count}" if options.shard else ""
            with mirrored(options.place, part) as options.out:
                options.exclude = options.place
                return predict(options)
        return predict(options)


def predict(options: argparse.Namespace) -> int:
    """Bring a folder of results up to date; returns the exit code.

    options.place: what the folder is called to the user; options.exclude: its address, where it has one.
    """
    limits = limits_of(options)
    inputs = inputs_of(options, "predict", out=options.out, may_come=options.watch is not None)
    model = model_folder(options.model)
    spec, model_id = read_spec(model), model_identity(model)
    settings = result_settings(options, spec, model_id)
    tell = cache(lambda: tell_if_never_sure(spec, options.precision, "predict"))

    description = (model / "model.yaml").read_bytes()

    def write(answers: LedgerAnswers) -> None:
        tell()
        write_folder(options, settings, answers)
        update_bytes(options.out / "model.yaml", description)

    home = options.shard.folder(options.out) if options.shard else options.out
    with (
        writing(options.out, options.shard),
        _opened(home, model_id) as ledger,
        Answering(
            options.out, ledger, model, options.device, options.workers, limits, options.engine, options.ray_address
        ) as answering,
    ):
        for folder in FOLDERS:
            sweep(options.out / folder)
        if options.shard:
            return predict_shard(options, inputs_of_shard(inputs, options.shard), ledger, answering)
        if options.watch is not None:
            watch(options, inputs, ledger, answering, write)
        return predict_once(options, inputs, ledger, answering, write)


def write_folder(options: argparse.Namespace, settings: ResultSettings, answers: LedgerAnswers) -> None:
    """Write all that is in a folder of results beside the files of each answer; says what had to be left out."""
    out = options.out
    notes = write_results(out, answers, settings)
    timelines = Timelines(answers, lambda answer: timeline_of(out, answer, settings))
    if options.overlay or (out / "overlays").is_dir():
        from pipeline.inference import overlays  # with PyAV and OpenCV, which take half a second

        threshold, task = settings.threshold, settings.task
        if options.overlay:
            workers, limits = num_workers(options.workers), limits_of(options)
            said = overlays.update_overlays(
                out, timelines, threshold=threshold, task=task, limits=limits, workers=workers
            )
            notes += [f"{path}: {note}" for path, note in said]
        else:
            overlays.prune_overlays(out, timelines, threshold=threshold, task=task)
    write_page(
        out,
        timelines if settings.task == "frame" else answers,  # windows of a clip model as they are
        threshold=settings.threshold,
        task=settings.task,
        classes=settings.classes,
        model=options.model,
        precision=options.precision,
        background=settings.background,
    )
    for note in notes:
        print(printable(f"predict: {note}"), file=sys.stderr)


def is_done(out: Path, ledger: Ledger, path: str, state: str) -> bool:
    """Whether a file is answered for, and what belongs to its answer is there; a failure is worth another try."""
    return ledger.status(path, state) in DONE and (
        not ledger.has_timesteps(path) or has_timesteps(out, path, ledger.model_id)
    )


def predict_once(
    options: argparse.Namespace,
    inputs: Inputs,
    ledger: Ledger,
    answering: Answering,
    write: Callable[[LedgerAnswers], None],
) -> int:
    """Answer for what has no answer yet, write the tables, say what became of all; returns the exit code."""
    out = options.out
    states = {path: file_state(path) for path in inputs.files}
    taken = set(take_over(out, ledger, states))
    just_failed = {path for path in taken if ledger.last_status(path) == "failed"}
    todo = [path for path in states if path not in just_failed and not is_done(out, ledger, path, states[path])]
    answering.run(todo, states)
    write(LedgerAnswers(ledger, inputs.paths, inputs.reasons))
    shards = f", {len(taken)} answer(s) taken from shards" if taken else ""
    return say(ledger, inputs, f"{len(todo)} looked at now{shards}", f"see {options.place / 'results.csv'}")


def predict_shard(options: argparse.Namespace, inputs: Inputs, ledger: Ledger, answering: Answering) -> int:
    """Answer for the files of a shard, write no table, say what became of the files; returns the exit code."""
    states = {path: file_state(path) for path in inputs.files}
    borrow(options.out, options.shard.folder(options.out), ledger, states)
    todo = [path for path in states if not is_done(options.out, ledger, path, states[path])]
    answering.run(todo, states)
    name = f"shard {options.shard}, {len(todo)} looked at now"
    return say(ledger, inputs, name, "the same command without --shard writes the tables")


def watch(
    options: argparse.Namespace,
    inputs: Inputs,
    ledger: Ledger,
    answering: Answering,
    write: Callable[[LedgerAnswers], None],
) -> None:
    """Answer for files as they come, and keep the tables up to date, until a signal ends it.

    A file that failed is tried once, and again when it has changed. Tables hold the files that are there and answered.
    """
    looks, seen = Looks(options.watch), set[tuple[str, str]]()
    states: dict[str, str] = {}
    written: list[tuple[str, str, str | None]] = []
    said, missing = set[str](), {note for note in inputs.notes if note.endswith(NOT_THERE)}

    def bring_up_to_date(num_looked_at: int) -> None:
        nonlocal written
        shown = inputs.only(
            lambda path: path in inputs.reasons or ledger.status(path, states.get(path, "")) is not None
        )
        rows = [(path, states.get(path, ""), inputs.reasons.get(path)) for path in shown.paths]
        if not options.out.is_dir():
            return  # it was taken away, and is not made anew in its place
        if rows != written or num_looked_at:
            write(LedgerAnswers(ledger, shown.paths, shown.reasons))
            written = rows
            say(ledger, shown, f"{num_looked_at} looked at now", f"see {options.place / 'results.csv'}", said)

    print(f"predict: watching, a look every {options.watch:g} s; Ctrl-C ends it", file=sys.stderr, flush=True)
    while True:
        states = {path: file_state(path) for path in inputs.files}
        growing = looks.newly_growing(states)
        if growing:
            text = f"predict: {len(growing)} file(s) are still being written and left until they are whole, first "
            print(printable(text + growing[0]), file=sys.stderr, flush=True)
        new = [path for path in looks.whole(states) if (path, states[path]) not in seen]
        todo = [path for path in new if not is_done(options.out, ledger, path, states[path])]
        try:
            answering.run(todo, states)
            seen.update((path, states[path]) for path in new)
            bring_up_to_date(len(todo))
        except KeyboardInterrupt:  # also one that ended the writing half-way
            bring_up_to_date(sum(ledger.status(path, states[path]) is not None for path in todo))
            raise
        except OSError:
            if options.out.is_dir():
                raise
            # It was taken away meanwhile; the next look waits for it, and does what has no answer.
        inputs = next_look(options, missing)


def next_look(options: argparse.Namespace, missing: set[str]) -> Inputs:
    """Inputs of the next look; waits until they are back where all that is named was taken away, or the results were.

    missing: what was said to be missing before; it is brought up to date.
    """
    complaint = ""
    while True:
        wait(options.watch)
        try:
            inputs = inputs_of(options, "predict", out=options.out, may_come=True, said=missing)
            if options.out.is_dir():
                return inputs
            raise LrcnError(f"{options.out}: the folder of results was taken away")
        except LrcnError as error:
            if str(error) != complaint:
                print(printable(f"predict: {error}; waiting for it"), file=sys.stderr, flush=True)
            complaint = str(error)


def wait(seconds: float) -> None:
    """In short waits: a signal that another thread takes does not end a wait of the main thread."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, SIGNAL_SECONDS))


@contextmanager
def _opened(folder: Path, model_id: str) -> Iterator[Ledger]:
    try:
        ledger = Ledger(folder, model_id)
    except OSError as error:
        raise LrcnError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    with closing(ledger):
        yield ledger


def say(ledger: Ledger, inputs: Inputs, what: str, where: str, said: set[str] | None = None) -> int:
    """Print what became of files, and the reasons of those without a label; returns the exit code.

    said: reasons that were printed before and are not again; the others are added.
    """
    said = set() if said is None else said
    bad, counts = [], dict.fromkeys(("ok", "damaged", "rejected", "failed"), 0)
    for path in inputs.paths:
        status = "rejected" if path in inputs.reasons else ledger.last_status(path)
        counts[status] += 1
        if status in ("rejected", "failed"):
            bad.append((path, status))
    found = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "none"
    print(printable(f"predict: {len(inputs.paths)} file(s), {what}: {found}; {where}"), flush=True)
    for path, status in bad:
        line = printable(f"predict: {path}: {status}: {inputs.reasons.get(path) or ledger.read(path).reason}")
        if line not in said:
            said.add(line)
            print(line, file=sys.stderr, flush=True)
    return 1 if bad else 0


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from 0.1 to 86400; put --watch behind the paths, or write --watch "
            f"{WATCH_SECONDS:g}"
        )
    return seconds
