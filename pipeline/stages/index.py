"""Stage `index`: media folder and card to tables: what exists, what it is labelled, how it is split."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.data.index import index_dataset, write_index
from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.files import sweep
from pipeline.stages.layout import dataset_of, stage_options
from pipeline.video.isolation import DecoderPool


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables of the experiment's data set."""
    options = stage_options(__doc__, argv, media=True)
    sweep(options.layout.root)
    dataset = dataset_of(options.experiment)
    media = options.media or Path(dataset.card.media)
    with DecoderPool(options.runtime.limits) as decoders:
        index = index_dataset(dataset, media, decoders.header, workers=num_workers(options.runtime.workers))
    write_index(index, options.layout.root)
    rejected = [video for video in index.videos if video.status == "rejected"]
    print(
        f"index: {len(index.videos)} files in {printable(str(media))}: {len(index.videos) - len(rejected)} videos, "
        f"{len(rejected)} rejected; {len(index.segments)} segments; see {options.layout.audit}"
    )
    for warning in index.audit["warnings"]:
        print(printable(f"index: warning: {warning}"))
