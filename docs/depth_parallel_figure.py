"""Draw the clock diagram and tables of docs/depth_parallel.md from the functions they are about.

python docs/depth_parallel_figure.py            writes the page
python docs/depth_parallel_figure.py --check    exit code 1 where the page is not what the functions give
"""

import sys
from collections.abc import Callable
from pathlib import Path

from lightning_modules.execution.placement import Channel, Placement, cut, message_ticks
from lightning_modules.execution.schedule import nominal_frame, work
from lightning_modules.networks.wiring import make_wiring
from lightning_modules.rules import make_rule
from lightning_modules.strategies.balance import balanced, report

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generated import BLOCKS, with_blocks, write_or_check  # noqa: F401  (tests read BLOCKS)

PAGE = Path(__file__).resolve().parent / "depth_parallel.md"
TICKS = 10
EXAMPLE_MS = [2.0, 1.5, 6.0, 1.0, 0.5]
PLACEMENT = cut(make_wiring("concat", 4), (2, 2))


def row(label: str, frame_at: Callable[[int], int | None]) -> str:
    """Return one line: a label of 24 characters, then a frame's number in each tick's column."""
    cells = (frame_at(tick) for tick in range(1, TICKS + 1))
    return (f"{label:<24}" + "".join(f"{'' if cell is None else cell:>4}" for cell in cells)).rstrip()


def stage_rows(placement: Placement, stage: int) -> list[str]:
    """Return what a stage's units do: the frame that each forwards, and the one whose loss's gradient it uses."""
    units, wiring = placement.stages[stage], placement.wiring
    lines = [f"stage {stage}"]
    lines += [row(f"  unit {u} forward", lambda t, u=u: work(wiring, t, u).output_frame) for u in units]
    lines += [row(f"  unit {u} gradient", lambda t, u=u: work(wiring, t, u).gradient_frame) for u in reversed(units)]
    return lines


def channel_row(placement: Placement, channel: Channel) -> str:
    """Return the oldest frame that each message of a channel is about, at the tick at which it is used."""
    unit, ticks = channel.unit, message_ticks(placement, channel, make_rule("sideways"), TICKS)
    if channel.kind == "activation":
        readers, arrow = placement.readers(unit, channel.receiver), "->"
        frames = {t: nominal_frame(placement.wiring, unit, t - 1) for t in ticks}
    else:
        readers, arrow = placement.senders(unit, channel.sender), "<-"
        frames = {t: min(work(placement.wiring, t - 1, i).gradient_frame or 0 for i in readers) for t in ticks}
    return row(f"  {unit} {arrow} {', '.join(map(str, readers))}{_skip(unit, readers)}", frames.get)


def _skip(unit: int, readers: tuple[int, ...]) -> str:
    return "  (skip)" if unit + 1 not in readers else ""


def clock_diagram(placement: Placement) -> str:
    """Return the diagram: the stages, and between them what crosses from one to the other."""
    channels = sorted(placement.channels, key=lambda c: (c.kind, -c.unit))
    up = [channel_row(placement, c) for c in channels if c.kind == "activation"]
    down = [channel_row(placement, c) for c in channels if c.kind == "gradient"]
    lines = [
        row("tick", lambda tick: tick),
        *stage_rows(placement, 0),
        "messages up, stage 0 to 1",
        *up,
        "messages down, stage 1 to 0",
        *down,
        *stage_rows(placement, 1),
    ]
    return "\n".join(lines)


def channel_table(placement: Placement) -> str:
    """Return a table of the channels between the stages."""
    rule = make_rule("sideways")
    lines = ["| message | from | to | read or sent by units | used at ticks |", "| --- | --- | --- | --- | --- |"]
    for c in sorted(placement.channels, key=lambda c: (c.kind, -c.unit)):
        ticks = message_ticks(placement, c, rule, TICKS)
        what = f"output of unit {c.unit}" if c.kind == "activation" else f"gradient for unit {c.unit}'s output"
        ends = placement.readers(c.unit, c.receiver) if c.kind == "activation" else placement.senders(c.unit, c.sender)
        units = ", ".join(map(str, ends))
        lines.append(f"| {what} | stage {c.sender} | stage {c.receiver} | {units} | {ticks[0]} to the clip's end |")
    return "\n".join(lines)


def filled(page: str) -> str:
    """Return the page's text with every generated block made anew."""
    made = {
        "clock": f"```text\n{clock_diagram(PLACEMENT)}\n```",
        "channels": channel_table(PLACEMENT),
        "balance": f"```text\n{report(EXAMPLE_MS, balanced(EXAMPLE_MS, 3))}\n```",
    }
    return with_blocks(page, made)


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    return write_or_check(PAGE, filled(PAGE.read_text()), arguments, "depth_parallel_figure.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
