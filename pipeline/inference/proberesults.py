"""What a probe leaves behind: `probe.json`, `probe.csv`, `contact_sheet.jpg`, and a table on the screen."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.discovery import printable
from pipeline.errors import DataError
from pipeline.evaluation.flips import Shown, flip_row, flip_scores
from pipeline.evaluation.probe import Probed, left_out
from pipeline.files import replacing, write_json, write_table
from pipeline.reporting.contactsheet import NUM_FRAMES, Turned, contact_sheet, surest, tiles
from pipeline.video.changes import CHANGES


def write_probe(
    folder: Path, results: Iterable[Probed], classes: Sequence[str], title: str, *, samples: int, seed: int
) -> dict[str, Any]:
    """Write the three files of a probe, and give what is in `probe.json`.

    It holds `videos`, `groups`, `foreground_share` (the mean over the videos), `left_out` (videos by change and
    reason), and `changes` as `flip_scores` gives them, null for bounds that a single group does not have. Raises
    DataError when no video could be probed.
    """
    probed: list[Probed] = []
    turned: list[Turned] = []
    for one in results:
        turned = _surest_of_each([*turned, *_turned(one, classes)])
        probed.append(Probed(one.subject, None, one.foreground_share, {}, one.shown, one.reasons))  # without pictures
    shown = [answers for one in probed for answers in one.shown]
    if not shown:
        reasons = "; ".join(left_out(probed)) or "there is none"
        raise DataError(f"{folder}: no video could be probed ({reasons}); expected one or more that can be read")
    read = [one for one in probed if one.shown]
    scores = {
        "videos": len(read),
        "groups": len({one.subject.group for one in read}),
        "foreground_share": float(np.mean([one.foreground_share for one in read])),
        "left_out": left_out(probed),
        "changes": flip_scores(shown, classes, samples=samples, seed=seed),
    }
    rows = [
        {**flip_row(answers, classes), "foreground_share": round(one.foreground_share, 6)}
        for one in probed
        for answers in one.shown
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "probe.csv", list(rows[0]), [list(row.values()) for row in rows])
    with replacing(folder / "contact_sheet.jpg") as temporary:
        in_order = sorted(turned, key=lambda one: CHANGES.index(one.change))
        temporary.write_bytes(contact_sheet(in_order, title))
    write_json(folder / "probe.json", scores)
    return scores


def table_of(scores: Mapping[str, Any]) -> str:
    """The flip rates as a text table, and what was left out."""
    lines = [f"{'':22}flip rate  95 % interval   score change"]
    for name, change in scores["changes"].items():
        known = not math.isnan(change["low"])
        interval = f"[{change['low']:.3f}, {change['high']:.3f}]" if known else "one group only"
        lines.append(f"  {name:20}{change['flip_rate']:9.3f}  {interval:14}  {change['score_change']:+12.3f}")
    lines.append(f"  foreground (what moves): {scores['foreground_share']:.0%} of the pixels")
    lines += [printable(f"  {count} video(s) left out of {reason}") for reason, count in scores["left_out"].items()]
    return "\n".join(lines)


def _turned(probed: Probed, classes: Sequence[str]) -> Iterator[Turned]:
    """What the contact sheet shows of a video, for each change that turned its answer."""
    for shown in probed.shown:
        if probed.clip is None or not shown.flips.any():
            continue
        number_of_steps = len(probed.clip.frames)
        pairs = np.stack([shown.before.argmax(axis=1), shown.after.argmax(axis=1)], axis=1)
        kinds, counts = np.unique(pairs[shown.flips], axis=0, return_counts=True)
        first, last = kinds[counts.argmax()].tolist()
        items = np.flatnonzero((pairs == (first, last)).all(axis=1))
        steps = items if len(pairs) == number_of_steps else np.arange(number_of_steps)
        steps = steps[np.linspace(0, len(steps) - 1, min(NUM_FRAMES, len(steps))).round().astype(int)]
        scores = float(shown.before[items, first].mean()), float(shown.after[items, last].mean())
        yield Turned(
            change=shown.change,
            caption=_caption(shown, classes[first], classes[last], scores, classes),
            sureness=min(scores) * float(shown.flips.mean()),
            before=tiles(probed.clip.frames[steps]),
            after=tiles(probed.versions[shown.change]()[steps]),
        )


def _caption(shown: Shown, first: str, last: str, scores: tuple[float, float], classes: Sequence[str]) -> str:
    turn = f"{shown.change}:  {first} {scores[0]:.2f} → {last} {scores[1]:.2f}"
    if len(shown.labels) == 1:
        truth = f"   truth {classes[shown.labels[0]]}" if shown.labels[0] >= 0 else ""
    else:
        truth = f" and other turns in {shown.flips.mean():.0%} of {len(shown.flips)} timesteps"
    return f"{turn}{truth}   {printable(shown.video_id)}"


def _surest_of_each(turned: Sequence[Turned]) -> list[Turned]:
    """Without those that the sheet will not show, so that few pictures are kept."""
    names = dict.fromkeys(one.change for one in turned)
    return [one for name in names for one in surest([one for one in turned if one.change == name])]
