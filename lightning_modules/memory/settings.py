"""What the settings of a long memory mean together, and which make no sense: by themselves, or with the streams.

Settings are hyperparameters by name, as `LongMemory` documents them.
"""

import math
from collections.abc import Mapping
from typing import Any

from lightning_modules.memory.detectors import DETECTORS
from lightning_modules.memory.encoders import FRAME_ENCODERS, INPUT_KINDS
from lightning_modules.memory.memory_network import MEMORIES
from lightning_modules.memory.window_transformer import HEADS
from lightning_modules.networks import FRAME_NETWORKS

Settings = Mapping[str, Any]
RULES = ("memup", "truncated_backprop", "full_backprop")
SELECTORS = ("top_k", "gumbel_top_k", "current", "top_k+current")


def rollout_of(hp: Settings) -> int:
    """Return the steps of a training batch; 0: whole streams."""
    return 0 if hp["rule"] == "full_backprop" else int(hp["rollout"])


def looks_ahead(hp: Settings) -> bool:
    """Return whether a detector tells which steps are worth predicting."""
    return hp["rule"] == "memup" and hp["select"] != "current"


def without_effect(hp: Settings, defaults: Settings) -> list[str]:
    """Return the settings that are not as by default and mean nothing beside the others.

    No error: the rows of a comparison share settings.
    """
    memup, ahead, frames = hp["rule"] == "memup", looks_ahead(hp), hp["input_kind"] == "frames"
    learns_alone = frames and hp["encoder"] in ("detached", "sideways")
    needs = {
        "predict_every": memup,
        "select": memup,
        **dict.fromkeys(("detector", "k"), ahead),
        "temperature": ahead and hp["select"] == "gumbel_top_k",
        "ema_decay": ahead and hp["detector"] == "surprise",
        "detector_updates": (local := ahead and hp["detector"] == "entropy"),
        "local_lr": local or learns_alone,
        "encoder_updates": learns_alone,
        **dict.fromkeys(("encoder", "network", "wiring", "width", "depth", "pool", "projections"), frames),
        "rollout": rollout_of(hp) > 0 or (hp["memory"] == "transformer" and hp["window"] is None),
    }
    return [name for name, needed in needs.items() if not needed and hp[name] != defaults[name]]


def check_settings(hp: Settings) -> None:
    """Refuse settings that make no sense by themselves.

    Raises:
        ValueError: with what to type instead.
    """
    known = {
        "rule": RULES, "detector": DETECTORS, "select": SELECTORS, "memory": MEMORIES, "input_kind": INPUT_KINDS,
        "encoder": FRAME_ENCODERS, "network": tuple(FRAME_NETWORKS),
    }  # fmt: skip
    for name, names in known.items():
        if hp[name] not in names:
            raise ValueError(f"{name} {hp[name]!r} is unknown; expected one of {', '.join(names)}")
    for name in ("rollout", "k", "hidden", "layers", "context", "context_width", "predictor_width"):
        if hp[name] < 1:
            raise ValueError(f"{name} is {hp[name]}; expected 1 or more: --model.{name} 1")
    if hp["detector_updates"] < 0 or hp["projections"] < 0 or (hp["encoder_updates"] or 0) < 0:
        raise ValueError("detector_updates, encoder_updates and projections must not be negative; use 0 for none")
    if hp["clip_norm"] is not None and hp["clip_norm"] <= 0:
        raise ValueError(f"clip_norm is {hp['clip_norm']}; expected more than 0, or leave --model.clip_norm at 1.0")
    for name, value in {"lr": 1e-3, "memory_lr": 1e-3, "local_lr": 1e-3, "width": 1.0, "temperature": 0.25}.items():
        if hp[name] is not None and not 0 < hp[name] < math.inf:
            raise ValueError(f"{name} is {hp[name]}; expected a finite number above 0, such as --model.{name} {value}")
    if not 0 <= hp["weight_decay"] < math.inf:
        raise ValueError(f"weight_decay is {hp['weight_decay']}; expected 0 or more: --model.weight_decay 0")
    if not 0 <= hp["ema_decay"] < 1:
        raise ValueError(
            f"ema_decay is {hp['ema_decay']}; expected 0 (always the newest) to below 1: --model.ema_decay 0.999"
        )
    for name in ("predict_every", "window"):
        if hp[name] is not None and hp[name] < 1:
            raise ValueError(f"{name} is {hp[name]}; expected 1 or more, or leave --model.{name} out")
    if hp["window"] is not None and hp["memory"] != "transformer":
        raise ValueError(
            f"window {hp['window']} with memory {hp['memory']!r}, which has none; leave --model.window out"
        )
    if hp["chrono"] and hp["memory"] == "transformer":
        raise ValueError("chrono with memory 'transformer', which has no gates; leave --model.chrono out")
    if hp["chrono"] and hp["chrono"] < 3:
        raise ValueError(
            f"chrono is {hp['chrono']}; expected the longest gap in steps, at least 3: --model.chrono 3, or 0 for "
            "torch's own beginning"
        )
    if hp["memory"] == "transformer" and (beyond := hp["hidden"] % HEADS):
        raise ValueError(
            f"hidden is {hp['hidden']} with memory 'transformer', whose {HEADS} heads have to divide it; use "
            f"--model.hidden {max(HEADS, hp['hidden'] - beyond)}"
        )
    if hp["encoder_ckpt"] and hp["input_kind"] != "frames":
        raise ValueError(
            f"encoder_ckpt with {hp['input_kind']}, which no network encodes; leave --model.encoder_ckpt out"
        )


def check_streams(hp: Settings, steps: int, ahead: int) -> None:
    """Refuse to learn from streams shorter than the rollout, K or the local context, or than an encoder's pipeline.

    A test asks for none of it: what was trained over long gaps is tested over short ones too.

    Args:
        hp: the settings.
        steps: of the longest stream.
        ahead: steps after a step that the encoder reads for its features.

    Raises:
        ValueError: with what to type instead.
    """
    rollout, k = rollout_of(hp), hp["k"] if looks_ahead(hp) else 0
    for name, value in (("rollout", rollout), ("k", k), ("context", hp["context"])):
        if value > steps:
            raise ValueError(
                f"{name} is {value}, and the longest stream has {steps:,} steps; use --model.{name} {steps} or less"
            )
    if ahead and 0 < rollout <= ahead:
        raise ValueError(
            f"rollout {rollout} with encoder 'sideways' of {ahead + 1} units, whose lowest unit would get no gradient; "
            f"use --model.rollout {ahead + 1} or more, or --model.depth {max(2, rollout)}"
        )
