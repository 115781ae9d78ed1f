"""Answers of a folder run: each with its own files first, then its line in the ledger, which makes it count."""

from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.inference.answers import Answer
from pipeline.inference.ending import uninterrupted
from pipeline.inference.ledger import CHANGED, UNREADABLE, Ledger, file_state
from pipeline.inference.timesteps import write_timesteps
from pipeline.prefetch import reading_ahead
from pipeline.progress import Progress
from pipeline.video.limits import Limits

if TYPE_CHECKING:
    from pipeline.inference.recognizer import Recognizer
    from pipeline.inference.thumbnails import Thumbnail
    from pipeline.video.reader import Frame


class Answering:
    """Answers for files, with a model that is loaded when there is something to do, and kept.

    out: for the files that belong to an answer. Use it as a context manager: leaving it ends the decoding processes.
    """

    def __init__(self, out: Path, ledger: Ledger, model: Path, device: str, workers: int, limits: Limits) -> None:
        self._out, self._ledger, self._model = out, ledger, model
        self._device, self._workers, self._limits = device, workers, limits
        self._recognizer: Recognizer | None = None
        self._thumbnails: dict[str, Thumbnail] = {}

    def run(self, paths: Sequence[str], states: dict[str, str]) -> None:
        """Put an answer for each path into the ledger, as they come.

        states: what the files looked like before. Raises StoreError when the disk is full.
        """
        if not paths:
            return
        recognizer = self._recognizer or self._load()
        progress = Progress("predict", len(paths))
        computed = recognizer.predict_files(paths, progress.add_frames, in_order=False, watch=self._watch)
        with closing(reading_ahead(paths, computed)) as answers:
            for answer in progress.over(answers):
                if (state := file_state(answer.path)) != states[answer.path]:
                    answer = Answer(answer.path, "failed", state if state.startswith(UNREADABLE) else CHANGED)
                write_timesteps(self._out, answer, recognizer.model.classes, self._ledger.model_id)
                if (thumbnail := self._thumbnails.pop(answer.path, None)) and not thumbnail.is_written:
                    thumbnail.write(self._out, answer.path)
                self._ledger.add(answer, states[answer.path])

    def _watch(self, path: str, frames: "Iterator[Frame]") -> "Iterator[Frame]":
        from pipeline.inference.thumbnails import Thumbnail

        thumbnail = self._thumbnails[path] = Thumbnail()
        yield from thumbnail.watch(frames)
        # In this thread, which decodes: the one that answers for all would wait for the disk. It repeats what failed.
        with suppress(Exception):
            thumbnail.write(self._out, path)

    def _load(self) -> "Recognizer":
        with uninterrupted():
            from pipeline.inference.recognizer import Recognizer  # with PyTorch, which takes seconds

            recognizer = Recognizer.load(self._model, device=self._device, workers=self._workers, limits=self._limits)
            self._recognizer = recognizer
        return recognizer

    def __enter__(self) -> "Answering":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._recognizer is not None:
            self._recognizer.close()
