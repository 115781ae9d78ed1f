"""Delay of `lrcn stream` on a file that plays in real time: mobilenet_v3_small with an LSTM, 8 frames/s, 320x240.

    python benchmarks/stream.py --seconds 60

Delay: from the moment a timestep's picture is due to the moment its line is printed. A timestep is known when the
picture after it has come, so 1/30 s of it is waiting for that.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from material import clips, material_folder

from pipeline.features.backbones import load_backbone, save_backbone
from pipeline.models.modelfolder import Model, ModelSpec, save_model
from pipeline.models.recurrent import RecurrentClassifier
from pipeline.view import View, features_key

VIEW = View(fps=8, short_side=224, crop=224)
PACKAGE = Path(__file__).parents[1]


def write_model(folder: Path, backbone_name: str) -> Path:
    """A frame model with random weights: they take as long as others."""
    torch.manual_seed(0)
    backbone = load_backbone(backbone_name, "random", seed=0)
    architecture = {
        "feature_size": backbone.feature_size, "cell": "lstm", "hidden_size": 128, "num_layers": 1,
        "bidirectional": False, "motion": True, "input_dropout": 0.0, "dropout": 0.5,
    }  # fmt: skip
    spec = ModelSpec(
        task="frame", classes=tuple("abcdefgh"), background="a", architecture=architecture, view=VIEW,
        backbone=backbone.name, features_key=features_key(VIEW, backbone.name, backbone.weights_sha256), provenance={},
    )  # fmt: skip
    save_backbone(backbone, folder / "backbone.safetensors")
    network = RecurrentClassifier(num_classes=8, **architecture)
    save_model(folder / f"model-{backbone_name}", Model(spec, network), folder / "backbone.safetensors")
    return folder / f"model-{backbone_name}"


class Memory(threading.Thread):
    """Memory of a process and its children that is theirs alone, MB, once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.process, self.megabytes = psutil.Process(pid), []

    def run(self) -> None:
        while True:
            try:
                processes = [self.process, *self.process.children()]
                self.megabytes.append(sum(each.memory_full_info().uss for each in processes) / 2**20)
            except psutil.Error:
                return
            time.sleep(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--backbone", default="mobilenet_v3_small")
    parser.add_argument("--folder", type=Path, help="keeps the material")
    options = parser.parse_args()
    with material_folder(options.folder) as folder:
        (video,) = clips("h264_short", 1, folder, options.seconds)
        model = write_model(folder, options.backbone)
        command = [sys.executable, "-m", "pipeline.cli", "stream", str(video), "--model", str(model), "--device", "cpu"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PACKAGE)
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        memory = Memory(process.pid)
        memory.start()
        rest, summary = process.communicate()
    found = [first, *map(json.loads, rest.splitlines())]
    delays = np.array([line["delay_ms"] for line in found if "label" in line])
    median, most, worst = np.quantile(delays, [0.5, 0.95, 1])
    intervals = median * VIEW.fps / 1000
    dropped = max(line.get("dropped", 0) for line in found)
    samples = memory.megabytes[:-3]  # the last ones are of processes that end
    third = len(samples) // 3
    grown = np.median(samples[-third:]) - np.median(samples[third : 2 * third])
    load = ", ".join(f"{value:.1f}" for value in psutil.getloadavg())
    print(summary.strip())
    print(f"load of the machine {load} on {psutil.cpu_count()} cores")
    print(f"{options.backbone}: {len(delays)} timesteps, {dropped} dropped")
    print(f"delay: median {median:.0f} ms ({intervals:.2f} frame intervals), 95 % {most:.0f} ms, worst {worst:.0f} ms")
    print(f"memory: {np.median(samples[-third:]):.0f} MB; the last third over the middle one {grown:+.1f} MB")


if __name__ == "__main__":
    main()
