"""Draw the pictures of docs/future_frames.md from the functions they are about.

python docs/future_frames_figure.py            writes the page
python docs/future_frames_figure.py --check    exit code 1 where the page is not what the functions give
"""

import sys
from pathlib import Path

import torch

from lightning_modules.execution.schedule import frames_read, newest_frame, work
from lightning_modules.horizon import horizons, scored_outputs, shortest_scored_clip
from lightning_modules.networks.wiring import PREDICTOR_WIRINGS, Wiring, make_wiring

sys.path.insert(0, str(Path(__file__).resolve().parent))

from generated import BLOCKS, with_blocks, write_or_check  # noqa: F401  (tests read BLOCKS)

PAGE = Path(__file__).resolve().parent / "future_frames.md"
DEPTH, HORIZON, TICK = 6, 2, 12
WAIT_HORIZON, WAIT_LEAD = 4, 2
FRAMES = range(TICK - DEPTH, TICK + HORIZON + 1)


def line(label: str, cells: dict[int, str]) -> str:
    """Return a label of 12 characters, then what stands at each frame."""
    return (f"{label:<12}" + "".join(f"{cells.get(frame, ''):>4}" for frame in FRAMES)).rstrip()


def wiring_row(wiring: Wiring) -> str:
    """Return what has reached the output at a tick, its newest frame m, and the targets that count from it."""
    cells = dict.fromkeys(frames_read(wiring, DEPTH, TICK), "*")
    newest = newest_frame(wiring, DEPTH, TICK)
    cells |= {newest: "m"} | {newest + k: f"+{k}" for k in horizons(HORIZON)}
    return line(wiring.name, cells)


def horizon_picture() -> str:
    """Return the rule of the horizon, a line for each wiring."""
    wirings = [make_wiring(name, DEPTH) for name in PREDICTOR_WIRINGS]
    return "\n".join([line("frame", {frame: str(frame) for frame in FRAMES}), *map(wiring_row, wirings)])


def ticks_of_wait(wiring: Wiring, horizon: int, lead: int = 0) -> int:
    """Return how many ticks after an output the newest frame comes that its loss, or with a lead its message, needs."""
    return max(0, newest_frame(wiring, DEPTH, TICK) + horizon + lead - TICK)


def wiring_table() -> str:
    """Return of each wiring Lmin, how old the frames are that meet in one output, and how far off its targets are."""
    waits = f"ticks to the last target, K = {WAIT_HORIZON} (with lead {WAIT_LEAD})"
    lines = [f"| wiring | Lmin | frames that meet in an output | {waits} |", "| --- | --- | --- | --- |"]
    for name in PREDICTOR_WIRINGS:
        wiring = make_wiring(name, DEPTH)
        newest = newest_frame(wiring, DEPTH, TICK)
        ages = sorted(newest - frame for frame in frames_read(wiring, DEPTH, TICK))
        words = ", ".join("m" if age == 0 else f"m - {age}" for age in ages)
        wait, with_lead = ticks_of_wait(wiring, WAIT_HORIZON), ticks_of_wait(wiring, WAIT_HORIZON, WAIT_LEAD)
        lines.append(f"| {name} | {min(wiring.path_lengths(DEPTH))} | {words} | {wait} ({with_lead}) |")
    return "\n".join(lines)


def unet_clock() -> str:
    """Return what each unit of a U-Net reads at one tick."""
    wiring = make_wiring("unet", DEPTH)
    lines = [f"tick {TICK}"]
    for unit in range(1, DEPTH + 1):
        reads = []
        for read in work(wiring, TICK, unit).reads:
            source = f"unit {read.source}" if read.source else "the video"
            frames = ", ".join(str(frame) for frame in sorted(read.frames))
            reads.append(f"{source} ({'frames' if len(read.frames) > 1 else 'frame'} {frames})")
        lines.append(f"  unit {unit} reads {' and '.join(reads)}")
    return "\n".join(lines)


def lengths() -> str:
    """Return the clip lengths that the example in the text is about."""
    frames, ahead = 24, 4
    newest = torch.arange(frames)
    scored = newest[scored_outputs(newest, torch.tensor([frames]), depth=DEPTH, horizon=ahead)[0]]
    shortest = shortest_scored_clip(DEPTH, ahead)
    return (
        f"With D = {DEPTH} and K = {ahead} a clip needs {shortest} frames; of {frames} frames "
        f"those from m = {scored[0]} to {scored[-1]} are scored, counted from 0."
    )


def filled(page: str) -> str:
    """Return the page's text with every generated block made anew."""
    made = {
        "horizon": f"```text\n{horizon_picture()}\n```",
        "wirings": wiring_table(),
        "unet": f"```text\n{unet_clock()}\n```",
        "lengths": lengths(),
    }
    return with_blocks(page, made)


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    return write_or_check(PAGE, filled(PAGE.read_text()), arguments, "future_frames_figure.py")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
