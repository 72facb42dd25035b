"""A network whose layers keep less of their activations: sketches in convolutions, bits in what stands between them.

    convolution    keeps its input           -> a sketch of it (layers/xconv.py)
    ReLU, pools    keep the next one's input -> a bit or a few for each number (layers/compact.py, level `relu`)
    norms          keep the last one's output-> 8 bits for each number (level `norm`)

A sketch frees nothing while another layer keeps the same tensor, so these go together (methods.md section 5, "Memory
truth").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_modules.layers.compact import LEVELS, to_compact
from lightning_modules.layers.probes import MODES
from lightning_modules.layers.xconv import check_probes, to_xconv

MIB = 2**20


@dataclass(frozen=True)
class Sketching:
    """What of a network's activations is kept as sketches or in few bits.

    Args:
        probes: of every chosen convolution: their number; below 1 the share of its input's numbers; 0: exact.
        probe_warmup: updates before the first sketch, exact until then; batches where weights move at every tick.
        probe_schedule: probes from an update (such a batch) on, by its number; in place of `probes` and `probe_warmup`.
        probe_layers: `auto`: where it saves bytes; `all`; or names of convolutions, or patterns.
        probe_mode: one of `MODES`.
        probe_center: sketch what is left without the channels' means, and keep these.
        probe_half: keep sketches in bfloat16.
        probe_budget_mib: of probes, and of what is got back from them at a time.
        compact: none; relu: ReLUs and pools keep few bits; norm: normalisations too, in 8 bits.
    """

    probes: float = 0
    probe_warmup: int = 0
    probe_schedule: Mapping[int, float] | None = None
    probe_layers: str | Sequence[str] = "auto"
    probe_mode: str = MODES[0]
    probe_center: bool = True
    probe_half: bool = True
    probe_budget_mib: float = 16
    compact: str = LEVELS[0]

    @property
    def sketches(self) -> bool:
        """Whether any convolution is ever sketched."""
        return bool(self.first_probes)

    @property
    def first_probes(self) -> float:
        """The first probes that are not 0; 0 where there are none."""
        return next((p for _, p in sorted((self.probe_schedule or {0: self.probes}).items()) if p), 0)

    def said(self) -> str:
        """Return in words when which probes are used; "" where they are the same throughout."""
        if self.probe_schedule is None and not self.probe_warmup:
            return ""
        steps = sorted((self.probe_schedule or {0: 0, self.probe_warmup: self.probes}).items())
        parts = [f"from update {start}: {f'probes {probes:g}' if probes else 'exact'}" for start, probes in steps]
        return "; ".join(parts) + f" (the table is for {self.first_probes:g})"

    def probes_at(self, update: int) -> float:
        """Return the probes of an update, counted from 0."""
        if self.probe_schedule is None:
            return self.probes if update >= self.probe_warmup else 0
        past = [start for start in self.probe_schedule if start <= update]
        return self.probe_schedule[max(past)] if past else 0


def sketch_network(network: nn.Module, options: Mapping[str, Any], executor: str) -> Sketching:
    """Convert a network's layers as options ask, and return what was asked for; exact until probes are set.

    With `auto` all convolutions are converted; which of them sketch is chosen when the data's size is known.

    Args:
        network: is changed.
        options: `Sketching`'s, by name; others are left.
        executor: that will train it.

    Raises:
        ValueError: no number of probes, an unknown mode or level, an option without effect, a network without
            convolutions, or executor `cuda_graph`, whose replays would repeat the same probes.
    """
    asked = Sketching(**{name: options[name] for name in Sketching.__dataclass_fields__})
    _check(asked, executor)
    if asked.sketches:
        layers = ("*",) if asked.probe_layers in ("auto", "all") else asked.probe_layers
        converted = to_xconv(
            network,
            0,
            mode=asked.probe_mode,
            center=asked.probe_center,
            half=asked.probe_half,
            layers=[layers] if isinstance(layers, str) else layers,
            budget_bytes=int(asked.probe_budget_mib * MIB),
        )
        if not converted:
            raise ValueError(
                f"probes {asked.first_probes}, but this network has no convolution; use --model.probes 0 and no "
                "--model.probe_schedule"
            )
    to_compact(network, asked.compact)
    return asked


def _check(asked: Sketching, executor: str) -> None:
    for probes in (asked.probes, *(asked.probe_schedule or {}).values()):
        check_probes(probes)
    if asked.probe_schedule is not None and (asked.probes or asked.probe_warmup):
        others = {"probes": asked.probes, "probe_warmup": asked.probe_warmup}
        given = " and ".join(f"{name} {value:g}" for name, value in others.items() if value)
        type_this = " ".join(f"--model.{name} 0" for name, value in others.items() if value)
        raise ValueError(
            f"probe_schedule {dict(asked.probe_schedule)} with {given}, which it stands for; use {type_this} beside "
            "it, or leave them out"
        )
    if asked.probe_schedule is not None and min(asked.probe_schedule, default=0) < 0:
        raise ValueError(f"probe_schedule {dict(asked.probe_schedule)}; updates are counted from 0")
    if asked.probe_warmup < 0:
        raise ValueError(f"probe_warmup is {asked.probe_warmup}; it must be at least 0")
    if asked.probe_mode not in MODES:
        raise ValueError(f"probe_mode {asked.probe_mode!r} is unknown; expected one of {', '.join(MODES)}")
    if not asked.probe_layers:
        raise ValueError(
            f"probe_layers {asked.probe_layers!r} names no convolution; use 'auto', 'all', or names or patterns"
        )
    if not isinstance(asked.probe_layers, str) and {"auto", "all"} & set(asked.probe_layers):
        raise ValueError(
            f"probe_layers {list(asked.probe_layers)}: auto and all stand alone; use 'auto', 'all', or names and "
            "patterns"
        )
    if asked.probe_budget_mib <= 0:
        raise ValueError(f"probe_budget_mib is {asked.probe_budget_mib}; it must be above 0")
    if asked.compact not in LEVELS:
        raise ValueError(f"compact {asked.compact!r} is unknown; expected one of {', '.join(LEVELS)}")
    if not asked.sketches:
        for name in Sketching.__dataclass_fields__:
            if name.startswith("probe_") and getattr(asked, name) != getattr(Sketching, name):
                raise ValueError(
                    f"{name} {getattr(asked, name)!r} without probes; give probes a number, such as 0.125, or leave "
                    f"{name} out"
                )
    elif executor == "cuda_graph":
        raise ValueError(
            f"probes {asked.first_probes} with executor 'cuda_graph', whose replays would repeat the same probes; use "
            "executor 'pipelined' or 'vectorised', or probes 0"
        )
