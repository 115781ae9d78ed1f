"""The videos that a model was made from, and what was stored of them on the way: features and CNN."""

from pathlib import Path

from pipeline.data.cards import read_dataset
from pipeline.data.tables import Video, read_videos
from pipeline.errors import LrcnError, RejectedVideo
from pipeline.explain.facts import Fact, broken, compared, holds, some_of, unchecked
from pipeline.explain.model import KnownModel, hash_or_none, representation_of
from pipeline.features.store import FeatureStore
from pipeline.remote import content_hash
from pipeline.remotenames import Url, media_at
from pipeline.threads import in_threads

READERS = 4  # files read at a time
MEDIA_ADVICE = "put the file back as it was, or `dvc repro`: the stage `index` takes it as new"


def videos_fact(model: KnownModel, read_all: bool) -> Fact:
    """The media files of the model's fold: their sizes, and with `read_all` their SHA-256."""
    top = Fact("videos")
    if model.fold is None:
        return top.add(unchecked("media", reason="which videos the model saw is not known, see above"))
    try:
        media = media_of(model)
        rows = {video.sha256: video for video in read_videos(model.layout.videos)} if model.layout else {}
    except LrcnError as error:
        return top.add(unchecked("media", reason=str(error)))
    if isinstance(media, Url) and not read_all:
        return top.add(unchecked(f"{media}", reason="not asked; --videos fetches it"))
    if not isinstance(media, Url) and not media.is_dir():
        return top.add(unchecked(f"{media}", reason="the folder is not here"))
    there = [rows[video.sha256] for video in model.fold if video.sha256 in rows]
    gone = len(model.fold) - len(there)
    top.value = f"{media}"
    if gone:
        words = f"{gone} of the fold's videos"
        top.add(unchecked(words, reason="videos.csv does not name them now, so their files are not known"))
    wrong = [fact for fact in in_threads(lambda row: _media_fact(media, row, read_all), there, READERS) if fact]
    what = "SHA-256" if read_all else "size"
    top.add(*some_of(wrong))
    if len(there) > len(wrong):
        top.add(holds(f"{len(there) - len(wrong)} of {len(there)} files", f"{what} as in videos.csv"))
    if not read_all and there:
        megabytes = sum(video.size_bytes for video in there) / 1e6
        top.add(unchecked("content", reason=f"not read; --videos reads it ({megabytes:.1f} MB)"))
    return top


def features_fact(model: KnownModel, read_all: bool) -> Fact:
    """The stored features that the network was trained on, and the CNN that made them."""
    top, layout = Fact("features"), model.layout
    if layout is None:
        return top.add(unchecked("stored features", reason="nothing of the experiment is here"))
    try:
        name = representation_of(model)
    except (LrcnError, ValueError) as error:
        return top.add(unchecked("stored features", reason=f"which they are is not known ({error})"))
    path, expected = layout.backbone(name) / "backbone.safetensors", model.files.get("backbone.safetensors", "")
    top.value = str(layout.features(name))
    found = hash_or_none(path)
    if found is None:
        top.add(unchecked(str(path), reason="not here; `dvc pull` brings it"))
    else:
        advice = "the CNN was trained anew since: `dvc repro` trains the network on it, `dvc checkout` has the old back"
        top.add(compared(str(path), found if found == expected else "", expected=expected, found=found, advice=advice))
    store = FeatureStore(layout.features(name), model.spec.features_key)
    if not store.folder.is_dir():
        return top.add(unchecked(str(store.folder), reason="not here; `dvc pull` or `dvc repro` brings it"))
    stored, wanted = set(store.entries()), [video.sha256 for video in model.fold or []]
    missing = [
        broken(str(store.path(sha256)), expected="a file", found="none", advice="run `dvc repro` or `dvc pull`")
        for sha256 in wanted
        if sha256 not in stored
    ]
    present = [sha256 for sha256 in wanted if sha256 in stored]
    top.add(*some_of(missing))
    if not read_all:
        if present:
            top.add(unchecked(f"{len(present)} files", reason="there, and not read; --videos reads them"))
        return top
    faults = [(sha256, store.fault(sha256)) for sha256 in present]
    damaged = [_damaged(str(store.path(sha256)), fault) for sha256, fault in faults if fault]
    top.add(*some_of(damaged))
    if len(present) > len(damaged):
        top.add(holds(f"{len(present) - len(damaged)} of {len(wanted)} files", "checksums and key"))
    return top


def media_of(model: KnownModel) -> Path | Url:
    """The media folder of the model's data set; raises ConfigError where its card is not here."""
    return media_at(read_dataset(Path("datasets") / model.stated("dataset")).card.media)


def _media_fact(media: Path | Url, row: Video, read_all: bool) -> Fact | None:
    """What is wrong with a file, None when nothing is."""
    path = media / row.video_id
    try:
        if read_all:
            found, expected = content_hash(path), row.sha256
        else:
            found, expected = f"{Path(path).stat().st_size} bytes", f"{row.size_bytes} bytes"
    except RejectedVideo as error:  # of an object
        return broken(str(path), expected=row.sha256, found=str(error), advice=MEDIA_ADVICE)
    except OSError as error:
        return broken(str(path), expected=row.sha256, found=f"no such file ({error.strerror})", advice=MEDIA_ADVICE)
    return None if found == expected else broken(str(path), expected=expected, found=found, advice=MEDIA_ADVICE)


def _damaged(path: str, fault: str) -> Fact:
    reason, _, advice = fault.removeprefix(f"{path}: ").partition("; ")
    return broken(path, expected="the stored checksum and key", found=reason, advice=advice)
