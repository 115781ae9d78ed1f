"""Stage `index`: media folder and card to tables: what exists, what it is labelled, how it is split."""

import math
from collections.abc import Sequence

from pipeline.data.index import Index, index_dataset, media_kind, write_index
from pipeline.data.scan import MediaFile, until_settled
from pipeline.data.tables import Video
from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.stages.layout import StageOptions, dataset_of, media_folder, stage_options
from pipeline.video.isolation import DecoderPool
from pipeline.video.verdict import Verdict


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables of the experiment's data set."""
    options = stage_options(__doc__, argv, media=True, allow_leak=True)
    with options.layout.writing(options.layout.root):
        write_tables(options)


def write_tables(options: StageOptions) -> None:
    """Index the media folder, and again what comes to it meanwhile."""
    options.layout.leaks.unlink(missing_ok=True)  # of an earlier split, which nothing may be trained by
    dataset = dataset_of(options.experiment)
    media = media_folder(options, dataset)
    known: dict[MediaFile, Video] = {}
    with DecoderPool(options.runtime.limits) as decoders:

        def make(files: Sequence[MediaFile]) -> Index:
            index = index_dataset(
                dataset,
                media,
                decoders.header,
                workers=num_workers(options.runtime.workers),
                allow_leak=options.allow_leak,
                measure=lambda path: ends(decoders.check(path)),
                files=files,
                known=known,
            )
            write_index(index, options.layout.root)
            return index

        # DVC hashes the folder when this stage has ended, and takes a file that came before that for an indexed one.
        index = until_settled(media, make)
    files = index.audit["files"]
    print(
        f"index: {files['total']} files in {printable(str(media))}: {files['ok']} {media_kind(dataset.card)}s, "
        f"{files['rejected']} rejected, {files['tables']} of the data set's own tables; "
        f"{len(index.segments)} segments; see {options.layout.audit}"
    )
    for warning in index.audit["warnings"]:
        print(printable(f"index: warning: {warning}"))


def ends(verdict: Verdict) -> tuple[float, float] | None:
    """When the last frame is over, and how late a segment may end: of a video that lost frames it may be any time."""
    return verdict.end_seconds if verdict.status == "ok" else (math.inf, math.inf)
