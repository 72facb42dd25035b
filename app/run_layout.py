"""What a run is called and what it says of itself: the run layout, version 1 (names, tags and parameters in MLflow).

The dashboard, `compare` and users' own scripts read runs by this contract alone.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from lightning_modules.memory.settings import looks_ahead

SCHEMA_VERSION = "1"
KEYS = (
    "rule", "wiring", "network", "task", "dataset", "split", "fold", "seed", "git_sha", "device", "torch", "data_hash",
    "views", "id_hash", "data_found", "data_expected",
    "lmin", "horizon", "gap", "detector", "encoder", "executor", "stages", "update", "stash", "row", "comparison",
    "tuning", "schema_version",
)  # fmt: skip
TASKS = {"ActionRecognition": "action_recognition", "FutureFrames": "future_frames", "LongMemory": "long_memory"}
# What does not change a result, so does not change a run's name either.
_WITHOUT_EFFECT = {
    *("num_workers", "root", "index", "cache", "cache_dir", "jobs", "log_gradients_every"),
    *("saved_clips", "lpips", "frechet"),  # what a test stores and measures besides
}


def init_args(section: Any) -> dict[str, Any]:
    """Return the arguments of a `{class_path, init_args}` section as plain values."""
    return dict(section.get("init_args") or {})


def class_name(section: Any) -> str:
    """Return the short class name of a `{class_path, init_args}` section."""
    return str(section["class_path"]).rsplit(".", 1)[-1]


def run_layout(
    config: Mapping[str, Any], *, data: Any, model: Any, device: str, commit: str, torch_version: str
) -> dict[str, str]:
    """Return the run layout's tags and parameters. `config`: the whole configuration as plain values; `data`, `model`:
    the objects made from it."""
    chosen = init_args(config["model"])
    name = class_name(config["model"])
    layout = {
        "task": TASKS.get(name, name),
        "dataset": getattr(data, "dataset_name", class_name(config["data"])),
        "split": getattr(data, "split_name", ""),
        "fold": getattr(data, "fold", 0),
        "data_hash": getattr(data, "data_hash", ""),
        "views": getattr(data, "protocol", ""),  # what a video's score is the mean of
        "id_hash": getattr(data, "id_hash", ""),
        "data_found": _counts(None if hasattr(data, "gap") else getattr(data, "found", None)),  # of videos
        "data_expected": _counts(getattr(data, "expected", None)),  # of the official lists; "" where there are none
        "seed": config.get("seed_everything"),
        "git_sha": commit,
        "device": device,
        "torch": torch_version,
        "lmin": shortest_path(model),
        "horizon": chosen.get("horizon", ""),
        "gap": getattr(data, "gap", ""),  # steps over which a long stream asks to remember
        "stages": getattr(model, "stages", 1),
        "comparison": "",
        "tuning": "",  # fold or seed: a comparison chose settings on this run's, so that its result does not count it
        "schema_version": SCHEMA_VERSION,
    }
    layout |= {key: chosen.get(key, "") for key in ("rule", "wiring", "network", "executor", "update", "stash")}
    layout |= memory_names(chosen, getattr(data, "input_kind", ""))
    row = [layout["network"], layout["wiring"], layout["rule"], layout["detector"]]
    layout["row"] = " ".join(str(part) for part in row if part)
    return {key: str(layout[key]) for key in KEYS}


def memory_names(chosen: Mapping[str, Any], input_kind: str) -> dict[str, str]:
    """Return network, wiring, detector and encoder of a task with a memory; other tasks have neither of the latter.

    The network is the memory; the wiring is that of the network that encodes frames, where there are frames, and the
    encoder says how that one learns.
    """
    if "memory" not in chosen:
        return {"detector": "", "encoder": ""}
    sees = input_kind == "frames"
    return {
        "network": chosen["memory"],
        "wiring": chosen["wiring"] if sees else "",
        "detector": chosen["detector"] if looks_ahead(chosen) else "",
        "encoder": chosen["encoder"] if sees else "",
    }


def shortest_path(model: Any) -> int | str:
    """Return the hops of the shortest path from the frame to the output, Lmin; "" for networks without units."""
    wiring = getattr(getattr(model, "network", None), "wiring", None)
    return "" if wiring is None else int(wiring.lmin)


def _counts(videos: Mapping[str, int] | None) -> str:
    """Return `9537 train, 3783 test`: the numbers of videos by split."""
    return ", ".join(f"{number} {split}" for split, number in (videos or {}).items() if number)


def run_name(layout: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """Return a name made from the configuration alone: the next launch of the same command finds the same folder.

    The last eight characters are a hash of every model and data argument that can change a result; where the data is
    whatever its root holds (`root_is_data`), of its `data_hash` too.
    """
    gap = f"gap{layout['gap']}" if layout["gap"] else ""
    parts = [layout["dataset"], gap, f"fold{layout['fold']}", layout["network"], layout["wiring"], layout["rule"]]
    parts += [layout["update"], f"seed{layout['seed']}"]
    relevant = {
        part: {k: v for k, v in init_args(config[part]).items() if k not in _WITHOUT_EFFECT}
        for part in ("model", "data")
    }
    if root_is_data(config["data"]):
        relevant["data"]["data_hash"] = layout["data_hash"]
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return "-".join(part for part in parts if part) + f"-{digest}"


def root_is_data(section: Mapping[str, Any]) -> bool:
    """Return whether the DataModule of a section says that another `root` is other data, not another place of it."""
    module, _, name = str(section["class_path"]).rpartition(".")
    return bool(getattr(getattr(sys.modules.get(module), name, None), "root_is_data", False))


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names (`model.lr`), class paths by their short name, without private keys."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, Mapping) and value:
            out |= flat(value, prefix if key == "init_args" else f"{prefix}{key}.")
        elif key == "class_path":
            out[prefix.rstrip(".")] = str(value).rsplit(".", 1)[-1]
        elif value is not None:
            out[f"{prefix}{key}"] = value
    return out
