"""A contestant's figures as one row of results.json."""

from typing import TYPE_CHECKING, Any

from lightning_modules.metrics.latency import percentile
from lightning_modules.metrics.stage_cost import passes_done

if TYPE_CHECKING:
    from lightning_modules.metrics.stage_bench import Result, SettingResults

CONTESTANT = ("rule", "stash", "executor", "placement", "transport", "frames", "update", "threads", "laps")


def rows_of(found: "SettingResults") -> list[dict[str, Any]]:
    """Return one row for each contestant, in their order."""
    return [_row(found, result) for result in found.results]


def _row(found: "SettingResults", result: "Result") -> dict[str, Any]:
    setting, contestant = found.setting, result.contestant
    copies = setting.stages if contestant.placement == "copies" else 1
    frames = setting.round_frames * setting.batch * copies
    wall, cpu = result.times.wall_ms, result.times.cpu_ms
    saved = [m.saved_mib for m in result.memory]
    return {
        "row": contestant.name,
        **{name: getattr(contestant, name) for name in CONTESTANT},
        "copies": copies,
        "updates_per_round": setting.round_frames
        if contestant.update == "frame"
        else setting.round_frames // contestant.frames,
        "passes": passes_done(contestant, setting.make_wiring(contestant.rule)),
        "frames_per_second": frames / percentile(wall, 50) * 1000 if wall else None,
        "cpu_ms_per_frame": percentile(cpu, 50) / frames if cpu else None,
        "tick_p50_ms": result.tick_p50_ms,
        "tick_p95_ms": result.tick_p95_ms,
        "saved_mib": [value for value in saved if value is not None],
        "peak_mib": [m.peak_mib for m in result.memory],
        "wall_ms": wall,
        "cpu_ms": cpu,
        "busiest_cpu_ms": result.busiest_ms,
    }
