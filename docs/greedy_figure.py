"""Draw the pictures and tables of docs/greedy.md from the functions they are about.

python docs/greedy_figure.py            writes the page
python docs/greedy_figure.py --check    exit code 1 where the page is not what the functions give
"""

import sys
from dataclasses import replace
from pathlib import Path

from lightning_modules.execution.replay_buffer import ORDERS, ReplayBuffer
from lightning_modules.execution.schedule import frames_read, nominal_frame, work
from lightning_modules.layers.bit_packing import index_bits
from lightning_modules.metrics.head_cost import ModuleCost, module_costs
from lightning_modules.networks import build_network
from lightning_modules.networks.heads import HEADS
from lightning_modules.networks.local_modules import LocalModules, cut_into_modules, module_sizes
from lightning_modules.networks.wiring import WIRINGS, Wiring, make_wiring

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generated import BLOCKS, with_blocks, write_or_check  # noqa: F401  (tests read BLOCKS)

PAGE = Path(__file__).resolve().parent / "greedy.md"
DEPTH, TICKS = 6, range(1, 9)
HELD = 3  # minibatches in the drawn buffer
QUANTISED = ((16, 256), (16, 16), (4, 256), (1, 256))  # groups, codes
CHANNELS = 64


def in_modules(name: str, modules: int | None) -> Wiring:
    """Return a wiring whose units are put together in modules, with local gradients."""
    return replace(make_wiring(name, DEPTH), modules=module_sizes(modules, DEPTH), gradients="local")


def clock() -> str:
    """Return which frames have reached each module's answer at each tick, on a chain and with skips."""
    lines = ["tick                   " + "".join(f"{tick:>5}" for tick in TICKS)]
    for name in ("chain", "residual"):
        wiring, top = in_modules(name, None), 0
        lines.append(f"wiring {name}")
        for number, size in enumerate(wiring.modules, start=1):
            units = f"unit {top + 1}" if size == 1 else f"units {top + 1}-{top + size}"
            top += size
            label = f"  module {number}, {units}"
            lines.append((f"{label:<23}" + "".join(f"{_frames(wiring, top, t):>5}" for t in TICKS)).rstrip())
    return "\n".join(lines)


def _frames(wiring: Wiring, unit: int, tick: int) -> str:
    """Return the oldest and the newest frame in a unit's output, `2-3`; one number where they are the same."""
    if work(wiring, tick, unit).output_frame is None:
        return ""
    found = frames_read(wiring, unit, tick)
    assert min(found) == nominal_frame(wiring, unit, tick)
    return str(min(found)) if len(found) == 1 else f"{min(found)}-{max(found)}"


def cuts() -> str:
    """Return how numbers of modules cut six units."""
    lines = ["| `modules` | units in each |", "| --- | --- |"]
    for modules in (None, 1, 2, 3, 4, DEPTH):
        sizes = ", ".join(map(str, module_sizes(modules, DEPTH)))
        lines.append(f"| {'absent' if modules is None else modules} | {sizes} |")
    return "\n".join(lines)


def heads() -> str:
    """Return what heads cost beside the units of small_cnn, all modules together, and the largest share of one."""
    lines = [
        "| head | head_width | parameters, of the units | MACs, of the units | largest MAC share of a module |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in HEADS:
        for width in (LocalModules.head_width, 1.0):
            costs = costs_of(kind, width)
            mine = [f"{100 * _share(costs, name):.0f} %" for name in ("parameters", "macs")]
            worst = max(costs, key=lambda cost: cost.mac_share)
            largest = f"{100 * worst.mac_share:.0f} % (module {costs.index(worst) + 1})"
            lines.append(f"| `{kind}` | {width:g} | {mine[0]} | {mine[1]} | {largest} |")
    return "\n".join(lines)


def costs_of(kind: str, width: float) -> list[ModuleCost]:
    """Return the cost of each module of small_cnn on frames of 32 x 32, every unit a module."""
    network = build_network("small_cnn", wiring="chain", in_channels=1, num_classes=10, depth=DEPTH)
    cut_into_modules(network, LocalModules(head=kind, head_width=width))
    return module_costs(network, (1, 32, 32))


def _share(costs: list[ModuleCost], name: str) -> float:
    return sum(getattr(c, f"head_{name}") for c in costs) / sum(getattr(c, name) for c in costs)


def orders() -> str:
    """Return what a full buffer gives, drawn from again and again."""
    lines = [f"| order | {HELD} minibatches, written 0, 1, 2: drawn | then 3 is written: drawn |"]
    lines.append("| --- | --- | --- |")
    for order in ORDERS:
        buffer = ReplayBuffer(HELD, order)
        for number in range(HELD):
            buffer.push(number, now=number)
        first = [str(buffer.draw(now=HELD)) for _ in range(2 * HELD)]
        buffer.push(HELD, now=HELD)
        then = [str(buffer.draw(now=HELD)) for _ in range(HELD)]
        lines.append(f"| `{order}` | {', '.join(first)} | {', '.join(then)} |")
    return "\n".join(lines)


def bits() -> str:
    """Return the bits that a position takes, dense and quantised."""
    dense = 32 * CHANNELS
    lines = [
        f"| `vq_groups` | `vq_codes` | bits a position, of {CHANNELS} channels | less by |",
        "| --- | --- | --- | --- |",
        f"| 0 | | {dense} (float32) | 1x |",
    ]
    for groups, codes in QUANTISED:
        sent = groups * index_bits(codes)
        lines.append(f"| {groups} | {codes} | {groups} x {index_bits(codes)} = {sent} | {dense / sent:g}x |")
    return "\n".join(lines)


def wirings() -> str:
    """Return which frames meet in the network's answer, counted from the newest that has reached it, for three cuts."""
    given = (None, 3, 1)
    titles = (f"modules of {', '.join(map(str, module_sizes(modules, DEPTH)))}" for modules in given)
    lines = [f"| wiring | {' | '.join(titles)} |", "| --- | --- | --- | --- |"]
    for name in WIRINGS:
        lines.append(f"| {name} | {' | '.join(_ages(in_modules(name, modules)) for modules in given)} |")
    return "\n".join(lines)


def _ages(wiring: Wiring) -> str:
    found = frames_read(wiring, DEPTH, 20)
    return ", ".join("m" if age == 0 else f"m - {age}" for age in sorted(max(found) - frame for frame in found))


def filled(page: str) -> str:
    """Return the page's text with every generated block made anew."""
    made = {
        "clock": f"```text\n{clock()}\n```",
        "cuts": cuts(),
        "wirings": wirings(),
        "heads": heads(),
        "orders": orders(),
        "bits": bits(),
    }
    return with_blocks(page, made)


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    return write_or_check(PAGE, filled(PAGE.read_text()), arguments, "greedy_figure.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
