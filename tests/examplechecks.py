"""What the stages `audit`, `probe` and others write beside an experiment's scores, made by hand, for its report."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

LEAKS = {
    "allowed": True,
    "published": False,
    "videos_compared": 60,
    "leaks": [
        {"kind": "group", "fold": 1, "sides": {"train": ["left/g01.mp4", "left/g02.mp4"], "test": ["left/g03.mp4"]}},
        {"kind": "pictures", "fold": 1, "sides": {"train": ["right/g07.mp4"], "val": ["right/g08.mp4"]}},
    ],
}
SHORTCUT = {
    "auc": 0.7134, "auc_low": 0.61, "auc_high": 0.81, "accuracy": 0.6, "accuracy_low": 0.5, "accuracy_high": 0.7,
    "majority_accuracy": 0.5, "num_videos": 40, "num_groups": 20, "limit": 0.65, "above_limit": True,
    "importances": {"brightness": 0.3125, "size_bytes": 0.0, "has_audio": None},
}  # fmt: skip
PREMIUM = {
    "clip": {
        "grouped": {"score": 0.92, "low": 0.87, "high": 0.97}, "random": {"score": 0.97, "low": 0.95, "high": 0.99},
        "premium": 0.05, "premium_low": 0.011, "premium_high": 0.1, "metric": "top1", "folds": 4,
    },
}  # fmt: skip
PROBE = {
    "videos": 8, "groups": 4, "foreground_share": 0.163, "left_out": {"background_blurred: nothing moves": 2},
    "changes": {
        name: {
            "flip_rate": rate, "low": 0.1, "high": 0.9, "score_change": -rate / 3, "num_videos": 6,
            "per_class": {"left": {"flip_rate": rate, "score_change": 0.0, "num": 4}},
        }
        for name, rate in (("darker", 0.125), ("background_blurred", 0.5))
    },
}  # fmt: skip
CALIBRATION = {
    "temperature": 1.5, "ece_before": 0.2, "ece_after": 0.0625, "wanted_precision": 0.9, "threshold": 0.75,
    "precision": 0.95, "precision_low": 0.875, "precision_high": 1.0, "coverage": 0.5,
}  # fmt: skip
DETECTION = {
    "left": {
        "rate_per_hour": 1.0, "threshold": 0.5, "recall": 0.75, "recall_low": 0.5, "recall_high": 1.0,
        "false_alarms_per_hour": 0.98, "delay_seconds": None, "num_events": 8, "hours_without": 0.01,
    },
}  # fmt: skip


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def add_checks(root: Path) -> None:
    """Into an experiment's folder below artifacts/: the checks of the data, a probe, calibration and alarms."""
    config = root.parents[1] / "configs" / f"{root.name}.yaml"
    config.write_text(config.read_text().replace("probe: null", "probe: {videos: 8}"))
    write(root / "leaks.json", LEAKS)
    write(root / "shortcut.json", SHORTCUT)
    own = json.loads((root / "metrics.json").read_text())["clip"]["rgb"]["seeds"]["0"]["top1"]
    grouped = {**PREMIUM["clip"]["grouped"], "score": own}
    write(root / "evaluations/premium.json", {"clip": {**PREMIUM["clip"], "grouped": grouped}})
    probe = root / "evaluations/probes/clip-rgb-fold1-seed0"
    write(probe / "probe.json", PROBE)
    cv2.imwrite(str(probe / "contact_sheet.jpg"), np.full((90, 1600, 3), 200, np.uint8))
    for path in (root / "evaluations").glob("*/metrics.json"):
        values = json.loads(path.read_text()) | {"calibration": CALIBRATION, "detection": DETECTION}
        write(path, values | {"leaks": {"group": 1, "content": 0, "pictures": 1}})
