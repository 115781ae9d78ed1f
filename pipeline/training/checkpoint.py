"""A training's whole state in one file, so that one that was cut off goes on to the identical result.

The file is `.safetensors`: tensors, and beside them one JSON document; nothing in it runs. It is written whole or not
at all, and a flipped bit is noticed. On a CPU, with as many threads, resumed equals uninterrupted bit for bit.
"""

import glob
import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import TrainingError
from pipeline.files import replacing, sweep

FORMAT = 1
KEEP_DAYS = 30
MEMORY_SUFFIX = ".run.jsonl"
MODULE, OPTIMIZER, GENERATOR = "module", "optimizer", "generator"
CPU, CUDA = "default/cpu", "default/cuda:"  # torch's own generators, beside those with a name
ADVICE = "delete it to train from the beginning"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training's state as it was saved. values: what was handed over as such (epoch, history, best loss, ...)."""

    path: Path
    values: dict[str, Any]
    tensors: dict[str, Tensor]
    document: dict[str, Any]

    def state(self, name: str) -> dict[str, Tensor]:
        """Copies of the tensors saved as module `name`, on the CPU; raises TrainingError when there is none."""
        if name not in self.document["modules"]:
            known = ", ".join(sorted(self.document["modules"])) or "nothing"
            raise TrainingError(f"{self.path}: holds no {name!r}, only {known}; {ADVICE}")
        keys = self.document["modules"][name]
        return {key: self.tensors[f"{MODULE}/{name}/{key}"].clone() for key in keys}

    def restore(
        self,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer | None = None,
        generators: Mapping[str, torch.Generator] | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """Put everything back: weights, the optimizer's state and learning rates, and all generators, torch's own too.

        State goes to the devices of the modules; of the generators of GPUs those that this machine has are set. Raises
        TrainingError when something was not saved, or does not fit.
        """
        try:
            for name, module in modules.items():
                module.load_state_dict(self.state(name))
            if optimizer is not None:
                optimizer.load_state_dict(self._optimizer_state(optimizer))
            if scaler is not None and scaler.is_enabled():
                scaler.load_state_dict(self.document["scaler"])
            self._restore_generators(generators or {})
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise TrainingError(f"{self.path}: does not fit this training ({reason}); {ADVICE}") from error

    def _optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        saved = self.document["optimizer"]
        if saved is None:
            raise ValueError("no optimizer was saved")
        if saved["kind"] != type(optimizer).__name__:
            raise ValueError(f"the optimizer was {saved['kind']} and is {type(optimizer).__name__}")
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for index, plain in saved["state"].items():
            kept = {
                key: _laid_out_as(parameters[int(index)], self.tensors[f"{OPTIMIZER}/{index}/{key}"])
                for key in saved["tensors"][index]
            }
            state[int(index)] = {**kept, **plain}
        groups = []
        for group, present in zip(saved["groups"], optimizer.state_dict()["param_groups"], strict=True):
            # JSON knows no tuples (betas).
            tuples = {key: tuple(group[key]) for key in group if isinstance(present.get(key), tuple)}
            groups.append({**group, **tuples})
        return {"state": state, "param_groups": groups}

    def _restore_generators(self, generators: Mapping[str, torch.Generator]) -> None:
        for name, generator in generators.items():
            generator.set_state(self.tensors[f"{GENERATOR}/named/{name}"])
        torch.default_generator.set_state(self.tensors[f"{GENERATOR}/{CPU}"])
        for number in range(torch.cuda.device_count()):
            state = self.tensors.get(f"{GENERATOR}/{CUDA}{number}")
            if state is not None:
                torch.cuda.set_rng_state(state, number)


def save_checkpoint(
    path: Path,
    identity: Mapping[str, Any],
    modules: Mapping[str, nn.Module | Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer | None = None,
    generators: Mapping[str, torch.Generator] | None = None,
    values: Mapping[str, Any] | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """Write a training's state, whole or not at all.

    identity: what makes this training this one, as JSON: its settings, digests of its data (`tensor_digest`). modules:
    networks, or state dicts (the best weights so far). generators: those of the training; torch's own, the CPU's and
    the GPUs', are always saved. values: anything else, as JSON; floats come back exactly, infinite ones too.

    Raises StoreError when the disk is full, TypeError for what is no JSON.
    """
    tensors: dict[str, Tensor] = {}
    names: dict[str, list[str]] = {}
    for name, module in modules.items():
        state = module.state_dict() if isinstance(module, nn.Module) else module
        names[name] = list(state)
        tensors |= {f"{MODULE}/{name}/{key}": tensor for key, tensor in state.items()}
    tensors |= {f"{GENERATOR}/named/{name}": g.get_state() for name, g in (generators or {}).items()}
    tensors[f"{GENERATOR}/{CPU}"] = torch.default_generator.get_state()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # else no GPU has computed anything
        states = torch.cuda.get_rng_state_all()
        tensors |= {f"{GENERATOR}/{CUDA}{number}": state for number, state in enumerate(states)}
    document = json.dumps(
        {
            "identity": dict(identity),
            "modules": names,
            "optimizer": None if optimizer is None else _optimizer_document(optimizer, tensors),
            "scaler": scaler.state_dict() if scaler is not None and scaler.is_enabled() else None,
            "values": dict(values or {}),
        },
        sort_keys=True,
    )
    # Copies: safetensors refuses tensors that share memory, as cuDNN's recurrent weights do.
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = {"format": str(FORMAT), "document": document, "checksum": tensor_digest(tensors, document)}
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(safetensors.torch.save(tensors, metadata))


def load_checkpoint(path: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The state saved in a file, None when there is no such file.

    Raises TrainingError when it is damaged, or is the state of another training: of other settings or other data.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainingError(f"{path}: damaged checkpoint ({' '.join(str(error).split())}); {ADVICE}") from None
    if metadata.get("format") != str(FORMAT):
        raise TrainingError(
            f"{path}: no checkpoint of this version (format {metadata.get('format')}, expected {FORMAT}); {ADVICE}"
        )
    if metadata.get("checksum") != tensor_digest(tensors, metadata.get("document", "")):
        raise TrainingError(f"{path}: damaged checkpoint (the checksum does not fit the contents); {ADVICE}")
    document = json.loads(metadata["document"])
    different = differences(document["identity"], json.loads(json.dumps(dict(identity))))
    if different:
        more = f" and {len(different) - 5} more" if len(different) > 5 else ""
        raise TrainingError(
            f"{path}: the checkpoint of another training ({', '.join(different[:5])}{more}); "
            f"undo that to go on with it, or {ADVICE}"
        )
    return Checkpoint(path, document["values"], tensors, document)


def training_identity(settings: object, data: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a training this one: its settings, and what makes the data this data."""
    return {"settings": vars(settings), "data": dict(data)}


class CheckpointSlot:
    """Where a training's states are kept: `NAME-<digest>.safetensors` for each set of settings and data.

    So whoever changes a value and changes it back goes on where the training of that value was stopped.
    path: `NAME.safetensors`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._used: Path | None = None

    def file(self, identity: Mapping[str, Any]) -> Path:
        """The file of a training of these settings and data, which is remembered."""
        text = json.dumps(dict(identity), sort_keys=True)
        digest = hashlib.sha256(text.encode("ascii")).hexdigest()[:16]
        self._used = self._path.with_name(f"{self._path.stem}-{digest}{self._path.suffix}")
        return self._used

    def memory(self, identity: Mapping[str, Any]) -> Path:
        """The file beside it that names the training's MLflow run."""
        return self.file(identity).with_suffix(MEMORY_SUFFIX)

    def remove(self) -> None:
        """Delete the files that were used, the training having ended, and those that nobody came back to for long."""
        if self._used is not None:
            self._used.unlink(missing_ok=True)
            self._used.with_suffix(MEMORY_SUFFIX).unlink(missing_ok=True)
        sweep(self._path.parent)
        for file in self._path.parent.glob(f"{glob.escape(self._path.stem)}-*"):
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > KEEP_DAYS * 86_400:
                    file.unlink()


def unfinished(file: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """The state to go on from; None when there is none. A damaged one is no reason not to train: it is printed."""
    try:
        return load_checkpoint(file, identity)
    except TrainingError as error:
        print(f"training begins anew: {error}")  # noqa: T201 - what was computed before is lost
        return None


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two JSON values, each as "<name> was <value> and is <value>".

    >>> differences({"lr": 0.1, "data": {"train": "a"}}, {"lr": 0.1, "data": {"train": "b"}})
    ["data.train was 'a' and is 'b'"]
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in differences(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if before == now else [f"{name or 'it'} was {_short(before)} and is {_short(now)}"]


def tensor_digest(tensors: Mapping[str, Tensor], label: str = "") -> str:
    """SHA-256 hex digest over a label and, in order of their names, the tensors' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256(json.dumps(label).encode("ascii"))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode("ascii"))
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _optimizer_document(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What an optimizer holds that is no tensor; its tensors are put into `tensors`."""
    state = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    kept: dict[str, list[str]] = {}
    for index, entries in state["state"].items():
        kept[str(index)] = [key for key, entry in entries.items() if isinstance(entry, Tensor)]
        plain[str(index)] = {key: entry for key, entry in entries.items() if not isinstance(entry, Tensor)}
        tensors |= {f"{OPTIMIZER}/{index}/{key}": entries[key] for key in kept[str(index)]}
    kind = type(optimizer).__name__
    return {"kind": kind, "state": plain, "tensors": kept, "groups": state["param_groups"]}


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A copy with the parameter's strides, when it has its shape: fused optimisers go through memory, not indices."""
    if tensor.shape != parameter.shape:
        return tensor.clone()
    return torch.empty_like(parameter, dtype=tensor.dtype, device="cpu").copy_(tensor)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]} ..."
