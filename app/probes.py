"""`skip-sideways probes`: how many probes a network's convolutions need, on its own data (XConv).

Exact and sketched gradients of the same minibatches are compared, and nothing is trained or stored: probes are well
chosen where the sketch's error is as large as the minibatch's own noise (methods.md section 5).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.probes_report import Health, LayerHealth, report, write

if TYPE_CHECKING:
    from lightning_modules.layers.probes import Probes
    from lightning_modules.metrics.gradient_errors import GradientErrors
    from lightning_modules.metrics.sketch_choice import SketchChoice
    from lightning_modules.video_task import VideoTask

SHARES = (0.0625, 0.125, 0.25)


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
        raise ValueError(
            "this task has no option `probes`: sketched gradients are of convolutions over clips; give "
            "--model ActionRecognition or --model FutureFrames, and data of clips"
        )
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
    from lightning_modules.metrics.gradient_errors import GradientErrors
    from lightning_modules.metrics.sketch_choice import choose_layers
    from lightning_modules.metrics.sketch_health import sketches_now
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
    if still := [c.name for c in choices if c.sketched and c.name not in errors.layers]:
        raise ValueError(
            f"{len(still)} of {sum(c.sketched for c in choices)} sketched convolutions have no gradient with these "
            f"weights: {', '.join(still[:3])}{' ...' if len(still) > 3 else ''}; no share can be told for them. Train "
            "a little first, and give --ckpt_path runs/NAME/last.ckpt"
        )
    if errors.count < 2 or not errors.layers:
        raise ValueError(
            f"{errors.count} minibatches gave {len(errors.layers)} of the sketched convolutions a gradient; expected 2 "
            "minibatches with clips, and convolutions that learn (--model.train_units all)"
        )
    return _health(errors, choices, sketches, whole=count == len(loader) and not _leaves_clips_out(loader))


def _loader(data: Any) -> Any:
    if getattr(data, "stream", False):
        raise ValueError("stream: gradients are compared on clips; use --data.stream false")
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def _leaves_clips_out(loader: Any) -> bool:
    """Whether a last, smaller minibatch is dropped."""
    return getattr(loader, "drop_last", False) and len(loader.sampler) % loader.batch_size > 0


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
    from lightning_modules.metrics.sketch_choice import FROZEN

    if found := [c.name for c in choices if c.sketched]:
        return found
    why = "".join(f"\n  {c.name}: {c.why}" for c in choices)
    trains = "--model.train_units all, " if any(c.why == FROZEN for c in choices) else ""
    raise ValueError(
        f"no convolution of this network would keep a sketch:{why}\n  use {trains}--model.compact relu or norm, "
        "smaller --shares, or --model.probe_layers all"
    )


def _health(
    errors: "GradientErrors",
    choices: "Sequence[SketchChoice]",
    sketches: "dict[float, dict[str, Probes]]",
    *,
    whole: bool,
) -> Health:
    from lightning_modules.metrics.suggested_probes import (
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
