"""Stage `probe`: test videos with their background, order or light changed; how often does the model's answer turn?"""

from collections.abc import Sequence
from functools import partial

from pipeline.data.labels import IGNORED
from pipeline.device import num_workers
from pipeline.errors import ConfigError
from pipeline.evaluation.probe import Clip, Prober, Subject, read_clip, spread
from pipeline.features.backbones import read_backbone
from pipeline.features.store import FeatureStore
from pipeline.inference.proberesults import table_of, write_probe
from pipeline.progress import Progress
from pipeline.stages.layout import StageOptions, dataset_of, stage_options
from pipeline.stages.samples import read_samples
from pipeline.stages.tracked import resumed_run
from pipeline.stages.trained import trained_model
from pipeline.video.framestore import FrameStore
from pipeline.view import features_key


def main(argv: Sequence[str] | None = None) -> None:
    """Probe one training on test videos spread over the classes."""
    options = stage_options(__doc__, argv, task=True, stream=True, fold=True, seed=True)
    with options.layout.writing(options.layout.probe(options.training)):
        probe_one(options)


def probe_one(options: StageOptions) -> None:
    """Probe the training that the options name."""
    experiment, layout, view = options.experiment, options.layout, options.settings.view
    if experiment.probe is None:
        raise ConfigError(f"configs/{options.name}.yaml: probe is empty; expected e.g. probe: {{videos: 60}}")
    training = layout.training(options.training)
    model = trained_model(options)
    backbone = read_backbone(training / "model" / "backbone.safetensors")
    key = features_key(view, backbone.name, backbone.weights_sha256)
    store = FeatureStore(layout.features(options.representation), key)
    frames = FrameStore(layout.frames, view.frames_key)
    samples = {
        sample.video.video_id: sample
        for sample in read_samples(
            layout, store, dataset_of(experiment), task=options.task, fold=options.fold, split="test"
        )
    }
    subjects = [
        Subject(
            name,
            sample.video.group,
            sample.labels[:1] if options.task == "clip" else sample.labels,
            partial(_load, frames, sample.video.sha256),
        )
        for name, sample in samples.items()
    ]
    prober = Prober(model, backbone, num_workers(options.runtime.workers))
    labels = [int(subject.labels[0]) if options.task == "clip" else IGNORED for subject in subjects]
    chosen = [subjects[place] for place in spread(labels, experiment.probe.videos, experiment.seed)]
    probed = prober.probe(
        chosen,
        subjects,
        seed=experiment.seed,
        expected=lambda subject: model.predict(samples[subject.video_id].features, key),
    )
    title = f"{options.name}, {options.training}: answers that turned"
    scores = write_probe(
        layout.probe(options.training),
        Progress("probe", len(chosen)).over(probed),
        model.classes,
        title,
        samples=experiment.evaluate.bootstrap_samples,
        seed=experiment.seed,
    )
    with resumed_run(options, key) as run:
        run.log_metrics({f"probe/{name}": change["flip_rate"] for name, change in scores["changes"].items()})
        for file in ("probe.json", "contact_sheet.jpg"):
            run.log_file(layout.probe(options.training) / file)
    print(f"probe: {options.name} {options.training}, {scores['videos']} videos, {scores['groups']} groups")
    print(table_of(scores))


def _load(frames: FrameStore, sha256: str) -> Clip:
    return read_clip(frames.read(sha256))
