"""The model of a training, for the stages that test it."""

from pipeline.device import choose_device
from pipeline.errors import DataError
from pipeline.files import content_hash
from pipeline.models.modelfolder import Model, load_model
from pipeline.stages.layout import StageOptions


def trained_model(options: StageOptions) -> Model:
    """The model that the options name; DataError for one of another split, which may have seen what is tested."""
    folder = options.layout.training(options.training) / "model"
    model = load_model(folder, str(choose_device(options.runtime.device)))
    if model.spec.provenance.get("splits.sha256") != content_hash(options.layout.splits):
        raise DataError(
            f"{folder}: trained on another split than that of {options.layout.splits}, so it may have seen what is "
            "tested; run the stage train again"
        )
    return model
