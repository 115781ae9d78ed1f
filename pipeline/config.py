"""Experiments and runtime settings: the only reader of `configs/`. Strict, typed, every problem reported at once."""

import difflib
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from pipeline.cache import DEFAULT_GB
from pipeline.errors import ConfigError
from pipeline.video.limits import Limits
from pipeline.view import View

Task = Literal["clip", "frame"]
TASKS: tuple[Task, ...] = ("clip", "frame")
Stream = Literal["rgb", "flow"]

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
SectionType = TypeVar("SectionType", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Backbone(_Section):
    """The CNN that turns a frame into a vector.

    name: any of torchvision's classification models.
    weights: `default` (torchvision's, downloaded once), `random` (from the seed; to be fine-tuned), or a file's path.
    layer: the layer whose output is the feature, flattened, e.g. `classifier.1` (fc6 of AlexNet); "" = what enters the
    last linear layer.
    """

    name: Name
    weights: str = "default"
    layer: str = ""


class EndToEnd(_Section):
    """Training of the CNN with an LSTM on top of it, on random windows of frames (LRCN's second step).

    batch_size: windows a step. dropout: on the features, and behind the LSTM. backbone_lr: of the CNN, lr of the rest.
    """

    epochs: Positive
    clip_frames: Positive = 16
    batch_size: Positive = 8
    hidden_size: Positive = 256
    lr: Annotated[float, Field(gt=0)] = 0.001
    backbone_lr: Annotated[float, Field(gt=0)] = 0.0001
    weight_decay: Annotated[float, Field(ge=0)] = 0.005
    dropout: Fraction = 0.5
    clip_norm: Annotated[float, Field(gt=0)] = 5.0


class Finetune(_Section):
    """Single-frame fine-tuning of the backbone on the training split (the LRCN recipe's first step).

    end_to_end: what follows it, if anything: the CNN and an LSTM trained together.
    """

    epochs: Positive
    frames_per_video: Positive
    batch_size: Positive = 64
    lr: Annotated[float, Field(gt=0)] = 0.001
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    label_smoothing: Fraction = 0.0
    flip: bool = False
    end_to_end: EndToEnd | None = None


class Train(_Section):
    """A recurrent network and its training.

    head: how a clip's timesteps become one answer (`pipeline/models/recurrent.py`); the frame task answers at each.
    smoothing: weight of the frame task's smoothing loss. warm_up: share of the steps in which the learning rate rises;
    then it follows `schedule`, of which `step` divides it by 10 every `step_epochs`. balance: rare classes count more
    in the loss, or are drawn more often. chunk_frames: truncated back-propagation of the frame task, 0 = whole
    recordings. patience: epochs without a better validation loss. memory_steps: timesteps over which gates remember
    before anything is learned, 0 = PyTorch's own weights.
    """

    cell: Literal["lstm", "gru", "rnn"] = "lstm"
    hidden_size: Positive = 256
    num_layers: Positive = 1
    bidirectional: bool = False
    motion: bool = False
    input_dropout: Fraction = 0.0
    dropout: Fraction = 0.5
    head: Literal["mean", "last", "ramp", "attention"] = "mean"
    memory_steps: Annotated[int, Field(ge=0)] = 0
    smoothing: Annotated[float, Field(ge=0)] = 0.0
    epochs: Positive = 50
    batch_size: Positive = 24
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 0.001
    warm_up: Fraction = 0.05
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    step_epochs: Positive = 10
    weight_decay: Annotated[float, Field(ge=0)] = 0.005
    label_smoothing: Fraction = 0.0
    balance: Literal["none", "loss", "sampling"] = "none"
    clip_norm: Annotated[float, Field(gt=0)] = 5.0
    chunk_frames: Annotated[int, Field(ge=0)] = 0
    patience: Positive = 10


class TrainByTask(_Section):
    """Which of the two tasks an experiment trains."""

    clip: Train | None = None
    frame: Train | None = None

    @model_validator(mode="after")
    def _of_its_task(self) -> "TrainByTask":
        if self.clip is not None and (self.clip.chunk_frames or self.clip.smoothing):
            raise ValueError("train.clip: chunk_frames and smoothing are the frame task's; expected 0")
        if self.frame is not None and self.frame.head != "mean":
            raise ValueError(
                f"train.frame.head is {self.frame.head!r}; the frame task answers at each step: leave it out"
            )
        if self.frame is not None and self.frame.chunk_frames and self.frame.bidirectional:
            raise ValueError(
                "train.frame: chunk_frames carries a state on, which a bidirectional network has not: "
                "set chunk_frames to 0 or bidirectional to false"
            )
        return self


class Flow(_Section):
    """The second stream: optical flow between the frames, with a CNN and a recurrent network of its own.

    weight: of the flow stream's probabilities in the fusion, the rest is RGB's (paper: 1/2 and 2/3); `validation` takes
    the weight that scores best on the validation side.
    """

    method: Literal["dis", "farneback"] = "dis"
    backbone: Backbone
    finetune: Finetune | None = None
    train: TrainByTask
    weight: Annotated[float, Field(gt=0, lt=1)] | Literal["validation"] = 0.5


class Audit(_Section):
    """What is checked before anything is trained.

    allow_leak: train on a split whose sides share recordings; every score made with it then says so.
    max_shortcut_auc: a classifier that sees file properties alone and scores higher is warned of.
    """

    allow_leak: bool = False
    max_shortcut_auc: Annotated[float, Field(ge=0.5, le=1)] = 0.65


class Evaluate(_Section):
    """Scores and their intervals.

    precision: wanted share of right answers among those given, at most 0.99, to which models hold thresholds; below the
    confidence that reaches it on the validation side, an answer is "unsure". false_alarms_per_hour: the rate at which
    the recall of alarm-like classes is read off.
    """

    bootstrap_samples: Positive = 1000
    precision: Annotated[float, Field(gt=0, le=0.99)] = 0.9
    false_alarms_per_hour: Annotated[float, Field(gt=0)] = 1.0


class Probe(_Section):
    """Test videos shown with their background, order or light changed: how often the answer changes.

    videos: how many of each training's test videos, spread evenly over the classes.
    """

    videos: Positive = 60


class StreamSettings(_Section):
    """One stream of an experiment: how it looks at a video, its CNN, and what is trained on it."""

    view: View
    backbone: Backbone | None
    finetune: Finetune | None
    train: TrainByTask

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks trained on this stream."""
        return tuple(task for task in TASKS if self.settings(task) is not None)

    def settings(self, task: Task) -> Train | None:
        """Training settings of a task, None when the experiment leaves it out."""
        return self.train.clip if task == "clip" else self.train.frame


class Experiment(_Section):
    """One file of `configs/`: everything that changes a result.

    seed: every random choice. num_seeds: trainings of each kind, with seeds seed, seed + 1, ...
    backbone: None where the data set holds ready-made features; the view then has neither short_side nor crop (0).
    flow: the second stream; without it there is RGB alone. probe: None where no pictures are probed.
    """

    dataset: Name
    seed: Annotated[int, Field(ge=0)]
    num_seeds: Positive = 1
    folds: Annotated[list[Positive], Field(min_length=1)]
    view: View
    backbone: Backbone | None
    finetune: Finetune | None = None
    train: TrainByTask
    flow: Flow | None = None
    audit: Audit = Audit()
    evaluate: Evaluate = Evaluate()
    probe: Probe | None = None

    @model_validator(mode="after")
    def _pictures_or_features(self) -> "Experiment":
        if self.backbone is None and (self.view.has_pictures or self.finetune is not None or self.flow is not None):
            raise ValueError(
                "backbone is empty, as for a data set of ready-made features: "
                "expected view.short_side: 0, view.crop: 0, finetune: null and flow: null"
            )
        if self.view.flow:
            raise ValueError(
                f"view.flow is {self.view.flow!r}; expected it in flow.method: the flow stream has a section of its own"
            )
        if self.backbone is not None and not self.view.has_pictures:
            raise ValueError(
                "view.short_side and view.crop are 0, but there is a backbone; expected the pixels it sees"
            )
        return self

    @model_validator(mode="after")
    def _each_fold_once(self) -> "Experiment":
        if twice := sorted({fold for fold in self.folds if self.folds.count(fold) > 1}):
            raise ValueError(f"folds: {twice[0]} is given twice; expected each fold once")
        return self

    @property
    def seeds(self) -> range:
        """Seeds of the trainings."""
        return range(self.seed, self.seed + self.num_seeds)

    @property
    def streams(self) -> tuple[Stream, ...]:
        """`rgb`, and `flow` where the experiment has it."""
        return ("rgb",) if self.flow is None else ("rgb", "flow")

    @property
    def fused_tasks(self) -> tuple[Task, ...]:
        """Tasks that both streams are trained for, so that their answers can be fused."""
        if self.flow is None:
            return ()
        return tuple(task for task in self.stream("flow").tasks if task in self.stream("rgb").tasks)

    def stream(self, name: Stream) -> StreamSettings:
        """Settings of a stream; raises ConfigError for one that the experiment has not."""
        if name == "rgb":
            return StreamSettings(view=self.view, backbone=self.backbone, finetune=self.finetune, train=self.train)
        if self.flow is None:
            raise ConfigError("flow is empty; expected the settings of the flow stream, or run `lrcn select` again")
        return StreamSettings(
            view=replace(self.view, flow=self.flow.method),
            backbone=self.flow.backbone,
            finetune=self.flow.finetune,
            train=self.flow.train,
        )


class Runtime(_Section):
    """`configs/runtime.yaml`: what changes speed, and no result.

    device: `auto` takes GPUs when there are some; extraction uses them all. workers: videos decoded at a time; 0 = one
    per core. limits: what one file may cost before it is given up; only files that exceed them come out otherwise.
    frames_memory_gb: decoded frames that end-to-end training keeps in memory (of each process); others are decoded anew
    in every epoch. cache_gb: fetched media that are kept on the disk, see `pipeline.cache`; LRCN_CACHE_GB, where it is
    set, says so instead. engine: what the stages decode and extract run on; ray_address: of a running Ray cluster, ""
    for that of RAY_ADDRESS, or one that is started on this machine.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    limits: Limits = Limits()
    frames_memory_gb: Annotated[float, Field(ge=0)] = 2.0
    cache_gb: Annotated[float, Field(ge=0)] = DEFAULT_GB
    engine: Literal["local", "ray"] = "local"
    ray_address: str = ""


def load_experiment(path: Path | str) -> Experiment:
    """Read an experiment; raises ConfigError naming every problem of the file."""
    return _load(Path(path), Experiment)


def load_runtime(path: Path | str) -> Runtime:
    """Read the runtime settings; a missing file means the defaults."""
    path = Path(path)
    return _load(path, Runtime) if path.exists() else Runtime()


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; raises ConfigError when the file is missing, no YAML, no mapping, or repeats a key."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    try:
        value = _StrictLoader(text).get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, got {type(value).__name__}")
    return value


def parse(value: dict[str, Any], kind: type[SectionType], where: Path | str) -> SectionType:
    """Check a mapping against a section; raises ConfigError with one line that lists all problems."""
    try:
        # Through JSON, because strict mode takes no mapping for a nested section when it validates Python objects.
        return TypeAdapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        problems = [_describe(problem, kind) for problem in error.errors()]
        raise ConfigError(f"{where} has {len(problems)} problem(s): " + "  |  ".join(problems)) from None


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _describe(problem: Any, kind: type[BaseModel]) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    got = problem["input"]
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _keys_beside(kind, problem["loc"])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.5)
        return f"{location}: unknown key, " + (
            f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(sorted(known))}"
        )
    if problem["type"] in ("missing", "missing_argument"):
        return f"{location}: missing"
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    hint = ""
    if isinstance(got, str) and problem["type"].startswith(("float", "int")):
        hint = " (YAML reads 1e-3 as text; write 0.001)"
    if not isinstance(got, str | dict | list) and problem["type"] == "string_type":
        hint = " (YAML reads words like no and 007 as values; put quotes around it)"
    expected = problem["msg"].removeprefix("Input should be ")
    return f"{location}: expected {expected}, got {got!r}{hint}"


def _keys_beside(kind: Any, location: tuple[Any, ...]) -> list[str]:
    """Names of the fields that stand beside the last part of a location."""
    for part in location[:-1]:
        hints = get_type_hints(kind)
        if part not in hints:
            break
        members = [member for member in (get_args(hints[part]) or (hints[part],)) if isinstance(member, type)]
        kind = next((member for member in members if hasattr(member, "__annotations__")), kind)
    return [name for name in get_type_hints(kind) if not name.startswith("_") and name != "model_config"]


def _load(path: Path, kind: type[SectionType]) -> SectionType:
    return parse(read_yaml(path), kind, path)
