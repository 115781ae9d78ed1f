"""`lrcn extract PATH... --backbone B --fps R --out DIR`: one feature vector per frame of every video.

Writes `DIR/<sha256 of the video>.safetensors` (values, time_seconds, pts_seconds) and `DIR/videos.csv`, which says
which file belongs to which video. With `--config` it is the pipeline's stage, which works from the frame store.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.device import choose_devices, num_workers
from pipeline.discovery import printable
from pipeline.engine import add_engine_arguments, opened_engine
from pipeline.errors import ConfigError, RejectedVideo
from pipeline.features.backbones import backbone_file, load_backbone
from pipeline.features.extract import Extractor
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.files import write_table
from pipeline.inference.answers import status_of
from pipeline.inference.inputs import Inputs, add_decoding_arguments, add_input_arguments, inputs_of, limits_of
from pipeline.inference.ledger import CHANGED, file_state
from pipeline.inference.shards import inputs_of_shard
from pipeline.prefetch import reading_ahead
from pipeline.progress import Progress
from pipeline.remote import content_hash
from pipeline.remotenames import is_url, without_secrets
from pipeline.shards import Shard, add_shard_argument, forget_shards, writing
from pipeline.threads import in_threads
from pipeline.video.isolation import DecoderPool
from pipeline.video.limits import Limits
from pipeline.video.reader import Frame
from pipeline.view import View, features_key

if TYPE_CHECKING:
    from pipeline.raypool import RayPool

COLUMNS = ("path", "status", "reason", "sha256", "num_frames")


def main(argv: Sequence[str] | None = None) -> int:
    """Extract every file; 0 when all were done, 1 when some could not be."""
    options_given = itertools.takewhile(lambda argument: argument != "--", argv or ())
    if any(argument.split("=")[0] == "--config" for argument in options_given):
        from pipeline.stages.extract import main as stage

        stage(argv)
        return 0
    parser = argparse.ArgumentParser(prog="lrcn extract", description=__doc__, allow_abbrev=False)
    add_input_arguments(parser)
    parser.add_argument("--backbone", required=True, help="a classification model of torchvision, e.g. resnet50")
    parser.add_argument("--weights", default="default", help="a weights file (default: torchvision's own)")
    parser.add_argument("--layer", default="", help="layer whose output is the feature (default: before the last one)")
    parser.add_argument("--fps", type=float, required=True, help="frames per second of video")
    parser.add_argument("--short-side", type=int, default=256, help="pixels after resizing (default 256)")
    parser.add_argument("--crop", type=int, default=224, help="pixels of the square in the middle (default 224)")
    parser.add_argument("--crops", type=int, choices=[1, 10], default=1, help="squares of each frame (default 1)")
    parser.add_argument("--flow", choices=["dis", "farneback"], default="", help="optical flow instead of colour")
    parser.add_argument("--out", required=True, type=_folder, metavar="DIR", help="folder for the features")
    add_shard_argument(parser, "writes the table")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add_decoding_arguments(parser)
    add_engine_arguments(parser)
    options = parser.parse_args(argv)
    limits = limits_of(options)
    try:
        view = View(options.fps, options.short_side, options.crop, crops=options.crops, flow=options.flow)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    inputs = inputs_of(options, "extract", out=options.out)
    with writing(options.out, options.shard):
        if options.shard:
            inputs = inputs_of_shard(inputs, options.shard)
        else:
            forget_shards(options.out)
        backbone = load_backbone(
            options.backbone, options.weights, seed=0, layer=options.layer, crop=view.crop, is_flow=bool(view.flow)
        )  # fmt: skip
        backbone.check_crop(view.crop)
        store = FeatureStore(options.out, features_key(view, backbone.name, backbone.weights_sha256))
        workers = num_workers(options.workers)
        with opened_engine(
            options.engine, options.ray_address, workers=options.workers, device=options.device, command="extract"
        ) as engine:
            if engine is not None:
                from pipeline.raypool import RayPool

                with RayPool(engine, {"backbone.safetensors": backbone_file(backbone)}, view) as pool:
                    return extract_files(inputs, store, partial(features_by_ray, pool, limits), workers, options.shard)
            extractor = Extractor(
                backbone, view.crop, choose_devices(options.device), workers=workers, crops=view.crops, flow=view.flow
            )
            with DecoderPool(limits) as decoders:
                features_of = partial(features_here, decoders, extractor, view)
                return extract_files(inputs, store, features_of, workers, options.shard)


# From content hash to path, and a function told of frames: the features of each video, or the error that it ended in,
# and what was wrong with it.
FeaturesOf = Callable[[Mapping[str, str], Callable[[int], None]], Iterator[tuple[str, VideoFeatures | Exception, str]]]


def features_here(
    decoders: DecoderPool, extractor: Extractor, view: View, videos: Mapping[str, str], progress: Callable[[int], None]
) -> Iterator[tuple[str, VideoFeatures | Exception, str]]:
    """FeaturesOf, by this process."""
    readers = {sha256: decoders.reader(path) for sha256, path in videos.items()}
    jobs: Iterator[tuple[str, Iterator[Frame]]] = (
        (sha256, reader.frames(view.fps, view.short_side)) for sha256, reader in list(readers.items())
    )
    for sha256, result in reading_ahead(videos.values(), extractor.run(jobs, progress)):
        reader = readers.pop(sha256)
        yield sha256, result, "" if isinstance(result, Exception) else reader.verdict.reason


def features_by_ray(
    pool: "RayPool", limits: Limits, videos: Mapping[str, str], progress: Callable[[int], None]
) -> Iterator[tuple[str, VideoFeatures | Exception, str]]:
    """FeaturesOf, by Ray."""
    from pipeline.raydecode import FileSource

    hashes = list(videos)
    sources = ((sha256, FileSource.of(path, limits)) for sha256, path in videos.items())
    for done in pool.run(sources, progress):
        yield hashes[done.number], done.result, "" if done.end.verdict is None else done.end.verdict.reason


def extract_files(
    inputs: Inputs, store: FeatureStore, features_of: FeaturesOf, workers: int, shard: Shard | None
) -> int:
    """Write features and the table; returns the exit code. Equal files are done once, stored ones not again.

    A video that gives no features is stored with the reason, unless another try may go better. shard: the one whose
    inputs they are; then there is no table.
    """
    rows: dict[str, list[object]] = {}
    todo: dict[str, str] = {}
    states: dict[str, str] = {}
    hashes = reading_ahead(inputs.files, in_threads(identify, inputs.files, workers))
    found = dict(zip(inputs.files, Progress("hash", len(inputs.files)).over(hashes), strict=True))
    for path in inputs.paths:
        state, sha256, reason = found.get(path, ("", "", inputs.reasons.get(path, "")))
        status = "failed" if path in found and is_url(path) else "rejected"
        rows[path] = [path, status if reason else "ok", reason, sha256, 0]
        if sha256 and sha256 not in todo and not store.has(sha256):
            todo[sha256], states[sha256] = path, state
    failures: dict[str, tuple[str, str]] = {}
    progress = Progress("extract", len(todo))
    for sha256, result, damage in progress.over(features_of(todo, progress.add_frames)):
        if file_state(todo[sha256]) != states[sha256]:
            failures[sha256] = ("failed", CHANGED)
        elif isinstance(result, RejectedVideo) and not result.is_transient:
            store.write_rejected(sha256, str(result))
        elif isinstance(result, Exception):
            failures[sha256] = (status_of(result), str(result))
        else:
            store.write(sha256, result, damage=damage)
    for row in rows.values():
        sha256 = str(row[3])
        if sha256 in failures:
            row[1], row[2] = failures[sha256]
        elif sha256:
            try:
                features, damage = store.read_with_damage(sha256)
                row[1], row[2], row[4] = "damaged" if damage else "ok", damage, len(features.values)
            except RejectedVideo as error:
                row[1], row[2] = "rejected", str(error)
    where, name = str(store.folder), "" if shard is None else f"shard {shard}, "
    if shard is None:
        write_table(store.folder / "videos.csv", COLUMNS, list(rows.values()))
    else:
        where = "videos.csv, which the same command without --shard writes"
    bad = [row for row in rows.values() if row[1] in ("rejected", "failed")]
    done = f"extract: {name}{len(rows) - len(bad)} of {len(rows)} file(s) have features, {len(todo)} looked at now"
    print(printable(f"{done}; see {where}"))
    for row in bad:
        print(printable(f"extract: {row[0]}: {row[1]}: {row[2]}"), file=sys.stderr)
    return 1 if bad else 0


def identify(path: str) -> tuple[str, str, str]:
    """State and content hash of a file, or why it cannot be read."""
    state = file_state(path)
    try:
        return state, content_hash(path), ""
    except OSError as error:
        return state, "", f"cannot be read: {error.strerror}"
    except RejectedVideo as error:  # of an address
        return state, "", str(error)


def _folder(text: str) -> Path:
    if is_url(text):
        raise argparse.ArgumentTypeError(f"{without_secrets(text)}: features are written to a folder; name one")
    return Path(text)
