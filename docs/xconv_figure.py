"""Make the tables of docs/xconv.md from the layers they are about.

python docs/xconv_figure.py            writes the page
python docs/xconv_figure.py --check    exit code 1 where the page is not what the layers give
"""

import sys
from pathlib import Path

import torch
from torch import nn

from lightning_modules.layers.compact import LEVELS, to_compact
from lightning_modules.layers.xconv import set_probes, to_xconv
from lightning_modules.metrics.saved_by_layer import BATCH, saved_by_layer
from lightning_modules.metrics.sketch_choice import choice_table, choose_layers
from lightning_modules.networks import build_network

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generated import BLOCKS, with_blocks, write_or_check  # noqa: F401  (tests read BLOCKS)

PAGE = Path(__file__).resolve().parent / "xconv.md"
PROBES = 0.25
SHAPES = {"vgg8": (3, 32, 32), "cnn3d": (8, 3, 32, 32)}
OPTIONS = {"vgg8": {"width": 0.25}, "cnn3d": {}}


def network(name: str, level: str, probes: float) -> nn.Module:
    """Return a network whose layers keep less, as a task converts it."""
    torch.manual_seed(0)
    made = build_network(name, in_channels=3, num_classes=10, **OPTIONS[name])
    to_compact(made, level)
    if probes:
        to_xconv(made, 0, center=True, half=True)
        choose_layers(made, SHAPES[name], probes, auto=True)
        set_probes(made, probes)
    return made


def saved_kib(name: str, level: str, probes: float) -> float:
    """Return what one frame, or one clip, leaves behind, without the frames themselves."""
    rows = saved_by_layer(network(name, level, probes), SHAPES[name], batch=1)
    return sum(row.saved_bytes - (row.input_bytes if BATCH in row.pinned_by else 0) for row in rows) / 1024


def levels() -> str:
    """Return what convolution alone, with ReLUs and pools, and with norms buys."""
    exact = {name: saved_kib(name, "none", 0) for name in SHAPES}
    lines = [
        "| `compact` | convolutions | VGG-8 | of exact | 3D CNN | of exact |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for level in LEVELS:
        for probes in (0, PROBES):
            cells = []
            for name in SHAPES:
                kib = saved_kib(name, level, probes)
                cells += [f"{kib:,.0f}", f"{kib / exact[name]:.2f}"]
            lines.append(f"| `{level}` | {'sketched' if probes else 'exact'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def choice() -> str:
    """Return the table that `fit` prints."""
    made = network("vgg8", "norm", 0)
    to_xconv(made, 0, center=True, half=True)
    return f"```text\n{choice_table(choose_layers(made, SHAPES['vgg8'], PROBES, auto=True))}\n```"


def filled(page: str) -> str:
    """Return the page's text with every generated block made anew."""
    return with_blocks(page, {"levels": levels(), "choice": choice()})


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    return write_or_check(PAGE, filled(PAGE.read_text()), arguments, "xconv_figure.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
