"""What `skip-sideways probes` says of what it measured: a table of convolutions, AGE, and the line to type.

layer           input    error at 0.0625  error at 0.125  noise  probes
units.1.body.0  16x16x16           0.912           0.634  0.701      27
"""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class LayerHealth:
    """What was measured of a convolution.

    Args:
        name: of the convolution.
        input_shape: of one sample, (C, ...).
        probes: number of them by share; shares at which a sketch is no smaller than the input are absent.
        errors: relative, by share.
        noise: of exact gradients, relative to the same norm.
        suggested: fewest probes with an error of at most the noise; `most` where more were needed.
        most: with which a sketch is smaller than the input.
    """

    name: str
    input_shape: tuple[int, ...]
    probes: dict[float, int]
    errors: dict[float, float]
    noise: float
    suggested: int
    most: int


@dataclass(frozen=True)
class Health:
    """What was measured of a network.

    Args:
        layers: of each convolution that sketches.
        left_exact: why the others do not, by name.
        exact_age: mean squared distance of exact gradients to the mean gradient.
        ages: the same of sketched ones, by share.
        share: at which all sketches together add what is there anyway; 1 and more: none is small enough.
        minibatches: that were read.
        whole: whether these were all of the training set.
        settings: that the task had not, and that the figures are about.
    """

    layers: list[LayerHealth]
    left_exact: dict[str, str]
    exact_age: float
    ages: dict[float, float]
    share: float
    minibatches: int
    whole: bool
    settings: dict[str, Any] = field(default_factory=dict)


def report(health: Health) -> str:
    """Return what is printed: the convolutions, AGE, and the line to type."""
    from app.comparison.formats import number_text, plain_table

    shares = list(health.ages)
    rows = []
    for layer in health.layers:
        errors = [f"{layer.errors[share]:.3f}" if share in layer.errors else "exact" for share in shares]
        suggested = str(layer.suggested) if layer.suggested < layer.most else f"{layer.most} or more: exact"
        rows.append([layer.name, "x".join(map(str, layer.input_shape)), *errors, f"{layer.noise:.3f}", suggested])
    header = ["layer", "input", *[f"error at {share:g}" for share in shares], "noise", "probes"]
    legend = (
        "error: of the estimated gradient, noise: of a minibatch's exact one to the mean, both relative to its norm;\n"
        "probes: fewest whose error is at most the noise"
    )
    parts = [f"{plain_table(header, rows)}\n{legend}"]
    if health.left_exact:
        parts.append("exact: " + "; ".join(f"{name} ({why})" for name, why in health.left_exact.items()))
    about = "the training set's gradient" if health.whole else "the mean gradient"
    ages = {"exact": health.exact_age} | {f"share {share:g}": age for share, age in health.ages.items()}
    floor = health.exact_age
    table = [[name, number_text(age), f"{age / floor:.2f}" if floor else "-"] for name, age in ages.items()]
    parts.append(
        f"AGE: mean squared distance of {health.minibatches} minibatches' gradients to {about}, weights above\n"
        + plain_table(["gradients", "AGE", "x exact"], table)
    )
    return "\n\n".join([*parts, advice(health)])


def advice(health: Health) -> str:
    """Return the line to type."""
    share = rounded_up(health.share)
    if share >= 1:
        return (
            "Sketches smaller than the inputs add more than the minibatches' own noise here: stay exact "
            "(--model.probes 0), or measure again later in the training (--ckpt_path FILE)."
        )
    others = "".join(f" --model.{name} {value}" for name, value in health.settings.items() if name != "probes")
    least = min(health.ages)
    beyond = (
        "" if share >= least else f"\n(below {least:g}, the smallest share measured: add --shares {share:g} to be sure)"
    )
    return f"Sketches add as much as the minibatches' own noise at: --model.probes {share:g}{others}{beyond}"


def rounded_up(share: float) -> float:
    """Return the next number of two digits that is not below.

    >>> rounded_up(0.0712), rounded_up(0.07), rounded_up(1.7)
    (0.072, 0.07, 1.0)
    """
    if not 0 < share < 1:
        return min(max(share, 0.0), 1.0)
    unit = 10.0 ** (math.floor(math.log10(share)) - 1)
    return round(min(math.ceil(round(share / unit, 6)) * unit, 1.0), 12)


def write(health: Health, path: Path, argv: Sequence[str]) -> None:
    """Write the figures as JSON, with the command and the commit."""
    from app.comparison.provenance import code_version

    command = shlex.join(["skip-sideways", "probes", *argv])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command, "commit": code_version(), **asdict(health)}, indent=1) + "\n")
