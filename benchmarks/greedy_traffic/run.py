"""What quantised messages cost: bytes that are held in the buffers, and that one minibatch takes on its way up.

OMP_NUM_THREADS=1 python benchmarks/greedy_traffic/run.py

The network and the clips are those of app/configs/comparisons/digits_greedy.yaml; bytes are those of the tensors in the
buffers, codebooks, labels and lengths included, after 31 steps on random clips. Writes results.md beside this file.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from app.comparison.formats import markdown_table  # noqa: E402
from lightning_modules.execution import ReplayMemory, clip_gradients  # noqa: E402
from lightning_modules.networks import build_network  # noqa: E402
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules  # noqa: E402
from lightning_modules.rules import make_rule  # noqa: E402

CODES = {"dense": {}, "17x": {"vq_groups": 8, "vq_codes": 32}, "68x": {"vq_groups": 2, "vq_codes": 32}}
CODES |= {"228x": {"vq_groups": 1, "vq_codes": 8}}
CLIPS, FRAMES, SIZE = 16, 16, 32
STEPS = 31


def held_bytes(codes: Mapping[str, int], minibatches: int) -> dict[int, float]:
    """Return the bytes in the buffer below each module, once it is full."""
    torch.manual_seed(0)
    network = build_network("small_cnn", depth=5, wiring="residual", pool="max", in_channels=1, num_classes=10)
    cut_into_modules(network, LocalModules(head="cnn", **codes))
    memory, rule = ReplayMemory(), make_rule("greedy", replay=minibatches)

    def learn_nothing(_: Mapping[str, Tensor]) -> None:
        """Weights do not matter here; codebooks learn."""

    for _ in range(STEPS + network.module_count):
        video, labels = torch.rand(CLIPS, FRAMES, 1, SIZE, SIZE), torch.randint(0, 10, (CLIPS,))
        clip_gradients(network, video, labels, rule=rule, memory=memory, on_tick=learn_nothing)
    figures = memory.figures()
    return {j: figures[f"buffer/bytes/module_{j}"] for j in range(2, network.module_count + 1)}


def main() -> None:
    """Measure every setting, print and write the table."""
    rows, dense = [], {}
    for name, codes in CODES.items():
        one, thirty = held_bytes(codes, 1), held_bytes(codes, 30)
        dense = dense or {"one": sum(one.values()), "thirty": sum(thirty.values())}
        rows.append(
            [
                name,
                ", ".join(f"{codes[key]}" for key in codes) or "-",
                *(f"{one[j] / 1024:.1f}" for j in one),
                f"{dense['one'] / sum(one.values()):.1f}x",
                f"{sum(thirty.values()) / 2**20:.2f}",
                f"{dense['thirty'] / sum(thirty.values()):.1f}x",
            ]
        )
    header = ["setting", "groups, codes", *(f"to module {j}, KiB a minibatch" for j in (2, 3, 4)), "less by"]
    table = markdown_table([*header, "held by buffers of 30, MiB", "less by"], rows)
    text = f"# Bytes between modules\n\nA minibatch is {CLIPS} clips of {FRAMES} frames.\n\n{table.strip()}\n"
    (HERE / "results.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
