"""The goals of depth-parallel training, judged on one setting's rows: met or missed, with the figure. Pure functions.

Rates are compared inside a round, medians over rounds. A clip's first frames fill the pipeline and carry no gradient,
so that Sideways does fewer passes than exact methods: each rate also stands *per pass*, times the share that it does.

Two processes need not be twice as fast as one, even where neither waits for the other: caches and memory are shared.
So rates and CPU times also stand beside the *ceiling*, that of as many one-process copies of the same training at once.

Goal 8 is the published speed-up of Decoupled Greedy Learning, heads included, over backprop of the same network in one
process: 1.85 on two devices, 3.03 on four (WRN-28-10).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_modules.metrics.interleaved import median_ratio

Row = Mapping[str, Any]
Rows = Sequence[Row]

RATE_OVER_ONE_THREAD = 1.8
RATE_OVER_TWO_THREADS = 1.0
RATE_OVER_SCHEDULES = {2: 1.35, 8: 1.10}
RATE_OVER_ANY_SCHEDULE = 1.0
CPU_SMALL_MESSAGES, CPU_LARGE_MESSAGES, SMALL_MESSAGE_KIB = 1.10, 1.05, 64
SAVED_LONG_OVER_SHORT, SAVED_OVER_ONE_FRAME, SAVED_OVER_GPIPE = 1.01, 0.35, 0.2
ONE_FRAME_DEPTH = 4
GREEDY_OVER_ONE_THREAD = {2: 1.85, 4: 3.03}  # by devices, as published
NO_SCHEDULES = ("whole", "accumulated", "vectorised")
SCHEDULES_OF_GOAL_2 = ("GPipe", "1F1B")


@dataclass(frozen=True)
class Verdict:
    """One comparison of a goal.

    Args:
        goal: its number in the list of goals.
        what: the figure of which the ratio is taken.
        row: Sideways' row, or greedy's.
        base: the row beside it.
        figure: the ratio.
        bound: the ratio asked for.
        at_least: whether the ratio must be at least the bound; else at most.
        note: the same for each pass, where that is another number.
        of_ceiling: the row's figure over that of copies without messages, where they were measured.
    """

    goal: int
    what: str
    row: str
    base: str
    figure: float
    bound: float
    at_least: bool
    note: str = ""
    of_ceiling: float | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is met by this comparison; not where the figure is no number."""
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    @property
    def cells(self) -> list[str]:
        """Return the verdict as a table's cells, under `HEADER`."""
        sign, word = (">=" if self.at_least else "<="), ("met" if self.met else "missed")
        ceiling = "" if self.of_ceiling is None else f"{self.of_ceiling:.3g}"
        figures = [f"{self.figure:.3g}", f"{sign} {self.bound:g}", word, self.note, ceiling]
        return [f"{self.goal} {self.what}", self.row, self.base, *figures]


GREEDY_HEADER = ("greedy", "over", "x rate", "x rate, a core each", "x CPU")
HEADER = ("goal", "row", "over", "x", "asked", "", "x per pass", "of the ceiling")


def summary(found: Sequence[Verdict]) -> list[str]:
    """Return one line for each goal: met where every comparison is, else how many are; and how near to the ceiling."""
    lines = []
    for goal in sorted({verdict.goal for verdict in found}):
        own = [verdict for verdict in found if verdict.goal == goal]
        met = [verdict.met for verdict in own]
        line = f"goal {goal}: {'met' if all(met) else 'missed'}, {sum(met)} of {len(met)} comparisons"
        ratios = [verdict.of_ceiling for verdict in own if verdict.of_ceiling is not None]
        near = f"; {own[0].what} {min(ratios):.2f} to {max(ratios):.2f} of the ceiling's" if ratios else ""
        lines.append(line + near)
    return lines


def rows_with(rows: Rows, **fields: object) -> list[Row]:
    """Return the rows whose fields have these values."""
    return [row for row in rows if all(row[key] == value for key, value in fields.items())]


def rate_ratio(row: Row, base: Row) -> float:
    """Return how many times the rate of another row this one has: each copy trained the same frames in each round."""
    return median_ratio(base["wall_ms"], row["wall_ms"]) * _copies(row) / _copies(base)


def cpu_ratio(row: Row, base: Row) -> float:
    """Return how many times the CPU time per frame of another row this one needs."""
    return median_ratio(row["cpu_ms"], base["cpu_ms"]) * _copies(base) / _copies(row)


def _copies(row: Row) -> int:
    return row.get("copies", 1)  # tables from before there were copies


def _timed(rows: Rows) -> list[Row]:
    return [row for row in rows if row["wall_ms"]]


def _sideways(rows: Rows, frames: int, update: str) -> list[Row]:
    """Return the row of Sideways in stages by the first transport."""
    found = rows_with(
        rows, rule="sideways", executor="pipelined", placement="stages", frames=frames, update=update, stash="none"
    )
    return found[:1]


def _ceiling(rows: Rows, own: Row) -> list[Row]:
    """Return the row of copies that train as Sideways' row in stages does, without messages."""
    return rows_with(rows, rule="sideways", placement="copies", frames=own["frames"], update=own["update"])[:1]


def _per_pass(row: Row, ratio: float) -> str:
    return f"{ratio * row['passes']:.3g}"


def _against(goal: int, own: Row, base: Row, bound: float, of_ceiling: float | None = None) -> Verdict:
    ratio = rate_ratio(own, base)
    return Verdict(goal, "rate", own["row"], base["row"], ratio, bound, True, _per_pass(own, ratio), of_ceiling)


def goal_1(rows: Rows, frames: int) -> list[Verdict]:
    """Rate over naive model-parallel and one-process backprop with as many updates.

    Args:
        rows: of a setting.
        frames: T of the clips that are compared; `update: frame` is compared with an update for each frame.
    """
    rows, found = _timed(rows), []
    for update, m in (("clip", frames), ("frame", 1)):
        for own in _sideways(rows, frames, update):
            bases = rows_with(rows, rule="backprop", executor="vectorised", frames=frames, update=update)
            of_ceiling = next((rate_ratio(own, copies) for copies in _ceiling(rows, own)), None)
            for base in [*bases, *_plain(rows, m)]:
                bound = RATE_OVER_ONE_THREAD if base["threads"] == 1 else RATE_OVER_TWO_THREADS
                found.append(_against(1, own, base, bound, of_ceiling))
    return found


def _plain(rows: Rows, m: int) -> list[Row]:
    """Return one-process backprop with an update for each m frames."""
    alone = rows_with(rows, placement="one process", frames=m)
    return [row for how in ("whole", "accumulated") for row in rows_with(alone, executor=how)]


def goal_2(rows: Rows, frames: int) -> list[Verdict]:
    """Rate over the best exact schedule: at m = 2 and 8 over GPipe and 1F1B, at any m over all.

    `update: frame` has more updates than any schedule, `update: clip` fewer than those of m < T.
    """
    rows, found = _timed(rows), []
    schedules = [r for r in rows_with(rows, rule="backprop") if r["executor"] not in NO_SCHEDULES]
    for own in [row for update in ("clip", "frame") for row in _sideways(rows, frames, update)]:
        for m, bound in RATE_OVER_SCHEDULES.items():
            rivals = [r for r in schedules if r["frames"] == m and r["executor"] in SCHEDULES_OF_GOAL_2]
            found += [_against(2, own, base, bound) for base in _fastest(rivals)]
        found += [_against(2, own, base, RATE_OVER_ANY_SCHEDULE) for base in _fastest(schedules)]
    return found


def _fastest(rows: Rows) -> list[Row]:
    return sorted(rows, key=lambda row: sorted(row["wall_ms"])[len(row["wall_ms"]) // 2])[:1]


def goal_3(rows: Rows, frames: int, message_kib: float) -> list[Verdict]:
    """CPU time per frame, summed over processes, over one-process backprop on one thread with as many updates."""
    rows, found = _timed(rows), []
    bound = CPU_SMALL_MESSAGES if message_kib <= SMALL_MESSAGE_KIB else CPU_LARGE_MESSAGES
    for update, m in (("clip", frames), ("frame", 1)):
        for own in _sideways(rows, frames, update):
            of_ceiling = next((cpu_ratio(own, copies) for copies in _ceiling(rows, own)), None)
            for base in rows_with(_plain(rows, m), threads=1):
                ratio = cpu_ratio(own, base)
                note = f"{ratio / own['passes']:.3g}"
                found.append(Verdict(3, "CPU", own["row"], base["row"], ratio, bound, False, note, of_ceiling))
    return found


def worst_saved(row: Row) -> float:
    """Return the saved-tensor MiB of the stage that holds most."""
    return max(row["saved_mib"])


def goal_4(rows: Rows, lengths: Sequence[int], depth: int) -> list[Verdict]:
    """Saved tensors on the worst device: flat in T, below one frame of backprop at D = 4, below GPipe at m = 8."""
    own = _sideways(rows, lengths[0], "clip")
    found = [
        _memory(row, base, SAVED_LONG_OVER_SHORT)
        for base in own
        for length in lengths[1:]
        for row in _sideways(rows, length, "clip")
    ]
    for row in own:
        one_frame = rows_with(rows, executor="whole", frames=1, threads=1) if depth == ONE_FRAME_DEPTH else []
        found += [_memory(row, base, SAVED_OVER_ONE_FRAME) for base in one_frame]
        found += [_memory(row, base, SAVED_OVER_GPIPE) for base in rows_with(rows, executor="GPipe", frames=8)]
    return found


def _memory(row: Row, base: Row, bound: float) -> Verdict:
    ratio = worst_saved(row) / worst_saved(base)
    return Verdict(4, "saved bytes", row["row"], base["row"], ratio, bound, False)


def _greedy(rows: Rows, frames: int) -> list[Row]:
    """Return greedy's rows in stages, one for each executor and update, by the first transport."""
    found = rows_with(_timed(rows), rule="greedy", placement="stages", frames=frames)
    return list({(row["executor"], row["update"]): row for row in reversed(found)}.values())[::-1]


def _greedy_copies(rows: Rows, own: Row) -> list[Row]:
    same = {key: own[key] for key in ("rule", "executor", "frames", "update")}
    return rows_with(_timed(rows), placement="copies", **same)


def goal_8(rows: Rows, frames: int, stages: int) -> list[Verdict]:
    """Rate of greedy in stages over one-process backprop on one thread with as many updates, at once or one by one.

    Args:
        rows: of a setting.
        frames: T of the clips that are compared.
        stages: devices; no verdict where no speed-up was published for so many.
    """
    if (bound := GREEDY_OVER_ONE_THREAD.get(stages)) is None:
        return []
    found = []
    for own in _greedy(rows, frames):
        of_ceiling = next((rate_ratio(own, copies) for copies in _greedy_copies(rows, own)), None)
        bases = rows_with(_plain(_timed(rows), frames if own["update"] == "clip" else 1), threads=1)
        found += [_against(8, own, base, bound, of_ceiling) for base in bases]
    return found


def greedy_beside(rows: Rows, frames: int) -> list[list[str]]:
    """Return how greedy's rows in stages compare with backprop and greedy in one process, and with others in stages.

    The schedule is the fastest at any m, and so may have more or fewer updates. With a core each: the ratio of the CPU
    times of the busiest processes, the rate that is left where nobody waits for another or for a core.

    Returns:
        Cells under `GREEDY_HEADER`.
    """
    timed, found = _timed(rows), []
    schedules = [row for row in rows_with(timed, rule="backprop") if row["executor"] not in NO_SCHEDULES]
    for own in _greedy(rows, frames):
        same = {key: own[key] for key in ("rule", "executor", "frames", "update")}
        plain = rows_with(_plain(timed, frames if own["update"] == "clip" else 1), threads=1)
        alone = rows_with(timed, placement="one process", **same)
        naive = rows_with(timed, rule="backprop", executor="vectorised", frames=frames, update=own["update"])
        for base in [*plain, *alone, *_sideways(timed, frames, own["update"]), *naive, *_fastest(schedules)]:
            busiest = median_ratio(base["busiest_cpu_ms"], own["busiest_cpu_ms"])
            ratios = (rate_ratio(own, base), busiest, cpu_ratio(own, base))
            found.append([own["row"], base["row"], *(f"{ratio:.3g}" for ratio in ratios)])
    return found


def ceiling(rows: Rows) -> list[str]:
    """Return a line on what the machine gives to copies of one-process backprop, over a single one; none without."""
    plain = rows_with(_timed(rows), executor="accumulated", threads=1)
    return [
        f"the machine's ceiling: {copies['copies']} copies of [{alone['row']}] that send nothing have "
        f"{rate_ratio(copies, alone):.2f} times the rate of one, at {cpu_ratio(copies, alone):.2f} times its CPU time"
        for copies in rows_with(plain, placement="copies")
        for alone in rows_with(plain, placement="one process", frames=copies["frames"])
    ]


def own_loss(scheduled: Mapping[int, int], seen: Mapping[int, int]) -> str:
    """Return the line on goal 6's tick: where a frame's own loss reaches the bottom unit."""
    bottom, depth = min(scheduled), len(scheduled)
    word = "as the schedule says" if dict(seen) == dict(scheduled) else f"NOT as the schedule says: {dict(seen)}"
    return f"goal 6, own loss of frame 1 at unit {bottom} of {depth}: tick {seen.get(bottom)}, {word}"


def verdicts(
    rows: Rows, lengths: Sequence[int], depth: int, message_kib: float, stages: int | None = None
) -> list[Verdict]:
    """Return every comparison that the rows allow, for a number of stages also those of greedy."""
    found = []
    for frames in lengths:
        found += [*goal_1(rows, frames), *goal_2(rows, frames), *goal_3(rows, frames, message_kib)]
        found += [] if stages is None else goal_8(rows, frames, stages)
    found += goal_4(rows, lengths, depth)
    return sorted(found, key=lambda verdict: verdict.goal)
