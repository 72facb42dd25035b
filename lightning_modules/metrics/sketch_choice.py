"""Which convolutions are worth a sketch, and why: said before training, as a table.

    layer           input     probes  input KiB  kept KiB  kept as  why
    units.0.body.0  1x32x32        -        4.0       4.0  input    the batch keeps it too
    units.1.body.0  16x16x16      32       16.0       1.1  sketch
    all                                    20.0       5.1

A sketch saves bytes where it is smaller than the input, and where nobody else keeps that input (methods.md section 5,
"Memory truth" [D]). Bytes are those of one frame, of networks that take clips of one clip, in single precision.

Shape legend: T frames of a clip, C channels, H and W height and width.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import nn

from lightning_modules.layers.probes import LOCAL_SIZE
from lightning_modules.layers.xconv import set_probes, xconv_layers
from lightning_modules.metrics.saved_by_layer import BATCH, FUNCTION, saved_by_layer

_HEADINGS = ("layer", "input", "probes", "input KiB", "kept KiB", "kept as", "why")
_LONG = 40  # convolutions from which those that stay exact are summed up
_FEW = f"fewer than {LOCAL_SIZE} positions"
FROZEN = "its weights do not train"
_BYTES = 4
_OTHERS = {BATCH: "the batch", FUNCTION: "a function between layers"}
_NO_SMALLER = "a sketch would be no smaller"
_NO_SKETCH = "no convolution keeps a sketch, and all gradients are exact; "
_FREES = (
    "--model.compact relu (with --model.activation relu) frees inputs, and --model.probe_layers all sketches whoever "
    "keeps them"
)
_TRAINS = "--model.train_units all lets the others train, "


@dataclass(frozen=True)
class SketchChoice:
    """What a convolution keeps, and why.

    Args:
        name: of the convolution.
        input_shape: of one sample, (C, ...).
        probes: number that it would have.
        input_bytes: of one sample.
        sketch_bytes: of one sample; 0 where there would be no sketch.
        sketched: whether it keeps the sketch.
        why: it does not, or "".
    """

    name: str
    input_shape: tuple[int, ...]
    probes: int
    input_bytes: int
    sketch_bytes: int
    sketched: bool
    why: str


def choose_layers(network: nn.Module, shape: Sequence[int], probes: float, *, auto: bool) -> list[SketchChoice]:
    """Choose which converted convolutions sketch their input, and return the choices in the order of the forward pass.

    Convolutions that were not chosen before stay exact. One whose sketch would be no smaller with these probes may
    sketch with fewer, later.

    Args:
        network: converted by `to_xconv`; its layers' `is_chosen` are set.
        shape: of one sample: (C, H, W), for a network of clips (T, C, H, W).
        probes: as in `to_xconv`, above 0.
        auto: leave those out that would save nothing because somebody else keeps their input, and those of so few
            positions that there is little to save and much noise to pay.
    """
    trial = copy.deepcopy(network)
    set_probes(trial, probes)
    layers, tried = xconv_layers(network), xconv_layers(trial)
    choices = []
    for row in saved_by_layer(trial, shape):
        if row.name in layers:
            made = tried[row.name].sketch_of(row.input_shape)
            pinned_by = row.pinned_by if auto else ()
            few = auto and prod(row.input_shape[2:]) < LOCAL_SIZE
            why = _why_not(layers[row.name], made is not None, pinned_by) or (_FEW if few else "")
            size = made.stored_bytes(row.input_shape[1]) if made else 0
            numbers = row.input_shape[1:]
            choices.append(
                SketchChoice(row.name, numbers, made.count if made else 0, _BYTES * prod(numbers), size, not why, why)
            )
            tried[row.name].probes = 1
            can_be_smaller = tried[row.name].sketch_of(row.input_shape) is not None
            layers[row.name].is_chosen &= can_be_smaller and not pinned_by and not few
    return choices


def _why_not(layer: nn.Module, smaller: bool, pinned_by: Sequence[str]) -> str:
    if not layer.is_chosen:
        return "not asked for"
    if not any(p.requires_grad for p in layer.parameters()):
        return FROZEN
    if not smaller:
        return _NO_SMALLER
    if not pinned_by:
        return ""
    keepers = [_OTHERS.get(name, name) for name in pinned_by]
    return f"{' and '.join(keepers[:2])} {'keeps' if len(keepers) == 1 else 'keep'} it too"


def choice_table(choices: Sequence[SketchChoice]) -> str:
    """Return a table for the terminal: a line for each convolution and one for all; below it what to do about none."""
    lines = [list(_HEADINGS)]
    is_short = len(choices) <= _LONG
    for c in choices if is_short else [c for c in choices if c.sketched]:
        shape, size = "x".join(map(str, c.input_shape)), _kib(c.input_bytes)
        made = [str(c.probes), size, _kib(c.sketch_bytes), "sketch", ""]
        lines.append([c.name, shape, *(made if c.sketched else ["-", size, size, "input", c.why])])
    for why in [] if is_short else dict.fromkeys(c.why for c in choices if not c.sketched):
        same = [c for c in choices if c.why == why]
        size = _kib(sum(c.input_bytes for c in same))
        lines.append([f"{len(same)} more", "", "-", size, size, "input", why])
    kept_bytes = sum(c.sketch_bytes if c.sketched else c.input_bytes for c in choices)
    lines.append(["all", "", "", _kib(sum(c.input_bytes for c in choices)), _kib(kept_bytes), "", ""])
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADINGS))]
    table = [_aligned(line, widths) for line in lines]
    if any(c.sketched for c in choices):
        return "\n".join(table)
    return "\n".join([*table, _NO_SKETCH + _cure({c.why for c in choices})])


def _cure(reasons: set[str]) -> str:
    """Return what to type so that a convolution keeps a sketch, by why none does."""
    if _NO_SMALLER in reasons and reasons <= {_NO_SMALLER, _FEW, f"{_OTHERS[BATCH]} keeps it too"}:
        return "fewer probes make smaller ones, such as --model.probes 0.25"
    return (_TRAINS if FROZEN in reasons else "") + _FREES


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.rjust(width) if heading == "probes" or heading.endswith("KiB") else cell.ljust(width)
        for heading, cell, width in zip(_HEADINGS, line, widths, strict=True)
    ]
    return "  ".join(cells).rstrip()
