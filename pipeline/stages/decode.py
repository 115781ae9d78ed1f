"""Stage `decode`: each video once into the frame store, with a verdict; a second run does only what is missing."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.data.annotations import check_ends
from pipeline.data.scan import list_media
from pipeline.data.tables import CHANGED, read_segments, read_videos
from pipeline.device import num_workers
from pipeline.discovery import printable
from pipeline.engine import opened_engine
from pipeline.errors import DataError, RejectedVideo
from pipeline.files import sweep, write_contents, write_table
from pipeline.prefetch import fetching_ahead
from pipeline.progress import Progress
from pipeline.remote import content_hash
from pipeline.remotenames import Url, is_url
from pipeline.shards import forget_shards, writing
from pipeline.stages.checkfeatures import check_all
from pipeline.stages.layout import WAIT_SECONDS, StageOptions, dataset_of, media_folder, stage_options, videos_of_shard
from pipeline.threads import in_threads
from pipeline.video.framestore import FrameStore
from pipeline.video.isolation import DecoderPool, absolute, decoders_of
from pipeline.video.limits import Limits
from pipeline.video.reader import Frame
from pipeline.video.verdict import Verdict
from pipeline.view import View

COLUMNS = ("status", "reason", "num_frames", "width", "height", "rotation_degrees", "duration_seconds")


def main(argv: Sequence[str] | None = None) -> None:
    """Decode every usable video of the experiment's table; exits non-zero when not one could be decoded."""
    options = stage_options(__doc__, argv, media=True, shard=True)
    with writing(options.layout.frames, options.shard, wait_seconds=WAIT_SECONDS):
        if options.shard is None:
            forget_shards(options.layout.frames)
            sweep(options.layout.root)
            say_what_came(options)
        if options.experiment.backbone is None:
            check_all(options)
        else:
            decode_all(options)


def decode_all(options: StageOptions) -> None:
    """Bring the frame store, and the table of verdicts, up to date; of a shard its part of the store alone."""
    view = options.experiment.view
    media = media_folder(options, dataset_of(options.experiment))
    videos = videos_of_shard(options)
    store = FrameStore(options.layout.frames, view.frames_key)
    paths = {video.sha256: media / video.video_id for video in videos}  # equal files are decoded once
    missing = [sha256 for sha256 in paths if not store.has(sha256) or store.verdict(sha256).is_transient]
    decode_missing(options, store, {sha256: paths[sha256] for sha256 in missing})
    verdicts = {video.video_id: store.verdict(video.sha256) for video in videos}
    counts = {status: sum(v.status == status for v in verdicts.values()) for status in ("ok", "damaged", "rejected")}
    if options.shard is None:
        removed = store.prune(set(paths))
        name, then = "", f"{len(removed)} old entries removed"
    else:
        name, then = f"shard {options.shard}, ", "the same command without --shard writes the tables"
    print(
        f"decode: {name}{len(missing)} of {len(paths)} videos decoded, the rest was there; {then}; "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
    )
    for video_id, verdict in verdicts.items():
        if verdict.status != "ok":
            print(printable(f"decode: {video_id}: {verdict.status}: {verdict.reason}"))
    if options.shard is not None:
        return
    if counts["ok"] + counts["damaged"] == 0:
        raise DataError(f"{options.layout.videos}: not one of {len(videos)} videos could be decoded; see above")
    check_segments(options, verdicts)
    rows = [[video_id, *(getattr(verdict, name) for name in COLUMNS)] for video_id, verdict in verdicts.items()]
    write_table(options.layout.decoded, ["video_id", *COLUMNS], rows)
    write_contents(options.layout.frames_table, store, paths)


def decode_missing(options: StageOptions, store: FrameStore, paths: Mapping[str, Path | Url]) -> None:
    """Put videos into the store, by the engine of the runtime settings."""
    view, runtime = options.experiment.view, options.runtime
    progress = Progress("decode", len(paths))
    with opened_engine(
        runtime.engine if paths else "local", runtime.ray_address if paths else "",
        workers=runtime.workers, device="cpu", command="decode",
    ) as engine:  # fmt: skip
        if engine is None:
            with DecoderPool(runtime.limits) as decoders, fetching_ahead(map(str, paths.values())):

                def decode(sha256: str) -> None:
                    decode_video(decoders, store, sha256, paths[sha256], view, progress.counting)

                for _ in progress.over(in_threads(decode, paths, num_workers(runtime.workers))):
                    pass
            return
        media = {sha256: absolute(path) for sha256, path in paths.items()}
        videos = [Remote(sha256, path, absolute(store.folder), view, runtime.limits) for sha256, path in media.items()]
        for video, result in progress.over(engine.map(decode_remotely, videos)):
            if isinstance(result, int):
                progress.add_frames(result)
            else:
                store.write_rejected(video.sha256, Verdict.rejected(str(result), is_transient=True))
    sweep(store.folder)  # of what processes left that died


class Remote(NamedTuple):
    """A video that another process is to put into the store, and all that it needs to know."""

    sha256: str
    path: str
    store: str
    view: View
    limits: Limits


def decode_remotely(video: Remote) -> int:
    """Put one video into the store, in a process of Ray's; returns the number of frames."""
    store = FrameStore(video.store, video.view.frames_key)
    path = Url(video.path) if is_url(video.path) else Path(video.path)
    decode_video(decoders_of(video.limits), store, video.sha256, path, video.view, iter)
    return store.info(video.sha256).num_frames


def say_what_came(options: StageOptions) -> None:
    """Print how many files came after the tables were made: this run leaves them out."""
    media = media_folder(options, dataset_of(options.experiment))
    known = {video.video_id for video in read_videos(options.layout.videos)}
    if came := [file.video_id for file in list_media(media) if file.video_id not in known]:
        what = f"{len(came)} file(s) have come to {media} since `index` listed it, {came[0]!r} first"
        again = f"`dvc repro` again, with `--force index@{options.name}` if it finds nothing to do"
        print(printable(f"decode: {what}; they are not in this run: {again}"))


def check_segments(options: StageOptions, verdicts: Mapping[str, Verdict]) -> None:
    """Refuse segments after the last frame of a video, which only decoding tells for sure; raises DataError.

    Of a damaged video frames are lost, so its segments may be right: those after its last frame are printed.
    """
    path = options.layout.segments
    segments = read_segments(path)
    ends = {name: verdict.end_seconds for name, verdict in verdicts.items()}
    check_ends(path, segments, {name: end for name, end in ends.items() if end and verdicts[name].status == "ok"})
    for segment in segments:
        end = ends.get(segment.video_id)
        if end and segment.end_seconds > end[1]:
            line = f"decode: {segment.video_id}: frames end at {end[0]:.3f} s, its segment {segment.label!r} later"
            print(printable(line))


def decode_video(
    decoders: DecoderPool,
    store: FrameStore,
    sha256: str,
    path: Path | Url,
    view: View,
    watch: Callable[[Iterator[Frame]], Iterator[Frame]],
) -> None:
    """Put one video into the store; one without a usable frame is stored as its reason. watch: passes its frames on."""
    try:
        if content_hash(path) != sha256:
            store.write_rejected(sha256, Verdict.rejected(CHANGED, is_transient=True))
            return
    except OSError as error:
        store.write_rejected(sha256, Verdict.rejected(f"cannot be read: {error.strerror}", is_transient=True))
        return
    except RejectedVideo as error:  # of an object, which `index` could fetch
        raise DataError(f"{path}: {error}; run again when it can be fetched: what is decoded is kept") from None
    reader = decoders.reader(path)
    try:
        frames = watch(reader.frames(view.fps, view.short_side))
        store.write(sha256, frames, lambda: reader.verdict)
    except RejectedVideo:
        store.write_rejected(sha256, reader.verdict)
