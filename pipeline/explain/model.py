"""A model down to its videos: files, features, settings, tables, media, and the commit."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from safetensors import SafetensorError

from pipeline.config import Stream, load_experiment
from pipeline.data.tables import SIDES, Side
from pipeline.errors import LrcnError
from pipeline.explain.facts import Fact, broken, compared, holds, unchecked
from pipeline.features.store import checksum, read_arrays
from pipeline.files import content_hash
from pipeline.metricnames import flatten
from pipeline.models.modelspec import FILES, FOLD_FILE, FoldVideo, ModelSpec, read_description, read_fold
from pipeline.modelstore import cache_folder
from pipeline.stages.layout import Layout, dataset_of, representation, training_name
from pipeline.stages.provenance import has_commit, training_settings
from pipeline.stages.samples import fold_videos
from pipeline.view import features_key

TABLES = ("videos", "segments", "splits")
OLD_TABLES = "`git log -p dvc.lock` and `dvc checkout` bring back older ones; or train again"


@dataclass(frozen=True)
class KnownModel:
    """A model by its description.

    described: the folder whose `model.yaml` says it. folder: where the whole model is; None where it is nowhere.
    sha256: of `model.yaml`, which holds the hashes of all other files: the model's identity.
    """

    described: Path
    folder: Path | None
    sha256: str
    spec: ModelSpec
    files: dict[str, str]

    @classmethod
    def read(cls, described: Path, folder: Path | None) -> "KnownModel":
        """Raises ModelError for what is no description of a model."""
        spec, files = read_description(described)
        return cls(described, folder, content_hash(described / "model.yaml"), spec, files)

    def stated(self, name: str) -> str:
        """What the model's provenance says, "" where it says nothing."""
        return str(self.spec.provenance.get(name, ""))

    @property
    def layout(self) -> Layout | None:
        """Files of its experiment, None where the model does not say which, or nothing of it is here."""
        name = self.stated("experiment")
        layout = Layout(name)
        return layout if name and Path(name).name == name and layout.root.is_dir() else None

    @property
    def training(self) -> str:
        """Name of its training."""
        fold, seed = (self.stated(name) for name in ("fold", "seed"))
        numbers = [int(text) if text.isdecimal() else 0 for text in (fold, seed)]
        return training_name(self.spec.task, self.stream, *numbers)

    @property
    def stream(self) -> Stream:
        """Colour, or optical flow."""
        return "flow" if self.spec.view.flow else "rgb"

    @cached_property
    def side_of(self) -> dict[str, Side]:
        """Side of the model's fold by SHA-256 of the video; empty where neither the model nor a table says."""
        return {video.sha256: video.split for video in self.fold or []}

    @cached_property
    def fold(self) -> list[FoldVideo] | None:
        """The videos of its fold: as the model says, else as the tables do that it was trained with."""
        try:
            if self.folder is not None and FOLD_FILE in self.files:
                is_own = hash_or_none(self.folder / FOLD_FILE) == self.files[FOLD_FILE]
                return read_fold(self.folder) if is_own else None
            layout = self.layout
            if layout is not None and all(
                hash_or_none(getattr(layout, name)) == self.stated(f"{name}.sha256") for name in TABLES
            ):
                experiment = load_experiment(Path("configs") / f"{layout.experiment}.yaml")
                return fold_videos(
                    layout, dataset_of(experiment), task=self.spec.task, fold=int(self.stated("fold")),
                    is_finetuned=experiment.stream(self.stream).finetune is not None,
                )  # fmt: skip
        except (LrcnError, ValueError, KeyError):
            pass  # what is wrong with a table is said where the tables are checked
        return None


def find_model(sha256: str) -> list[Path]:
    """Model folders on this machine with this `model.yaml`: those of trainings, then fetched ones."""
    paths = [*sorted(Path("artifacts").glob("*/trainings/*/model/model.yaml"))]
    paths += sorted(cache_folder().glob("*/model.yaml"))
    return [path.parent for path in paths if hash_or_none(path) == sha256]


def model_facts(model: KnownModel) -> list[Fact]:
    """What the model is, and whether its files, features, settings and tables are those it states."""
    spec = model.spec
    cell, size = spec.architecture.get("cell"), spec.architecture.get("hidden_size")
    return [
        Fact("task", f"{spec.task}, {len(spec.classes)} classes: {', '.join(spec.classes)}"),
        Fact("network", f"{cell} of {size} on {spec.backbone} features"),
        Fact("view", ", ".join(f"{name} {value}" for name, value in vars(spec.view).items() if value)),
        *([] if model.folder is None else _files(model, model.folder)),
        _features_key(model),
        _settings(model),
        _commit(model),
    ]


def tables_fact(model: KnownModel) -> Fact:
    """The tables of the experiment against the hashes that the model states."""
    name, layout = model.stated("experiment") or "an unknown experiment", model.layout
    top = Fact("data", f"{model.stated('dataset') or 'unknown'}, fold {model.stated('fold') or 'unknown'}")
    for table in TABLES:
        expected = model.stated(f"{table}.sha256")
        if not expected:
            top.add(unchecked(f"{table}.csv", reason="the model does not state its hash"))
        elif layout is None:
            top.add(
                unchecked(f"{table}.csv", expected, reason=f"no folder artifacts/{name} here; `dvc pull` brings it")
            )
        else:
            path = getattr(layout, table)
            top.add(_file_fact(path, expected, OLD_TABLES))
    if model.fold is None:
        top.add(unchecked("sides", reason="neither the model nor tables with its hashes say which videos it saw"))
    else:
        counts = {side: sum(video.split == side for video in model.fold) for side in SIDES}
        names = ("training", "validation", "test")
        top.add(Fact("sides", ", ".join(f"{counts[side]} {word}" for side, word in zip(SIDES, names, strict=True))))
    return top


def representation_of(model: KnownModel) -> str:
    """Name of the CNN and the features that the model was trained on; ConfigError, OSError where that is unknown."""
    experiment = load_experiment(Path("configs") / f"{model.stated('experiment')}.yaml")
    return representation(experiment, model.stream, int(model.stated("fold")))


def _files(model: KnownModel, folder: Path) -> list[Fact]:
    advice = "the file is damaged or was exchanged: copy or fetch the model again, or `dvc checkout`"
    return [_file_fact(folder / name, expected, advice, name) for name, expected in model.files.items()]


def _file_fact(path: Path, expected: str, advice: str, name: str = "") -> Fact:
    found = hash_or_none(path)
    if found is None:
        return broken(name or str(path), expected=expected, found="no such file", advice="`dvc checkout` or `dvc pull`")
    return compared(
        name or str(path), expected if found == expected else "", expected=expected, found=found, advice=advice
    )


def _features_key(model: KnownModel) -> Fact:
    name, key = "features key", model.spec.features_key
    if model.folder is None:
        return unchecked(name, key, reason="the CNN is in the model folder, which is nowhere")
    try:
        arrays, metadata = read_arrays(model.folder / "backbone.safetensors")
    except (OSError, SafetensorError) as error:
        return unchecked(name, key, reason=f"backbone.safetensors cannot be read ({' '.join(str(error).split())})")
    found = features_key(model.spec.view, model.spec.backbone, checksum(arrays, metadata.get("layer", "")))
    advice = "the view or the CNN in the folder is not the one that the network was trained on: copy the model again"
    return compared(name, key if found == key else "", expected=key, found=found, advice=advice)


def _settings(model: KnownModel) -> Fact:
    """The settings in the model against `configs/` as it is now."""
    path = Path("configs") / f"{model.stated('experiment')}.yaml"
    name, then = f"settings ({path})", model.spec.provenance.get("config")
    if not isinstance(then, dict):
        return unchecked(name, reason="the model does not state any")
    if not path.is_file():
        return unchecked(name, reason=f"{path} is not here")
    try:
        now = flatten(training_settings(load_experiment(path), model.stream, model.spec.task), ".")
    except (LrcnError, TypeError, KeyError) as error:
        return unchecked(name, reason=f"{path} does not train such a model now ({error})")
    before = flatten(then, ".")
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if not changed:
        return holds(name)
    return broken(
        name,
        expected=", ".join(f"{key}: {json.dumps(before.get(key))}" for key in changed),
        found=", ".join(f"{key}: {json.dumps(now.get(key))}" for key in changed),
        advice="put the values back, or `dvc repro` trains with the new ones",
    )


def _commit(model: KnownModel) -> Fact:
    commit, dirty = model.stated("git.commit"), model.stated("git.dirty")
    if commit in ("", "unknown"):
        return unchecked("commit", reason="trained outside a git checkout")
    known = has_commit(commit)
    if known is None:
        return unchecked("commit", commit, reason="no git checkout here")
    if not known:
        advice = "fetch the branch that it was trained on"
        return broken("commit", expected=commit, found="no such commit in this repository", advice=advice)
    fact = holds("commit", commit)
    if dirty == "true":
        reason = "tracked files differed from the commit when it was trained; dvc.lock has the hashes of the code"
        fact.add(unchecked("working tree", reason=reason))
    return fact


def hash_or_none(path: Path | str) -> str | None:
    """SHA-256 of a file, None where it cannot be read."""
    try:
        return content_hash(path)
    except OSError:
        return None


def described_model(described: Path) -> KnownModel:
    """The model that a folder's `model.yaml` describes, looked for where models are; raises ModelError for none."""
    model = KnownModel.read(described, None)
    if (described / FILES[0]).exists():
        return replace(model, folder=described)
    return replace(model, folder=next(iter(find_model(model.sha256)), None))
