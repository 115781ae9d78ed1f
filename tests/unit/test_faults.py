"""Bar 2: every file of the corpus gets the verdict it deserves, and each frame handed out is the one of its time.

Shown to fail: without the last call of the decoder, which gives what it still holds, 45 files fail; without the turn
that a file asks for, 3; without the whitelist of formats, 7, of which two pictures are then videos of one frame.
"""

from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.video.reader import Verdict, check_file
from tests.faults import damaged, good, unusable
from tests.faults.case import Fault, matches, misplaced, shown

pytestmark = pytest.mark.slow  # the fast tests of a whole minute have no room for these


def cases(rows: Iterable[Fault]) -> list[object]:
    """The first file of each entry of the catalogue is made in every run, the others in the full one."""
    seen: set[str] = {"A36"}  # 8K takes a second to make
    marks = []
    for fault in rows:
        marks.append(pytest.param(fault, id=str(fault), marks=[pytest.mark.slow] if fault.id in seen else []))
        seen.add(fault.id)
    return marks


def verdict_on(fault: Fault, path: Path) -> Verdict:
    fault.make(path)
    verdict = check_file(path)
    assert verdict.status == fault.status, verdict
    assert matches(fault.reason, verdict.reason), verdict
    assert fault.status != "ok" or matches(fault.note, "; ".join(verdict.notes)), verdict
    assert "\n" not in verdict.reason
    return verdict


def test_the_corpus_is_as_large_as_it_should_be() -> None:
    assert [len(module.rows()) for module in (unusable, damaged, good)] == [35, 27, 78]
    names = [fault.name for module in (unusable, damaged, good) for fault in module.rows()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("fault", [pytest.param(fault, id=str(fault)) for fault in unusable.rows()])
def test_a_file_without_a_usable_frame_is_rejected(fault: Fault, tmp_path: Path) -> None:
    verdict = verdict_on(fault, tmp_path / fault.name)
    assert verdict.num_frames == 0
    assert shown(tmp_path / fault.name) == []


@pytest.mark.parametrize("fault", cases(damaged.rows()))
def test_the_rest_of_a_damaged_file_is_right(fault: Fault, tmp_path: Path) -> None:
    path = tmp_path / fault.name
    verdict = verdict_on(fault, path)
    frames = shown(path)
    assert 0 < len(frames) <= verdict.num_frames
    if fault.in_order:
        # A picture that breaks off in the middle is completed by the decoder from the one before, and flagged.
        assert len(misplaced(frames)) <= ("1 frame flagged corrupt" in verdict.reason)
        assert len(frames) == verdict.num_frames


@pytest.mark.parametrize("fault", cases(good.rows()))
def test_frame_k_of_a_good_file_is_frame_k(fault: Fault, tmp_path: Path) -> None:
    path = tmp_path / fault.name
    verdict = verdict_on(fault, path)
    frames = shown(path, fault.fps)
    assert len(frames) == verdict.num_frames
    if fault.numbers is not None:
        assert [number for number, _ in frames] == list(fault.numbers)
