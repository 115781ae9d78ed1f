"""The fight experiment on real clips, start to end, in a scratch copy of the repository: time and scores.

    python benchmarks/fight.py [MEDIA_FOLDER] [WEIGHTS_FILE]

Without arguments it looks for ../shared/data beside the repository, and ends with a message when it is not there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared/data"


def main() -> None:
    media = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else DATA / "fight"
    weights = Path(sys.argv[2]).resolve() if len(sys.argv) > 2 else DATA / "weights/mobilenet_v2-imagenet.pth"
    if not media.is_dir() or not weights.is_file():
        sys.exit(f"skipped: needs the clips in {media} and the weights in {weights}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "copy"
        kept = ("pipeline", "configs", "datasets", "dvc.yaml", ".gitignore")
        for name in kept:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            root.mkdir(exist_ok=True)
            copy(ROOT / name, root / name)
        (root / "media").mkdir()
        (root / "media/fight").symlink_to(media)
        config = root / "configs/fight.yaml"
        config.write_text(re.sub(r"(?m)^( *weights:).*$", rf"\1 {weights}", config.read_text()))
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

        def run(*command: str) -> float:
            start = time.perf_counter()
            subprocess.run(command, cwd=root, env=environment, check=True)
            return time.perf_counter() - start

        run("git", "init", "--quiet")
        run("dvc", "init", "--quiet")
        run("lrcn", "select", "fight")
        seconds = run("dvc", "repro", "--quiet")
        again = run("dvc", "repro", "--quiet")
        run("lrcn", "results", "artifacts/fight")
        rows = (root / "artifacts/fight/videos.csv").read_text().count("\n") - 1
        files = sum(path.is_file() for path in media.rglob("*"))
        streams = json.loads((root / "artifacts/fight/metrics.json").read_text())["clip"]
    print(f"\ndvc repro: {seconds:.0f} s; again: {again:.1f} s; {rows} rows for {files} files")
    for stream, scores in streams.items():
        own, apart = scores["test"]["video"], scores.get("deviation", {})
        shown = [
            f"{name} {own[key]:.3f}" + (f" ± {apart[key]:.3f}" if key in apart else "") + f" [{own[f'{key}_low']:.3f}, "
            f"{own[f'{key}_high']:.3f}]"
            for name, key in (("accuracy", "top1"), ("AUC", "auc"))
        ]
        print(f"{stream}: {', '.join(shown)} over all folds, {len(scores['seeds'])} seed(s)")


if __name__ == "__main__":
    main()
