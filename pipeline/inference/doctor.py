"""`lrcn doctor`: versions, codecs, GPU, weights and tracking of this installation."""

import argparse
import importlib.metadata
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.errors import LrcnError

PACKAGES = ("lrcn-pipeline", "torch", "torchvision", "av", "opencv-python", "numpy", "pandas", "mlflow", "dvc")


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per finding; 0 when everything needed works, 2 when something does not."""
    argparse.ArgumentParser(prog="lrcn doctor", description=__doc__, allow_abbrev=False).parse_args(argv)
    print(f"ok    python {platform.python_version()} on {platform.machine()} {platform.system()}")
    broken = 0
    for name in PACKAGES:
        try:
            print(f"ok    {name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            broken += 1
            print(f"BAD   {name} is not installed: pip install -r requirements.lock")
    checks: list[tuple[str, Callable[[], str]]] = [
        ("codecs", check_codecs),
        ("torchvision", check_torchvision),
        ("gpu", check_gpu),
        ("weights", check_weights),
        ("onnx", check_onnx),
        ("tracking", check_tracking),
    ]
    for name, check in checks:
        try:
            print(f"ok    {name}: {check()}")
        except (LrcnError, ImportError, OSError, RuntimeError) as error:
            broken += 1
            print(f"BAD   {name}: {' '.join(str(error).split())}")
    return 2 if broken else 0


def check_codecs() -> str:
    """The decoders videos come in, and the encoder of the frame store."""
    from pipeline.video.reader import missing_codecs

    missing = missing_codecs()
    if missing:
        raise LrcnError(f"PyAV's FFmpeg lacks {', '.join(missing)}; install the `av` wheel of requirements.lock")
    return "h264, hevc, vp9, av1, mpeg4 and the lossless frame store work"


def check_torchvision() -> str:
    """Whether torch and torchvision belong together."""
    from pipeline.features.backbones import load_backbone

    backbone = load_backbone("squeezenet1_1", "random", seed=0)
    return f"builds backbones ({backbone.name}: {backbone.feature_size} features a frame)"


def check_gpu() -> str:
    """The GPUs that are visible, or that there is none, which is no fault."""
    import torch

    if not torch.cuda.is_available():
        return f"none; {torch.get_num_threads()} CPU threads compute"
    devices = range(torch.cuda.device_count())
    properties = [torch.cuda.get_device_properties(device) for device in devices]
    return "; ".join(f"{each.name}, {each.total_memory / 2**30:.0f} GiB" for each in properties)


def check_weights() -> str:
    """Torchvision's weights that lie in the cache; the others are downloaded when they are first asked for."""
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    found = sorted(path.name for path in folder.glob("*.pth")) if folder.is_dir() else []
    return f"{len(found)} file(s) in {folder}" + (f": {', '.join(found)}" if found else "")


def check_onnx() -> str:
    """The packages that `lrcn export` needs, which are an extra."""
    from pipeline.inference.export import PACKAGES, require_onnx

    try:
        require_onnx()
    except LrcnError as error:
        return str(error)
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def check_tracking() -> str:
    """Whether MLflow's database can be opened or its server answers, and whether runs wait for delivery."""
    from pipeline.trackingstore import (
        OFF,
        answers,
        ensure_database,
        shown,
        sqlite_path,
        tracking_uri,
    )
    from pipeline.trackingunsent import unsent_folder, unsent_keys

    uri = tracking_uri(Path())
    unsent = len(unsent_keys(unsent_folder(Path())))
    waiting = f"; {unsent} run(s) wait for delivery: `lrcn runs sync`" if unsent else ""
    path = sqlite_path(uri)
    if uri == OFF:
        return f"off (MLFLOW_TRACKING_URI){waiting}"
    if path is not None and not path.exists():
        return f"{uri} (made by the first training){waiting}"
    ensure_database(uri)
    if not uri.startswith(("http://", "https://")):
        return f"{shown(uri)}{waiting}"
    if not answers(uri):
        raise LrcnError(
            f"{shown(uri)} does not answer; runs go on without it and are delivered by `lrcn runs sync`{waiting}"
        )
    version = server_version(uri)
    if version is None:
        raise LrcnError(
            f"{shown(uri)} answers, but is no MLflow server; see that MLFLOW_TRACKING_URI is right{waiting}"
        )
    own = importlib.metadata.version("mlflow")
    return f"{shown(uri)}: MLflow {version}" + ("" if version == own else f" (here: {own})") + waiting


def server_version(uri: str) -> str | None:
    """The version that an MLflow server says it runs; None where what answers is no MLflow server."""
    import requests

    from pipeline.trackingstore import PROBE_SECONDS

    try:
        found = requests.get(f"{uri.rstrip('/')}/version", timeout=PROBE_SECONDS)
    except requests.RequestException:
        return None
    return found.text.strip() if found.ok and re.fullmatch(r"\d+\.[\w.]{1,30}", found.text.strip()) else None
