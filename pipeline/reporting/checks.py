"""Tables of what was checked: the split and the files, the confidence, alarms, and what the model looks at."""

from collections.abc import Sequence

from markupsafe import Markup

from pipeline.reporting.numbers import Source, Table
from pipeline.reporting.summary import PERCENT, Training
from pipeline.reporting.words import CHANGES

LEAK_KINDS = {"group": "recordings", "content": "files of equal content", "pictures": "near-duplicate pictures"}
MAX_LEAKS_SHOWN = 20
TOGETHER = "all folds together"


def leaks_table(leaks: Source) -> Table:
    """The first leaks, with a video of each side; leaks: `leaks.json`."""
    rows = []
    for place, leak in enumerate((leaks.at("leaks") or [])[:MAX_LEAKS_SHOWN]):
        sides = [
            Markup("{}: <code>{}</code>{}").format(side, names[0], " …" if len(names) > 1 else "")
            for side, names in leak["sides"].items()
        ]
        what = LEAK_KINDS.get(leak["kind"], leak["kind"])
        rows.append([what, leaks.whole("leaks", place, "fold"), Markup("; ").join(sides)])
    return Table(["what", "fold", "where"], rows)


def importances_table(shortcut: Source) -> Table:
    """What each property tells a classifier that sees nothing else, the most telling first; of `shortcut.json`."""
    names = sorted(shortcut.at("importances") or {}, key=lambda name: -float(shortcut.at("importances", name) or 0))
    rows = [[name.replace("_", " "), shortcut.number("importances", name, places=3)] for name in names]
    return Table(["property", "AUC lost when it is shuffled"], rows, sortable=True)


def premium_table(premium: Source) -> Table:
    """The same model under a random split and under the grouped one; of `premium.json`."""
    rows = []
    for task in premium.values:
        own = premium.under(task)
        sides = [own.interval(side, "score", low="low", high="high") for side in ("random", "grouped")]
        rows.append([f"{task} task", own.whole("folds"), *sides, own.interval("premium", sign=True)])
    return Table(["", "folds", "random split", "grouped split", f"leakage premium [95{PERCENT}]"], rows)


def calibration_table(trainings: Sequence[Training], pooled: Source) -> Table | None:
    """Temperature, calibration errors, and whether the threshold keeps its promise on the test side; None without."""
    shown = [(training.name, training.own.under("calibration")) for training in trainings]
    if len(trainings) > 1:
        shown.append((TOGETHER, pooled.under("calibration")))
    rows: list[list[str | Markup]] = []
    for name, own in shown:
        if own.defined("ece_after"):
            reached = own.interval("precision") if own.defined("threshold") or own.defined("precision") else "–"
            cells = [own.number(key) for key in ("temperature", "ece_before", "ece_after", "threshold")]
            rows.append([name, *cells, own.number("wanted_precision"), reached, own.number("coverage")])
    heads = ["training", "temperature", "ECE before", "ECE after", "threshold", "precision wanted"]
    heads += [f"precision reached [95{PERCENT}]", "share answered"]
    return Table(heads, rows, total=rows[-1][0] == TOGETHER) if rows else None


def detection_table(trainings: Sequence[Training], pooled: Source) -> Table | None:
    """Recall of each alarm-like class at the allowed rate of false alarms; None where the card names none."""
    shown = [(training.name, training.own.under("detection")) for training in trainings]
    if len(trainings) > 1:
        shown.append((TOGETHER, pooled.under("detection")))
    rows: list[list[str | Markup]] = []
    for training, found in shown:
        for name in found.values:
            own = found.under(name)
            rows.append(
                [
                    training,
                    name,
                    own.whole("num_events"),
                    own.number("hours_without", places=3),
                    own.number("rate_per_hour"),
                    own.number("false_alarms_per_hour"),
                    own.interval("recall"),
                    own.number("delay_seconds"),
                    own.number("threshold"),
                ]
            )
    heads = ["training", "class", "events", "hours without", "allowed per hour", "false alarms per hour"]
    return Table([*heads, f"recall [95{PERCENT}]", "median delay, s", "threshold"], rows) if rows else None


def too_short(scores: Source) -> bool:
    """Whether in some alarm's footage a single false alarm would exceed the allowed rate; scores: a `metrics.json`."""
    found = [scores.under("detection", name) for name in scores.at("detection") or {}]
    known = [own for own in found if own.defined("hours_without") and own.defined("rate_per_hour")]
    return any(0 < float(own.at("hours_without")) * float(own.at("rate_per_hour")) < 1 for own in known)


def probe_table(probe: Source) -> Table:
    """How often each change turns the answer; of a `probe.json`."""
    rows = []
    for change in _changes(probe):
        own = probe.under("changes", change)
        flips = own.interval("flip_rate", low="low", high="high")
        shown = own.whole("num_videos")
        rows.append([CHANGES.get(change, change), shown, flips, own.number("score_change", sign=True)])
    return Table(
        ["change", "videos", f"answers that flip [95{PERCENT}]", "mean change of the first answer's probability"], rows
    )


def probe_by_class(probe: Source) -> Table | None:
    """Flip rates of each class (rows) under each change (columns); None where classes are not told apart."""
    changes = _changes(probe)
    classes = list(dict.fromkeys(n for c in changes for n in probe.at("changes", c, "per_class") or {}))
    if not classes:
        return None
    rows = [[name, *[probe.number("changes", c, "per_class", name, "flip_rate") for c in changes]] for name in classes]
    return Table(["class", *[CHANGES.get(change, change) for change in changes]], rows, sortable=True)


def _changes(probe: Source) -> list[str]:
    found = list(probe.at("changes") or {})
    return sorted(found, key=lambda name: list(CHANGES).index(name) if name in CHANGES else len(CHANGES))
