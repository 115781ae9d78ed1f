"""Stage `extract`: stored frames to stored feature vectors; a second run does only what is missing."""

from collections.abc import Iterator, Sequence

from pipeline.device import choose_devices, num_workers
from pipeline.discovery import printable
from pipeline.engine import opened_engine
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.features.backbones import Backbone, backbone_file, read_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.files import sweep, write_contents
from pipeline.progress import Progress
from pipeline.shards import forget_shards, writing
from pipeline.stages.importfeatures import import_all
from pipeline.stages.layout import WAIT_SECONDS, StageOptions, stage_options, videos_of_shard
from pipeline.video.framestore import FrameStore
from pipeline.video.isolation import absolute
from pipeline.view import features_key


def main(argv: Sequence[str] | None = None) -> None:
    """Extract every decoded video of the experiment's table."""
    extract_features(stage_options(__doc__, argv, stream=True, fold=True, media=True, shard=True))


def extract_features(options: StageOptions) -> None:
    """Bring the options' feature store up to date, as its only writer, or one of several shards."""
    folder = options.layout.features(options.representation)
    with writing(folder, options.shard, wait_seconds=WAIT_SECONDS):
        if options.shard is None:
            forget_shards(folder)
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
                backbone, view.crop, choose_devices(runtime.device), workers=num_workers(runtime.workers),
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
    """Bring the feature store of the stream, and of the fold where it has its own, up to date; of a shard its part."""
    view, layout, name = options.settings.view, options.layout, options.representation
    backbone = read_backbone(layout.backbone(name) / "backbone.safetensors")
    frames = FrameStore(layout.frames, view.frames_key)
    store = FeatureStore(layout.features(name), features_key(view, backbone.name, backbone.weights_sha256))
    videos = {video.sha256: video.video_id for video in videos_of_shard(options)}
    verdicts = {sha256: frames.verdict(sha256) for sha256 in videos}
    wanted = [sha256 for sha256 in videos if verdicts[sha256].status != "rejected"]
    missing = [sha256 for sha256 in wanted if not store.has(sha256)]
    progress = Progress("extract", len(missing))
    for sha256, result in progress.over(features_of(options, backbone, frames, missing, progress)):
        if isinstance(result, RejectedVideo) and not result.is_transient:
            store.write_rejected(sha256, str(result))
        elif isinstance(result, Exception):
            raise LrcnError(f"{videos[sha256]}: {result}") from result
        else:
            store.write(sha256, result, damage=verdicts[sha256].reason)
    if options.shard is None:
        removed = store.prune(set(wanted))
        shard, then = "", f"{len(removed)} old entries removed"
        write_contents(layout.features_table(name), store, wanted)
    else:
        shard, then = f"shard {options.shard}, ", "the same command without --shard writes the table"
    reasons = {sha256: store.rejection(sha256) for sha256 in wanted} if view.flow else {}
    for sha256, reason in reasons.items():
        if reason:
            print(printable(f"extract: {videos[sha256]} has no features: {reason}"))
    print(
        f"extract: {shard}{len(missing)} of {len(wanted)} videos extracted, the rest was there; {then}; "
        f"{backbone.feature_size} features a frame"
    )
