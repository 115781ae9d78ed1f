"""Stage `extract`: stored frames to stored feature vectors; a second run does only what is missing."""

from collections.abc import Iterator, Sequence

from pipeline.data.tables import read_videos
from pipeline.device import choose_device, num_workers
from pipeline.discovery import printable
from pipeline.engine import opened_engine
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.features.backbones import Backbone, backbone_file, read_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.files import locked, sweep, write_contents
from pipeline.progress import Progress
from pipeline.stages.importfeatures import import_all
from pipeline.stages.layout import WAIT_SECONDS, StageOptions, stage_options
from pipeline.video.framestore import FrameStore
from pipeline.video.isolation import absolute
from pipeline.view import features_key


def main(argv: Sequence[str] | None = None) -> None:
    """Extract every decoded video of the experiment's table."""
    extract_features(stage_options(__doc__, argv, stream=True, fold=True, media=True))


def extract_features(options: StageOptions) -> None:
    """Bring the options' feature store up to date, as its only writer."""
    folder = options.layout.features(options.representation)
    with locked(folder, wait_seconds=WAIT_SECONDS):
        sweep(folder.parent)
        if options.settings.backbone is None:
            import_all(options)
        else:
            extract_all(options)


def features_of(
    options: StageOptions, backbone: Backbone, frames: FrameStore, missing: Sequence[str], progress: Progress
) -> Iterator[tuple[str, VideoFeatures | Exception]]:
    """Features of stored frames, by the engine of the runtime settings."""
    view, runtime = options.settings.view, options.runtime
    with opened_engine(
        runtime.engine if missing else "local", runtime.ray_address if missing else "",
        workers=runtime.workers, device=runtime.device, command="extract",
    ) as engine:  # fmt: skip
        if engine is None:
            extractor = Extractor(
                backbone, view.crop, choose_device(runtime.device), workers=num_workers(runtime.workers),
                crops=view.crops, flow=view.flow,
            )  # fmt: skip
            yield from extractor.run(((sha256, frames.read(sha256)) for sha256 in missing), progress.add_frames)
            return
        from pipeline.raydecode import StoredSource
        from pipeline.raypool import RayPool

        folder = absolute(frames.folder)
        videos = ((sha256, StoredSource(folder, sha256)) for sha256 in missing)
        with RayPool(engine, {"backbone.safetensors": backbone_file(backbone)}, view) as pool:
            for done in pool.run(videos, progress.add_frames):
                yield missing[done.number], done.result


def extract_all(options: StageOptions) -> None:
    """Bring the feature store of the stream, and of the fold where it has its own, up to date."""
    view, layout, name = options.settings.view, options.layout, options.representation
    backbone = read_backbone(layout.backbone(name) / "backbone.safetensors")
    frames = FrameStore(layout.frames, view.frames_key)
    store = FeatureStore(layout.features(name), features_key(view, backbone.name, backbone.weights_sha256))
    videos = {video.sha256: video.video_id for video in read_videos(layout.videos) if video.status == "ok"}
    verdicts = {sha256: frames.verdict(sha256) for sha256 in videos}
    wanted = [sha256 for sha256 in videos if verdicts[sha256].status != "rejected"]
    missing = [sha256 for sha256 in wanted if not store.has(sha256)]
    progress = Progress("extract", len(missing))
    for sha256, result in progress.over(features_of(options, backbone, frames, missing, progress)):
        if isinstance(result, RejectedVideo):
            store.write_rejected(sha256, str(result))
        elif isinstance(result, Exception):
            raise LrcnError(f"{videos[sha256]}: {result}") from result
        else:
            store.write(sha256, result, damage=verdicts[sha256].reason)
    removed = store.prune(set(wanted))
    write_contents(layout.features_table(name), store, wanted)
    reasons = {sha256: store.rejection(sha256) for sha256 in wanted} if view.flow else {}
    for sha256, reason in reasons.items():
        if reason:
            print(printable(f"extract: {videos[sha256]} has no features: {reason}"))
    print(
        f"extract: {len(missing)} of {len(wanted)} videos extracted, the rest was there; "
        f"{len(removed)} old entries removed; {backbone.feature_size} features a frame"
    )
