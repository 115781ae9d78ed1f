"""Every error this package raises on purpose.

LrcnError
├── ConfigError        a configuration file: unknown key, wrong type, value out of range
├── DataError          a card, table, label or split that cannot be used
│   └── LeakError      the same recording on two sides of a split
├── VideoError         one video file
│   ├── RejectedVideo  no usable frame can be had from it
│   └── SoundError     its sound cannot be written as it is
├── StoreError         a stored file is damaged or of other parameters, or cannot be written (disk full, in use)
├── WeightsError       backbone weights are missing, damaged or of another architecture
├── ModelError         a model folder is damaged or incomplete
│   └── ViewMismatch   features were made under another view than the model's
├── RequestError       a request to a served model that is no question to it
├── TrackingError      MLflow cannot be asked, or has no such run, experiment or version
└── TrainingError      training cannot start or cannot go on (one class, loss not finite, ...)

A message is one line: what, where, what was expected, what to do.
"""


class LrcnError(Exception):
    """Base of all errors a user can cause; the command line prints it as one line and exits with 2."""


class ConfigError(LrcnError):
    """A configuration file does not hold what it must."""


class DataError(LrcnError):
    """A data-set card, table, label or split cannot be used."""


class LeakError(DataError):
    """A group, a content hash, or the same pictures stand on two sides of a split."""


class VideoError(LrcnError):
    """A video file cannot be used as asked."""


class RejectedVideo(VideoError):
    """No usable frame can be had from a file.

    is_transient: the cause may lie outside the file (a limit, a crash, a file still being written): worth another try.
    """

    def __init__(self, reason: str, is_transient: bool = False) -> None:
        super().__init__(reason)
        self.is_transient = is_transient


class SoundError(VideoError):
    """The sound of a file cannot be written into another one as it is, while the pictures may be."""


class StoreError(LrcnError):
    """A stored file is damaged, was written under other parameters, or cannot be written."""


class WeightsError(LrcnError):
    """Backbone weights are missing, damaged or of another architecture."""


class ModelError(LrcnError):
    """A model folder is damaged or incomplete."""


class ViewMismatch(ModelError):
    """Features were made under another view than the model's."""


class RequestError(LrcnError):
    """A request to a served model is no question to it: a wrong column, type, shape or size, or a path not allowed."""


class TrackingError(LrcnError):
    """MLflow cannot be asked (off, away, refusing), or has no such run, experiment or version."""


class TrainingError(LrcnError):
    """Training cannot start or cannot go on."""
