"""Answers of a folder run: each with its own files first, then its line in the ledger, which makes it count."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.engine import opened_engine
from pipeline.errors import ConfigError
from pipeline.inference.answers import Answer, reason_of, status_of
from pipeline.inference.ending import uninterrupted
from pipeline.inference.ledger import CHANGED, UNREADABLE, Ledger, file_state
from pipeline.inference.timesteps import write_timesteps
from pipeline.models.modelspec import verify_model
from pipeline.prefetch import reading_ahead
from pipeline.progress import Progress
from pipeline.video.limits import Limits
from pipeline.view import View

if TYPE_CHECKING:
    from pipeline.features.store import VideoFeatures
    from pipeline.inference.recognizer import Recognizer
    from pipeline.inference.thumbnails import Thumbnail
    from pipeline.raybackbone import Head
    from pipeline.raypool import RayPool
    from pipeline.video.reader import Frame
    from pipeline.video.verdict import Verdict


class Answering:
    """Answers for files, with a model that is loaded when there is something to do, and kept.

    out: for the files that belong to an answer. engine, ray_address: see `opened_engine`. Use it as a context manager:
    leaving it ends the decoding processes.
    """

    def __init__(
        self,
        out: Path,
        ledger: Ledger,
        model: Path,
        device: str,
        workers: int,
        limits: Limits,
        engine: str = "local",
        ray_address: str = "",
    ) -> None:
        self._out, self._ledger, self._model = out, ledger, model
        self._device, self._workers, self._limits = device, workers, limits
        self._engine, self._ray_address = engine, ray_address
        self._open = ExitStack()
        self._recognizer: Recognizer | None = None
        self._pool: RayPool | None = None
        self._classes: list[str] = []
        self._thumbnails: dict[str, Thumbnail] = {}

    def run(self, paths: Sequence[str], states: dict[str, str]) -> None:
        """Put an answer for each path into the ledger, as they come.

        states: what the files looked like before. Raises StoreError when the disk is full.
        """
        if not paths:
            return
        if self._recognizer is None and self._pool is None:
            self._load()
        progress = Progress("predict", len(paths))
        with closing(self._answers(paths, progress)) as answers:
            for answer in progress.over(answers):
                if (state := file_state(answer.path)) != states[answer.path]:
                    answer = Answer(answer.path, "failed", state if state.startswith(UNREADABLE) else CHANGED)
                write_timesteps(self._out, answer, self._classes, self._ledger.model_id)
                if (thumbnail := self._thumbnails.pop(answer.path, None)) and not thumbnail.is_written:
                    thumbnail.write(self._out, answer.path)
                self._ledger.add(answer, states[answer.path])

    def _answers(self, paths: Sequence[str], progress: Progress) -> Generator[Answer, None, None]:
        """Answers as they come; thumbnails come before them."""
        if self._recognizer is not None:
            computed = self._recognizer.predict_files(paths, progress.add_frames, in_order=False, watch=self._watch)
            yield from reading_ahead(paths, computed)
            return
        from pipeline.inference.thumbnails import Thumbnail
        from pipeline.raydecode import FileSource

        assert self._pool is not None
        videos = ((path, FileSource.of(path, self._limits)) for path in paths)
        for done in self._pool.run(videos, progress.add_frames):
            path, answer = paths[done.number], done.result
            if isinstance(answer, Exception):
                answer = Answer(path, status_of(answer), reason_of(answer))
            self._thumbnails[path] = Thumbnail(done.end.jpeg)
            yield answer

    def _watch(self, path: str, frames: "Iterator[Frame]") -> "Iterator[Frame]":
        from pipeline.inference.thumbnails import Thumbnail

        thumbnail = self._thumbnails[path] = Thumbnail()
        yield from thumbnail.watch(frames)
        # In this thread, which decodes: the one that answers for all would wait for the disk. It repeats what failed.
        with suppress(Exception):
            thumbnail.write(self._out, path)

    def _load(self) -> None:
        if self._engine != "local":
            spec = verify_model(self._model)
            if not spec.view.has_pictures:
                raise ConfigError(f"{self._model}: reads ready-made features, for which there is only the local engine")
            self._classes = list(spec.classes)
            self._load_by_ray(spec.view)
            return
        with uninterrupted():
            from pipeline.inference.recognizer import Recognizer  # with PyTorch, which takes seconds

            self._recognizer = self._open.enter_context(
                Recognizer.load(self._model, device=self._device, workers=self._workers, limits=self._limits)
            )
        self._classes = self._recognizer.model.classes

    def _load_by_ray(self, view: View) -> None:
        with uninterrupted():
            engine = self._open.enter_context(
                opened_engine(
                    self._engine, self._ray_address, workers=self._workers, device=self._device, command="predict"
                )
            )
            assert engine is not None
            from pipeline.inference.thumbnails import Thumbnail
            from pipeline.raypool import RayPool

        files = {path.name: path.read_bytes() for path in self._model.iterdir() if path.is_file()}
        pool = RayPool(engine, files, view, head=answering_with, watcher=Thumbnail)
        self._pool = self._open.enter_context(pool)

    def __enter__(self) -> "Answering":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def answering_with(folder: Path, device: str) -> "Head":
    """What answers with the model in a folder, as Recognizer does; for actors of Ray."""
    from pipeline.inference.recognizer import answer_of
    from pipeline.models.modelfolder import load_model

    model = load_model(folder, device)

    def answer(path: str, result: "VideoFeatures | Exception", verdict: "Verdict | None") -> Answer:
        try:
            if isinstance(result, Exception):
                raise result
            return answer_of(model, path, result, verdict)
        except Exception as error:  # noqa: BLE001 - one file's failure is its answer, the others go on
            return Answer(path, status_of(error), reason_of(error))

    return answer
