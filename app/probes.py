"""`skip-sideways probes`: how many probes a network's convolutions need, on its own data (XConv).

layer           input    error at 0.0625  error at 0.125  noise  probes
units.1.body.0  16x16x16           0.912           0.634  0.701      27

Exact and sketched gradients of the same minibatches are compared, and nothing is trained or stored: probes are well
chosen where the sketch's error is as large as the minibatch's own noise (methods.md section 5).
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil, floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_modules.layers.probes import Probes
    from lightning_modules.metrics.sketch_choice import SketchChoice
    from lightning_modules.metrics.sketch_health import GradientErrors
    from lightning_modules.video_task import VideoTask

SHARES = (0.0625, 0.125, 0.25)


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


def parser() -> argparse.ArgumentParser:
    """Return the command's own options; all others are `fit`'s."""
    options = argparse.ArgumentParser(
        prog="skip-sideways probes",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="All options of `skip-sideways fit` are taken too: --config FILE, --ckpt_path FILE (weights to measure "
        "with, else random ones), --data, --model.probe_mode and so on.",
        allow_abbrev=False,
    )
    options.add_argument(
        "--batches", type=int, default=16, help="minibatches, 2 or more; 0: all of the training set (default: 16)"
    )
    options.add_argument(
        "--shares", type=float, nargs="+", default=list(SHARES), help="of the inputs' numbers that sketches keep"
    )
    options.add_argument("--seed", type=int, help="of weights and probes (default: the configuration's)")
    options.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    options.add_argument("--output", type=Path, help="a JSON file to write the figures to")
    return options


def check(options: argparse.Namespace) -> None:
    """Refuse values that make no sense.

    Raises:
        ValueError: what was given, and what is expected.
    """
    if options.batches == 1 or options.batches < 0:
        raise ValueError(f"--batches is {options.batches}; give 2 or more, or 0 for all of the training set")
    if wrong := [share for share in options.shares if not 0 < share < 1]:
        raise ValueError(f"--shares {wrong[0]:g}; shares lie between 0 and 1, such as --shares 0.0625 0.125")
    options.shares = sorted(set(options.shares))
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}, but this torch sees no CUDA device; use --device cpu")


def let_sketch(settings: Any, share: float) -> dict[str, Any]:
    """Let a task sketch that would not, with ReLUs and pools that keep few bits; return the settings changed.

    Raises:
        ValueError: a task that has no probes.
    """
    if "probes" not in settings:
        raise ValueError("this task has no option `probes`; use a task of this package, such as ActionRecognition")
    if settings["probes"] or settings["probe_schedule"]:
        return {}
    changed = {"probes": share} | ({"compact": "relu"} if settings["compact"] == "none" else {})
    for name, value in changed.items():
        settings[name] = value
    return changed


def measure(task: "VideoTask", data: Any, options: argparse.Namespace) -> Health:
    """Compare exact and sketched gradients of the training set's first minibatches.

    Raises:
        ValueError: data of streams, fewer than two minibatches, or no convolution that sketches.
    """
    from tqdm import tqdm

    from lightning_modules.layers.xconv import kept_exact, set_probes
    from lightning_modules.metrics.sketch_choice import choose_layers
    from lightning_modules.metrics.sketch_health import GradientErrors, sketches_now
    from lightning_modules.networks import ClipNetwork
    from lightning_modules.networks.local_modules import codebooks_kept

    loader = _loader(data)
    count = min(options.batches or len(loader), len(loader))
    if count < 2:
        raise ValueError(
            "the training set gives one minibatch, whose noise cannot be told from one; use a smaller --data.batch_size"
        )
    task.train().to(options.device)
    network, choices, errors = task.network, list["SketchChoice"](), GradientErrors([])
    sketches: dict[float, dict[str, Probes]] = {}
    for batch in tqdm(_batches(loader, count, task.device), total=count, unit="minibatch", file=sys.stderr):
        batch, inputs = task.read(batch)
        if not choices:
            shape = tuple(inputs.video_BTCHW.shape[1 if isinstance(network, ClipNetwork) else 2 :])
            auto = task.hparams["probe_layers"] == "auto"
            choices = choose_layers(network, shape, options.shares[0], auto=auto)
            errors = GradientErrors(_sketched(choices))
        with codebooks_kept(network), kept_exact(network):
            exact = task.find_gradients(batch, inputs)
        estimates = {}
        for share in options.shares:
            set_probes(network, share)
            sketches[share] = sketches_now(network, choices)
            with codebooks_kept(network):
                estimates[share] = task.find_gradients(batch, inputs)
        errors.update(exact, estimates)
    if errors.count < 2 or not errors.layers:
        raise ValueError(
            f"{errors.count} minibatches gave {len(errors.layers)} of the sketched convolutions a gradient; expected 2 "
            "minibatches with clips, and convolutions that learn (--model.train_units all)"
        )
    return _health(errors, choices, sketches, whole=count == len(loader))


def _loader(data: Any) -> Any:
    if getattr(data, "stream", False):
        raise ValueError("stream: gradients are compared on clips; use --data.stream false")
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def _batches(loader: Any, count: int, device: Any) -> Iterator[Any]:
    """Yield the first minibatches that have clips, on the device."""
    from lightning.fabric.utilities import move_data_to_device

    for _, batch in zip(range(count), loader, strict=False):
        if len(batch["label"]):
            yield move_data_to_device(batch, device)


def _sketched(choices: "Sequence[SketchChoice]") -> list[str]:
    """Return the convolutions that sketch.

    Raises:
        ValueError: there are none, and why.
    """
    if found := [c.name for c in choices if c.sketched]:
        return found
    why = "".join(f"\n  {c.name}: {c.why}" for c in choices) or "\n  it has no convolution"
    raise ValueError(
        f"no convolution of this network would keep a sketch:{why}\n  use --model.compact relu or norm, smaller "
        "--shares, or --model.probe_layers all"
    )


def _health(
    errors: "GradientErrors",
    choices: "Sequence[SketchChoice]",
    sketches: "dict[float, dict[str, Probes]]",
    *,
    whole: bool,
) -> Health:
    from lightning_modules.metrics.sketch_health import (
        all_probes,
        most_probes,
        one_probe_error,
        suggest_probes,
        suggest_share,
    )

    layers, kinds = errors.layers, sketches[min(sketches)]
    shapes = {c.name: c.input_shape for c in choices}
    counts = {name: {share: at[name].count for share, at in sketches.items() if name in at} for name in layers}
    measured = {name: {share: errors.error(name, share) for share in counts[name]} for name in layers}
    noises = {name: errors.noise(name, whole=whole) for name in layers}
    one = {n: one_probe_error({counts[n][share]: error for share, error in measured[n].items()}) for n in layers}
    most = {name: most_probes(kinds[name], shapes[name]) for name in layers}
    suggested = suggest_probes(one, noises, dict.fromkeys(layers, 1), most)
    squares = {name: errors.norm_square(name) for name in layers}
    added = {name: one[name] ** 2 * squares[name] / all_probes(kinds[name], shapes[name]) for name in layers}
    return Health(
        [
            LayerHealth(name, shapes[name], counts[name], measured[name], noises[name], suggested[name], most[name])
            for name in layers
        ],
        {c.name: c.why or "its gradient is 0" for c in choices if c.name not in layers},
        errors.age(whole=whole),
        {share: errors.age(share, whole=whole) for share in sketches},
        suggest_share(added, {name: noises[name] ** 2 * squares[name] for name in layers}),
        errors.count,
        whole,
    )


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
    parts = [plain_table(header, rows)]
    if health.left_exact:
        parts.append("exact: " + "; ".join(f"{name} ({why})" for name, why in health.left_exact.items()))
    about = "the training set's gradient" if health.whole else "the mean gradient"
    ages = {"exact": health.exact_age} | {f"share {share:g}": age for share, age in health.ages.items()}
    table = [[name, number_text(age), f"{age / health.exact_age:.2f}"] for name, age in ages.items()]
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
    return f"Sketches add as much as the minibatches' own noise at: --model.probes {share:g}{others}"


def rounded_up(share: float) -> float:
    """Return the next number of two digits that is not below.

    >>> rounded_up(0.0712), rounded_up(0.07), rounded_up(1.7)
    (0.072, 0.07, 1.0)
    """
    if not 0 < share < 1:
        return min(max(share, 0.0), 1.0)
    unit = 10.0 ** (floor(log10(share)) - 1)
    return round(min(ceil(round(share / unit, 6)) * unit, 1.0), 12)


def main(argv: list[str]) -> int:
    """Measure, print the tables and return the exit status."""
    options, rest = parser().parse_known_args(argv)
    check(options)
    from app.noise import without_noise
    from app.task_and_data import TaskAndData

    if options.seed is not None:
        rest.append(f"--seed_everything={options.seed}")
    settings: dict[str, Any] = {}
    with without_noise(quiet=True):
        made = TaskAndData(rest, lambda given: settings.update(let_sketch(given, options.shares[-1])))
        found = measure(made.model, made.datamodule, options)
    health = Health(**{**vars(found), "settings": settings})
    print(report(health))
    if options.output:
        write(health, options.output, argv)
        print(f"written: {options.output}")
    return 0


def write(health: Health, path: Path, argv: Sequence[str]) -> None:
    """Write the figures as JSON, with the command and the commit."""
    from app.comparison.provenance import code_version

    command = shlex.join(["skip-sideways", "probes", *argv])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command, "commit": code_version(), **asdict(health)}, indent=1) + "\n")
