"""The tables of a data set that lie beside its media in an object store."""

import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipeline.data.scan import MediaFile
from pipeline.errors import DataError, RejectedVideo
from pipeline.remote import staged
from pipeline.remotenames import Url


@contextmanager
def tables_beside(media: Path | Url, tables: Collection[str], files: Sequence[MediaFile]) -> Iterator[Path]:
    """A folder that has the data set's own tables: the media folder itself, or a copy of those in an object store.

    tables: names of files, of folders of them, and patterns, for which all files of the same ending are copied. files:
    the listing of the store. What is raised in the block names
    the tables by their address. Raises DataError when one cannot be fetched.
    """
    if not isinstance(media, Url):
        yield media
        return
    with tempfile.TemporaryDirectory(prefix="lrcn-") as name:
        folder = Path(name).resolve()
        for file in files:
            if any(_belongs(file.video_id, table) for table in tables):
                _fetch(media / file.video_id, folder / file.video_id)
        try:
            yield folder
        except DataError as error:
            raise type(error)(str(error).replace(str(folder), media)) from None


def _belongs(name: str, table: str) -> bool:
    is_like_it = "*" in table and PurePosixPath(name).suffix == PurePosixPath(table).suffix
    return is_like_it or name == table or name.startswith(f"{table}/")


def _fetch(url: Url, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with staged(url) as local:
            shutil.copyfile(local, target)
    except RejectedVideo as error:
        raise DataError(f"{url}: {error}; run again when it can be fetched") from None
