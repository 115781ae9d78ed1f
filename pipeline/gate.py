"""Whether a training's model may carry an alias: what has to hold, and what is only stated, each with its figures.

What has to hold: the run is finished, and the model in MLflow is the one it trained and tested; nothing leaked; the
model is better than the most frequent class and than file properties, beyond doubt; a single frame is not better than
it; its test score is not below that of the present holder of the alias, nor below an absolute floor. That a single
frame does as well stops nothing: on actions that a place or a posture gives away it does, and no label is worse for it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.headline import LEVELS, SIMPLER, main_score
from pipeline.reporting.words import CHANGES, control_name
from pipeline.runlinks import MODEL_SHA256

TO_BEAT = ("majority", "file_properties")
LEAKS = ("leaks.group", "leaks.content", "leaks.pictures")
TABLES = ("videos.sha256", "segments.sha256", "splits.sha256")
ROUNDING = 1e-9


@dataclass(frozen=True)
class Line:
    """One line of a decision. holds: None where it is only stated."""

    holds: bool | None
    text: str


@dataclass(frozen=True)
class MainScore:
    """A main test score, and what it was made on: `on` is equal for two scores that compare."""

    on: Mapping[str, str]
    score: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Candidate:
    """What MLflow has of a training.

    model_sha256: of the `model.yaml` of the model it logged; None without one. classes: of that model. scores: its
    `metrics.json`. over_folds: the scores of all folds together of its experiment, where they are made of this training
    too. shortcut: the experiment's `shortcut.json`.
    """

    name: str
    status: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    model_sha256: str | None
    classes: Sequence[str]
    scores: Mapping[str, Any] | None
    over_folds: Mapping[str, Any] | None = None
    shortcut: Mapping[str, Any] | None = None

    @property
    def task(self) -> str:
        """`clip` or `frame`."""
        return self.tags.get("task", "")

    @property
    def tested(self) -> MainScore | None:
        """Its main test score; None when it was not tested."""
        if not self.scores:
            return None
        own, name = self.scores["test"][LEVELS[self.task]], main_score(self.task)
        on = {key: self.tags.get(key, "") for key in ("task", "fold", *TABLES)} | {"classes": ", ".join(self.classes)}
        return MainScore(on, float(own[name]), own.get(f"{name}_low"), own.get(f"{name}_high"))


@dataclass(frozen=True)
class Holder:
    """The version that has the alias now. tested: None where the version does not say."""

    version: str
    model_sha256: str | None
    tested: MainScore | None


def gate(candidate: Candidate, alias: str, holder: Holder | None, min_score: float | None) -> list[Line]:
    """All lines of the decision; the alias may move where none has `holds` False.

    min_score: a floor of the main test score, in [0, 1]; it must be given where the holder's score does not compare.
    """
    found = [_run(candidate), _model(candidate)]
    tested = candidate.tested
    if tested is None:
        found.append(
            Line(False, "no test scores: the run has no metrics.json; run the stage `evaluate` of this training")
        )
    else:
        own = candidate.scores["test"][LEVELS[candidate.task]] if candidate.scores else {}
        what = f"{own['num_videos']:.0f} videos, {own['num_groups']:.0f} groups"
        found.append(Line(True, f"test: {main_score(candidate.task)} {in_words(tested)} on {what} of its fold"))
    found += [_leaks(candidate.tags), _shortcut(candidate.shortcut)]
    if candidate.scores:
        found += _controls(candidate)
    found.append(_probe(candidate.metrics))
    if tested is not None:
        found += _against(tested, candidate.model_sha256, alias, holder, min_score)
    return found


def going_back(
    version: str, decided: str, tested: MainScore | None, alias: str, holder: Holder | None, min_score: float | None
) -> list[Line]:
    """The lines for a version whose gate held once: it may be gone back to, whatever its holder scores.

    decided: when and by whom it was promoted.
    """
    found = [Line(True, f"version {version} passed this gate before ({decided}), and its model is whole")]
    if tested is not None and min_score is not None:
        found.append(_floor(tested, min_score))
    elif min_score is not None:
        found.append(Line(False, f"--min-score {min_score:g}: version {version} does not say its test score"))
    if holder is not None and holder.version != version:
        found.append(Line(None, f"{alias} goes back from version {holder.version}{_scored(holder)}"))
    return found


def in_words(tested: MainScore) -> str:
    """A score with its interval, such as `0.938 [0.894, 0.975]`."""
    return _with_interval(f"{tested.score:.3f}", tested.low, tested.high)


def _run(candidate: Candidate) -> Line:
    if candidate.status == "FINISHED":
        return Line(True, "the run is finished")
    return Line(False, f"the run is {candidate.status.lower()}; expected finished: wait for it, or `dvc repro`")


def _model(candidate: Candidate) -> Line:
    own, stated = candidate.model_sha256, candidate.tags.get(MODEL_SHA256)
    if own is None:
        return Line(False, "the run has no model in MLflow; `lrcn runs sync` delivers what it missed, or train again")
    if stated is None:
        return Line(False, "the run does not say which model it trained (tag model.sha256); train again")
    if own != stated:
        return Line(False, f"its model in MLflow is {own[:12]}, but the run trained {stated[:12]}; train again")
    return Line(True, f"its model in MLflow is whole, and the one it trained (model.yaml {own[:12]})")


def _leaks(tags: Mapping[str, str]) -> Line:
    if missing := [name for name in LEAKS if name not in tags]:
        return Line(False, f"audit: the run does not say whether its split leaks (tag {missing[0]}); train again")
    leaks = {name.removeprefix("leaks."): tags[name] for name in LEAKS if tags[name] != "0"}
    if not leaks:
        return Line(True, "audit: no leak between the sides of its split")
    counts = ", ".join(f"{count} by {kind}" for kind, count in leaks.items())
    if tags.get("split.published") == "true":
        return Line(True, f"audit: the published split leaks ({counts}), as it does for everybody who uses it")
    return Line(False, f"audit: the sides of its split leak ({counts}), so the test score says nothing; mend the card")


def _shortcut(shortcut: Mapping[str, Any] | None) -> Line:
    if shortcut is None or shortcut.get("auc") is None:
        return Line(None, "audit: how well file properties alone tell the classes is not known (no shortcut.json)")
    area = _with_interval(f"{shortcut['auc']:.3f}", shortcut.get("auc_low"), shortcut.get("auc_high"))
    limit = f"ABOVE the limit {shortcut['limit']:g}" if shortcut["above_limit"] else f"limit {shortcut['limit']:g}"
    return Line(None, f"audit: file properties alone tell the classes with AUC {area} ({limit})")


def _controls(candidate: Candidate) -> list[Line]:
    """Judged over all folds where they are there: a fold's test side has few groups, and shows little."""
    scores = candidate.over_folds or candidate.scores or {}
    where = "over all folds" if candidate.over_folds else "on its fold"
    found = []
    for name in (*TO_BEAT, SIMPLER):
        who = control_name(name, candidate.task)
        rung = scores.get("controls", {}).get(name)
        if rung is None:
            found.append(Line(False, f"control `{who}`: not in metrics.json; run the stage `evaluate` again"))
            continue
        low, high = rung.get("difference_low"), rung.get("difference_high")
        gain = f"control `{who}`: {_with_interval(format(rung['difference'], '+.3f'), low, high)} {where}"
        if name == SIMPLER:
            worse = high is not None and high < 0
            level = low is None or low <= 0
            said = ": the control is better" if worse else ": as good as the model" if level else ""
            found.append(Line(not worse, gain + said))
        else:
            beaten = low is not None and low > 0
            found.append(Line(beaten, gain + ("" if beaten else ": not shown to be better (low end must be above 0)")))
    return found


def _probe(metrics: Mapping[str, float]) -> Line:
    flips = {name: metrics[f"probe/{name}"] for name in CHANGES if f"probe/{name}" in metrics}
    backgrounds = {CHANGES[name]: rate for name, rate in flips.items() if name.startswith("background")}
    if not backgrounds:
        return Line(None, "probe: not run, so what the answers owe to the background is not known")
    rates = ", ".join(f"{name} {rate:.0%}" for name, rate in backgrounds.items())
    return Line(None, f"probe: answers that flip: {rates}")


def _against(
    tested: MainScore, model_sha256: str | None, alias: str, holder: Holder | None, min_score: float | None
) -> list[Line]:
    found = [] if min_score is None else [_floor(tested, min_score)]
    if holder is None:
        return [*found, Line(None, f"nobody is {alias} yet")]
    who = f"version {holder.version}, {alias} now{_scored(holder)}"
    if holder.model_sha256 is not None and holder.model_sha256 == model_sha256:
        return [*found, Line(None, f"{who}: the same model")]
    if holder.tested is None or holder.tested.on != tested.on:
        other = _differences(holder.tested, tested)
        if min_score is None:
            return [*found, Line(False, f"{who}: {other}, so the scores do not compare; give --min-score")]
        return [*found, Line(None, f"{who}: {other}, so the scores do not compare")]
    gain = tested.score - holder.tested.score
    if gain < -ROUNDING:
        return [*found, Line(False, f"{who}: on the same test videos the run is worse by {-gain:.3f}")]
    return [*found, Line(True, f"{who}: on the same test videos the run is not worse ({gain:+.3f})")]


def _floor(tested: MainScore, min_score: float) -> Line:
    holds = tested.score >= min_score - ROUNDING
    return Line(holds, f"--min-score {min_score:g}: the test score is {tested.score:.3f}")


def _differences(holder: MainScore | None, own: MainScore) -> str:
    if holder is None:
        return "it does not say what it was tested on"
    return f"it was tested on other videos ({', '.join(key for key in own.on if holder.on.get(key) != own.on[key])})"


def _scored(holder: Holder) -> str:
    return "" if holder.tested is None else f", has {in_words(holder.tested)}"


def _with_interval(text: str, low: float | None, high: float | None) -> str:
    return text if low is None or high is None else f"{text} [{low:.3f}, {high:.3f}]"
