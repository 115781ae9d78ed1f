"""Stage `index`: media folder and card to tables: what exists, what it is labelled, how it is split."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.data.index import Index, index_dataset, media_kind, write_index
from pipeline.data.scan import folder_state
from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.errors import DataError
from pipeline.files import sweep
from pipeline.stages.layout import dataset_of, media_folder, stage_options
from pipeline.video.isolation import DecoderPool
from pipeline.video.verdict import Verdict

NUM_LOOKS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables of the experiment's data set."""
    options = stage_options(__doc__, argv, media=True, allow_leak=True)
    sweep(options.layout.root)
    options.layout.leaks.unlink(missing_ok=True)  # of an earlier split, which nothing may be trained by
    dataset = dataset_of(options.experiment)
    media = media_folder(options, dataset)
    with DecoderPool(options.runtime.limits) as decoders:

        def look() -> Index:
            return index_dataset(
                dataset,
                media,
                decoders.header,
                workers=num_workers(options.runtime.workers),
                allow_leak=options.allow_leak,
                measure=lambda path: ends(decoders.check(path)),
            )

        index = while_unchanged(media, look)
    write_index(index, options.layout.root)
    files = index.audit["files"]
    print(
        f"index: {files['total']} files in {printable(str(media))}: {files['ok']} {media_kind(dataset.card)}s, "
        f"{files['rejected']} rejected, {files['tables']} of the data set's own tables; "
        f"{len(index.segments)} segments; see {options.layout.audit}"
    )
    for warning in index.audit["warnings"]:
        print(printable(f"index: warning: {warning}"))


def while_unchanged(media: Path, look: Callable[[], Index]) -> Index:
    """The result of a look at a folder in which nothing changed meanwhile; raises DataError when that never happens.

    DVC takes the folder's state when the stage has ended. A file that came after its name was listed would then count
    as seen, and be missing from the tables until the folder changes again.
    """
    for _ in range(NUM_LOOKS):
        before = folder_state(media)
        index = look()
        if folder_state(media) == before:
            return index
        print(printable(f"index: {media} changed meanwhile; looking once more"))
    raise DataError(f"{media}: still changing after {NUM_LOOKS} looks; run again when nothing is being copied there")


def ends(verdict: Verdict) -> tuple[float, float] | None:
    """When the last frame is over, and how late a segment may end: of a video that lost frames it may be any time."""
    return verdict.end_seconds if verdict.status == "ok" else (math.inf, math.inf)
