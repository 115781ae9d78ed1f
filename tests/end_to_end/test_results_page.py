"""The page of results in a browser: 2,000 files are sorted, filtered, opened, played and sought as a user does it."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.inference.answers import Answer, Segment, VideoFacts, output_name
from pipeline.inference.page import write_page
from tests.end_to_end.chromium import ENTER, find_chromium, look_at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium or chrome on the PATH to open the page in"),
]
CLASSES = ["rest", "left", "right", "<b>up</b>"]
COUNT = 2000
# Each plays, or the browser was not told where it is.
NAMES = [
    "plain.mp4",
    "x</script><script>window.hacked = 1</script>.mp4",
    "<img src=x onerror='window.hacked = 1'>.mp4",
    "100% #1 ?a=b&amp;.mp4",
    "two\nlines\u202e.mp4",
    os.fsdecode(b"caf\xe9 \xff.mp4"),
    "日本 \U0001f600 é.mp4",
]
SECONDS, FPS, LEFT_FROM, RIGHT_FROM = 4.0, 10, 1.0, 2.5
ROWS = "[...document.querySelectorAll('#rows tr')]"
COUNTED = "document.getElementById('count').textContent"
FIRST = f"{ROWS}[0].querySelector('button').textContent"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
# What sticks out of the page to the right, and what of it the page would have to be scrolled for.
STICKING_OUT = """[...document.querySelectorAll("body *")].filter(one => one.checkVisibility())
  .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .filter(one => !one.closest(".file, .shares, td")).map(one => one.outerHTML.slice(0, 80))"""
VIDEO = "document.getElementById('video')"


def until(condition: str) -> str:
    """A script that ends with true when the condition holds, with false after 20 s."""
    return f"""new Promise(done => {{
      const end = performance.now() + 20000;
      const look = () => ({condition}) ? done(true) : performance.now() > end ? done(false) : setTimeout(look, 20);
      look();
    }})"""


def choose(name: str, value: str) -> str:
    """A script that sets a filter as a user does."""
    find = f"document.getElementById({json.dumps(name)})"
    return f"{find}.value = {json.dumps(value)}; void {find}.dispatchEvent(new Event('input', {{bubbles: true}}))"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a frame model on 2,000 files, seven of them real."""
    from pipeline.synthetic import write_video

    root = tmp_path_factory.mktemp("results")
    out = root / "out"
    (out / "thumbnails").mkdir(parents=True)
    answers = []
    for number, name in enumerate(NAMES):
        path = str(root / "in put" / name)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        frames = [np.full((48, 64, 3), 30 + 5 * place, np.uint8) for place in range(int(SECONDS * FPS))]
        write_video(path, frames, fps=FPS, lossless=False)
        segments = (Segment(LEFT_FROM, RIGHT_FROM, "left", 0.6), Segment(RIGHT_FROM, SECONDS, "right", 0.95))
        facts = VideoFacts(len(frames), SECONDS, 64, 48, "h264")
        answers.append(_answer(path, 0.4 + number / 1000, segments, facts))
        cv2.imwrite(str(out / "thumbnails" / f"{output_name(path)}.jpg"), frames[0])
    for number in range(len(NAMES), COUNT):
        path = str(root / f"in put/camera {number % 5}/clip_{number:04d}.mp4")
        if number % 100 == 0:
            answers.append(Answer(path, "rejected", "no video stream <b>in it</b>"))
        else:
            segments = (Segment(0.0, 2.0, "left" if number % 2 else "<b>up</b>", 0.5 + number / 4100),)
            answers.append(_answer(path, number / COUNT, segments, VideoFacts(40, SECONDS, 64, 48, "h264")))
    answers.append(_answer(str(root / "in put/features.npy"), 0.3, answers[0].segments, None))
    write_page(out, answers, threshold=0.9, task="frame", classes=CLASSES, model="m", precision=0.9, background="rest")
    return out


def _answer(path: str, score: float, segments: tuple[Segment, ...], video: VideoFacts | None) -> Answer:
    scores = {segments[0].label: score, "rest": 1 - score}
    return Answer(
        path, "ok", label=segments[0].label, score=score, runner_up="rest", runner_up_score=1 - score,
        frames=40, seconds=SECONDS, scores=scores, segments=segments, video=video,
    )  # fmt: skip


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_page_is_quiet_asks_for_nothing_and_fits(folder: Path, tmp_path: Path, width: int, dark: bool) -> None:
    name = output_name(str(folder.parent / "in put" / "plain.mp4"))
    seen = look_at(
        folder / "report.html",
        tmp_path,
        width=width,
        dark=dark,
        scripts=(
            until("document.querySelectorAll('#rows tr').length > 5"),
            "getComputedStyle(document.body).backgroundColor",
            WIDTHS,
            STICKING_OUT,
            f"{ROWS}.length",
            f"{ROWS}[0].cells[0].clientWidth / document.documentElement.clientWidth",
            "window.hacked ?? null",
            f"location.hash = '#file={name}'",
            until(f"{VIDEO}.readyState >= 1"),
            WIDTHS,
            STICKING_OUT,
        ),
    )
    shown, ground, before, out_before, num_rows, for_names, hacked, _, played, after, out_after = seen.values
    assert (shown, played, hacked) == (True, True, None)
    assert (int(ground.removeprefix("rgb(").partition(",")[0]) < 64) == dark
    assert before[0] <= before[1] <= width
    assert after[0] <= after[1] <= width
    assert (out_before, out_after) == ([], [])
    assert for_names > 0.2  # the columns leave room
    assert num_rows < 60  # of 2,001: only what can be seen
    assert seen.errors == []
    assert all(address.startswith(("file:", "data:")) for address in seen.requests)
    assert sum("/thumbnails/" in address for address in seen.requests) <= len(NAMES)


def test_it_sorts_filters_and_keeps_both_in_the_address(folder: Path, tmp_path: Path) -> None:
    head = "#table th[data-key=score] button"
    seen = look_at(
        folder / "report.html",
        tmp_path,
        scripts=(
            f"[{COUNTED}, {ROWS}[0].textContent.includes('no video stream <b>in it</b>')]",
            f"document.querySelector('{head}').click()",
            f"[{FIRST}, document.querySelector('#table th[aria-sort]').getAttribute('aria-sort')]",
            f"document.querySelector('{head}').focus()",
            ENTER,  # on a button it is a click
            f"[{FIRST}, document.querySelector('#table th[aria-sort]').getAttribute('aria-sort')]",
            choose("status", "rejected"),
            COUNTED,
            choose("status", ""),
            choose("label", "right"),
            COUNTED,
            choose("label", ""),
            choose("min", "0.98"),
            choose("max", "0.985"),
            COUNTED,
            choose("sure", "no"),
            COUNTED,
            "document.getElementById('filters').reset()",
            until(f"{COUNTED} === '2,001 files'"),
            choose("q", "CAF\\xe9"),
            FIRST,
            choose("q", "nothing like it"),
            f"[{COUNTED}, document.getElementById('none').hidden]",
            choose("q", "camera 3"),
            "document.querySelector('[data-filter=status][data-value=ok]').click()",
            until("location.hash.includes('status=ok') && location.hash.includes('q=camera+3')"),
            "void (location.hash = '#order=-score')",
            until(f"{COUNTED} === '2,001 files'"),
            FIRST,
            "void scrollTo(0, document.body.scrollHeight)",
            until(f"{ROWS}.some(row => row.getAttribute('aria-rowindex') === '2002')"),
            f"{ROWS}.length",
        ),
    )
    values = [value for value in seen.values if value is not None]
    assert values == [
        ["2,001 files", True],
        ["clip_1999.mp4", "descending"],
        ["clip_0007.mp4", "ascending"],
        "19 of 2,001 files",
        f"{len(NAMES) + 1} of 2,001 files",
        # 0.5 + number / 4100 from 0.98 to 0.985: numbers 1968 to 1988.
        "21 of 2,001 files",
        "0 of 2,001 files",
        True,
        "caf\\xe9 \\xff.mp4",
        ["0 of 2,001 files", False],
        True,
        True,
        "clip_1999.mp4",
        True,
        values[-1],
    ]
    assert values[-1] < 60
    assert seen.errors == []


def test_a_click_on_the_timeline_seeks_and_the_playhead_follows(folder: Path, tmp_path: Path) -> None:
    name = output_name(str(folder.parent / "in put" / "plain.mp4"))
    readout = "document.getElementById('readout').textContent"
    seen = look_at(
        folder / "report.html",
        tmp_path,
        fragment=f"#file={name}&t=1.50",
        scripts=(
            until(f"Math.abs({VIDEO}.currentTime - 1.5) < 0.01 && !{VIDEO}.seeking"),
            readout,
            "click 0.75 #timeline",
            until(f"Math.abs({VIDEO}.currentTime - 3) < 0.03 && !{VIDEO}.seeking"),
            readout,
            "[...document.querySelectorAll('#parts ol button')].map(one => one.textContent)",
            "document.querySelector('#parts ol [aria-current]').textContent",
            "document.querySelector('#parts ol button').click()",
            until(f"Math.abs({VIDEO}.currentTime - 1) < 0.01 && !{VIDEO}.seeking"),
            f"{VIDEO}.videoWidth",
            f"{VIDEO}.muted = true; {VIDEO}.play()",
            until(f"{VIDEO}.currentTime > 1.2"),
            until("parseFloat(document.getElementById('playhead').style.left) > 29"),
            f"{VIDEO}.pause()",
            "document.getElementById('timeline').focus()",
            "press ArrowRight",
            until(f"{VIDEO}.currentTime > 1.35"),
            "document.getElementById('timeline').getAttribute('aria-valuetext').endsWith('left 0.600, unsure')",
            until("/t=1\\.[3-9]/.test(location.hash)"),
        ),
    )
    assert [value for value in seen.values if value is not None] == [
        True,
        "0:01.5  left 0.600, unsure",
        True,
        "0:03.0  right 0.950, sure",
        ["left0:01.0 – 0:02.50.600", "right0:02.5 – 0:04.00.950"],
        "right0:02.5 – 0:04.00.950",
        True,
        64,
        True,
        True,
        True,
        True,
        True,
    ]
    assert seen.errors == []


def test_files_of_any_name_play_and_keys_lead_through_them(folder: Path, tmp_path: Path) -> None:
    ready = until(f"{VIDEO}.readyState >= 1 && document.getElementById('player-note').hidden")
    title = "document.getElementById('detail-name').textContent"
    steps = [part for _ in NAMES[1:] for part in ("press j", ready, title)]
    seen = look_at(
        folder / "report.html",
        tmp_path,
        fragment="#q=.mp4&label=right",
        scripts=(
            until(f"{ROWS}.length === {len(NAMES)}"),
            "press j",
            ENTER,
            ready,
            title,
            *steps,
            "press k",
            ready,
            "press  ",
            until(f"!{VIDEO}.paused && {VIDEO}.currentTime > 0"),
            "press  ",
            until(f"{VIDEO}.paused"),
            "press Escape",
            until("document.getElementById('detail').hidden && !location.hash.includes('file=')"),
            "document.activeElement.closest('tr').getAttribute('aria-current')",
            "press ArrowUp",
            "document.activeElement.closest('tr').getAttribute('aria-rowindex')",
            "window.hacked ?? 'safe'",
        ),
    )
    values = [value for value in seen.values if value is not None]
    titles = values[2 : 2 + 2 * len(NAMES) : 2]
    assert values[1 : 1 + 2 * len(NAMES) : 2] == [True] * len(NAMES)
    escaped = {NAMES[1]: "script>.mp4", NAMES[4]: "two\\nlines\\u{202e}.mp4", NAMES[5]: "caf\\xe9 \\xff.mp4"}
    assert titles == [escaped.get(name, name) for name in sorted(NAMES, key=os.fsencode)]  # equally sure
    assert values[-7:] == [True, True, True, True, "true", str(len(NAMES) - 1), "safe"]
    assert seen.errors == []


def test_what_cannot_be_played_says_why(folder: Path, tmp_path: Path) -> None:
    from pipeline.synthetic import write_video

    out = tmp_path / "out"
    (out / "overlays").mkdir(parents=True)
    # MPEG-4 of 1999, which browsers do not play.
    frames = [np.full((48, 64, 3), 90, np.uint8)] * 20
    paths = {name: str(tmp_path / f"{name}.avi") for name in ("old", "overlaid")}
    for path in paths.values():
        write_video(path, frames, codec="mpeg4", fps=FPS, lossless=False)
    write_video(out / "overlays" / f"{output_name(paths['overlaid'])}.mp4", frames, fps=FPS, lossless=False)
    segments = (Segment(0.0, 2.0, "left", 0.95),)
    facts = VideoFacts(20, 2.0, 64, 48, "mpeg4")
    answers = [_answer(path, 0.9, segments, facts) for path in paths.values()]
    answers.append(_answer("f.npy", 0.9, segments, None))
    write_page(out, answers, threshold=None, task="clip", classes=CLASSES, model="m", precision=0.9)
    said = "document.getElementById('player-note').textContent"
    show = "void (location.hash = '#file={}')"
    seen = look_at(
        out / "report.html",
        tmp_path / "profile",
        scripts=(
            show.format(output_name(paths["old"])),
            until(f"{said}.includes('mpeg4') && {said}.includes('--overlay')"),
            show.format(output_name(paths["overlaid"])),
            until(f"{VIDEO}.readyState >= 1"),
            f"[{VIDEO}.currentSrc.includes('/overlays/'), {said}.includes('does not play the file itself')]",
            show.format(output_name("f.npy")),
            until(f"{said}.includes('made from features')"),
            "document.getElementById('player').hidden",
        ),
    )
    assert [value for value in seen.values if value is not None] == [True, True, [True, True], True, True]
    assert seen.errors == []


def test_the_rows_that_are_shown_are_downloaded_as_they_are_in_the_table(folder: Path, tmp_path: Path) -> None:
    catch = "URL.createObjectURL = blob => (window.blob = blob, 'blob:x'); HTMLAnchorElement.prototype.click = () => {}"
    bytes_of = "window.blob.arrayBuffer().then(buffer => [...new Uint8Array(buffer)])"
    seen = look_at(
        folder / "report.html",
        tmp_path,
        fragment="#q=caf",
        scripts=(until(f"{ROWS}.length === 1"), catch, "click 0.5 #download", until("window.blob"), bytes_of),
    )
    head, row, end = bytes(seen.values[-1]).split(b"\n")
    assert head == b"path,status,reason,label,score,sure,runner_up,runner_up_score,frames,seconds"
    assert row == os.fsencode(folder.parent / "in put" / NAMES[5]) + b",ok,,left,0.405,,rest,0.595,40,4"
    assert end == b""
