"""Ready-made features in place of a CNN and its work: described in stage `finetune`, imported in stage `extract`."""

from pipeline.data.featurefiles import steps_on_grid
from pipeline.data.tables import read_csv, usable_videos
from pipeline.errors import DataError, LrcnError, RejectedVideo, StoreError, ViewMismatch
from pipeline.features.backbones import Backbone, given_features, read_backbone
from pipeline.features.store import FeatureStore, VideoFeatures
from pipeline.files import write_contents
from pipeline.progress import Progress
from pipeline.stages.checkfeatures import checked_values
from pipeline.stages.layout import StageOptions, dataset_of
from pipeline.view import features_key


def describe_features(options: StageOptions) -> Backbone:
    """In place of a CNN: what the features are, as the table of videos states it."""
    card = dataset_of(options.experiment).card
    features, frames = card.features, card.labels.frames
    videos = usable_videos(options.layout.videos)
    if features is None or not videos:
        raise DataError(f"{options.layout.videos}: no usable feature file; run the index stage again")
    feature_first = any(video.codec.endswith("feature_first") for video in videos)
    return given_features(videos[0].width, features.fps, feature_first, (frames.column if frames else None) or "")


def import_all(options: StageOptions) -> None:
    """In place of a CNN's work: the files' numbers, at the view's rate, into the feature store."""
    layout, view, name = options.layout, options.settings.view, options.representation
    dataset = dataset_of(options.experiment)
    backbone = read_backbone(layout.backbone(name) / "backbone.safetensors")
    store = FeatureStore(layout.features(name), features_key(view, backbone.name, backbone.weights_sha256))
    accepted = {row["video_id"] for _, row in read_csv(layout.decoded, ["video_id", "status"]) if row["status"] == "ok"}
    videos = {video.sha256: video for video in usable_videos(layout.videos) if video.video_id in accepted}
    source_fps = float(backbone.arrays()["fps"])
    grids = {sha256: steps_on_grid(v.num_frames_header, source_fps, view.fps) for sha256, v in videos.items()}
    missing = [sha256 for sha256 in videos if stored_length(store, sha256) != len(grids[sha256][0])]
    for sha256 in Progress("extract", len(missing)).over(iter(missing)):
        video, (steps, times) = videos[sha256], grids[sha256]
        try:
            values = checked_values(options, dataset, video)
        except (RejectedVideo, OSError) as error:
            raise LrcnError(f"{video.video_id}: {error}; run the stages index and decode again") from None
        store.write(sha256, VideoFeatures(values[steps], times, times))
    removed = store.prune(set(videos))
    write_contents(layout.features_table(name), store, videos)
    print(
        f"extract: {len(missing)} of {len(videos)} feature files imported, the rest was there; "
        f"{len(removed)} old entries removed; "
        f"{backbone.feature_size} features a timestep, {source_fps:g} timesteps a second taken at {view.fps:g}"
    )


def stored_length(store: FeatureStore, sha256: str) -> int:
    """Timesteps stored of a file, 0 when there are none, or damaged ones: labels may have cut it to another length."""
    try:
        return len(store.read(sha256).values)
    except (StoreError, ViewMismatch):
        return 0
