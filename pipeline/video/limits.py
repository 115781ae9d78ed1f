"""What one video file may cost before it is given up."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits for one file. Those on pixels are kept by the decoder, those on memory and time from outside its process.

    pixels_per_frame: a picture above this is refused before it is decoded: 1 kB of GIF can ask for a gigabyte. 8K
    (7680x4320) passes. pixels_per_file: of all decoded pictures together; 10^13 are 56 hours of 1080p at 24 frames/s.
    memory_bytes: what decoding may take beyond what the process needs anyway. seconds_per_file: spent waiting for the
    decoder; seconds_without_progress: waiting for its next picture.
    """

    # Read by the configuration's reader: unknown keys and wrong types are errors.
    __pydantic_config__ = {"extra": "forbid", "strict": True}  # noqa: RUF012

    pixels_per_frame: int = 8192 * 4608
    pixels_per_file: int = 10**13
    memory_bytes: int = 2 * 2**30
    seconds_per_file: float = 6 * 3600.0
    seconds_without_progress: float = 30.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"limits.{name} is {value}; expected a number above 0")
