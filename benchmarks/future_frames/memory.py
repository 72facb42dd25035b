"""What training holds for each rule of the future-frames tables, by the length of the clip.

    python benchmarks/future_frames/memory.py          # writes memory.md beside this file

Bytes, not time: what autograd saves at its peak plus what the pipeline keeps from tick to tick (messages and stashed
inputs), weights left out; the same on any machine. The network is the tables' own: `small_autoencoder`, width 0.5, a
batch of 16 gray frames of 32 x 32, K = 4. The pipelined executor works tick by tick, as separate devices would; exact
backprop has no such form and holds the whole clip. The stash is measured at its fullest: the pipeline is not drained
at the clip's end. The runs of the comparisons used the vectorised executor, which holds the whole clip on one device
for every rule; it gives the same numbers to rounding.
"""

from pathlib import Path

import torch

from lightning_modules.execution import clip_gradients
from lightning_modules.frame_losses import frame_loss
from lightning_modules.metrics.memory import MIB, SavedTensors, storage_bytes, tensors_in
from lightning_modules.networks import build_frame_predictor
from lightning_modules.rules import Rule, make_rule

BATCH, SIZE, HORIZONS, WIDTH = 16, 32, 4, 0.5
LENGTHS = (16, 32, 64)
STASH = make_rule("sideways", stash="exact", drain=False)
ROWS: tuple[tuple[str, str, str, Rule], ...] = (
    ("backprop_shifted", "unet", "all", make_rule("backprop_shifted")),
    ("backprop_shifted, shortest", "unet", "shortest", make_rule("backprop_shifted")),
    ("skip_sideways, stash", "unet", "all", STASH),
    ("skip_sideways_stash (shortest)", "unet", "shortest", STASH),
    ("skip_sideways_lead (shortest)", "unet", "shortest", make_rule("sideways", lead=2)),
    ("sideways", "chain", "all", make_rule("sideways")),
)


def held_mib(wiring: str, edges: str, rule: Rule, frames: int) -> float:
    """Return the MiB held while a batch of clips of `frames` frames is trained on."""
    torch.manual_seed(0)
    network = build_frame_predictor(
        "small_autoencoder",
        wiring=wiring,
        in_channels=1,
        out_channels=HORIZONS,
        width=WIDTH,
        gradient_edges=edges,  # type: ignore[arg-type]
    )
    video, targets = torch.rand(BATCH, frames, 1, SIZE, SIZE), torch.rand(BATCH, frames, HORIZONS, SIZE, SIZE)
    executor = "pipelined" if rule.pipelines else "vectorised"
    with SavedTensors.measure(network) as meter:
        found = clip_gradients(network, video, targets, rule=rule, executor=executor, loss=frame_loss("mse"))
    kept = 0
    if found.state is not None:
        found.state.targets = None  # the caller's, for streams; a clip of its own has no use for them
        kept = storage_bytes(tensors_in(found.state.state_dict()))
    return (meter.peak_bytes + kept) / MIB


def main() -> None:
    """Measure every row and write the table."""
    lines = [
        "# What training holds (MiB)",
        "",
        f"small_autoencoder, width {WIDTH}, {BATCH} gray clips of {SIZE} x {SIZE}, K = {HORIZONS}: tensors saved for "
        "the backward pass at the peak, and what the pipeline keeps between ticks; weights left out. "
        "`python benchmarks/future_frames/memory.py`",
        "",
        "sideways is measured tick by tick, as on separate devices (executor pipelined), and its stash at its fullest, "
        "not drained. The runs of the comparisons used the vectorised executor, which holds the whole clip on one "
        "device whatever the rule (the same numbers to rounding), so `saved tensors MiB` in their tables is about "
        "that.",
        "",
        "| row | wiring | gradient edges | " + " | ".join(f"T = {t}" for t in LENGTHS) + " |",
        "| --- " * (3 + len(LENGTHS)) + "|",
    ]
    for name, wiring, edges, rule in ROWS:
        figures = " | ".join(f"{held_mib(wiring, edges, rule, frames):.1f}" for frames in LENGTHS)
        lines.append(f"| {name} | {wiring} | {edges} | {figures} |")
        print(lines[-1], flush=True)
    Path(__file__).with_name("memory.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
