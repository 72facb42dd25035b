"""Each channel by the transport that fits its two ends: `make_exchange` is what the strategy asks for.

both ends on CPUs of one host      shared memory
anything else                      the process group: gloo between CPUs, NCCL between GPUs
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed import PrefixStore, Store

from lightning_modules.execution.placement import Channel
from lightning_modules.execution.stage import Exchange, Route
from lightning_modules.strategies.process_group import ProcessGroupExchange, gloo_links, nccl_links
from lightning_modules.strategies.shared_memory import Phase, SharedMemoryExchange, other_end, supported

Transport = Literal["auto", "shared_memory", "process_group"]
TRANSPORTS: tuple[Transport, ...] = ("auto", "shared_memory", "process_group")


class ClosingExchange(Exchange, Protocol):
    """An exchange whose waits can be ended, and which holds what must be given back."""

    def interrupt(self) -> None:
        """End waits with an error, from another thread, where they would not end by themselves."""

    def close(self) -> None:
        """Give back sockets, memory and groups; the other ends still get what was sent."""


class MixedExchange:
    """Sends each channel by the exchange of the stage at its other end.

    Args:
        index: this stage.
        exchanges: by the other stage.
    """

    def __init__(self, index: int, exchanges: Mapping[int, ClosingExchange]) -> None:
        self.index, self.exchanges = index, exchanges

    def open(self, routes: Mapping[Channel, Route]) -> None:
        """Prepare for a clip."""
        for exchange in self._all:
            exchange.open({c: r for c, r in routes.items() if self._of(c) is exchange})

    def send(self, channel: Channel, tick: int, message: Tensor) -> None:
        """Send a message to be used at a tick."""
        self._of(channel).send(channel, tick, message)

    def receive(self, channel: Channel, tick: int) -> Tensor:
        """Return the message for a tick, valid until the next one of its channel is received."""
        return self._of(channel).receive(channel, tick)

    def interrupt(self) -> None:
        """End waits with an error."""
        for exchange in self._all:
            exchange.interrupt()

    def close(self) -> None:
        """Give everything back."""
        for exchange in self._all:
            exchange.close()

    @property
    def _all(self) -> list[ClosingExchange]:
        return list({id(exchange): exchange for exchange in self.exchanges.values()}.values())

    def _of(self, channel: Channel) -> ClosingExchange:
        return self.exchanges[other_end(channel, self.index)]


class _Hooks(NamedTuple):
    """What an exchange has of the watchdog."""

    check: Callable[[], None]
    lost: Callable[[int], None]
    phase: Phase


def host_identity() -> str:
    """Return what is the same for two processes exactly if they can share memory by local sockets: host and network."""
    boot, network = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/net")
    parts = [socket.gethostname(), boot.read_text().strip() if boot.exists() else ""]
    return " ".join([*parts, os.readlink(network) if network.is_symlink() else ""])


def make_exchange(
    transport: str,
    *,
    stage_ranks: Sequence[int],
    index: int,
    store: Store,
    device: torch.device,
    check: Callable[[], None],
    lost: Callable[[int], None] = lambda rank: None,
    phase: Phase = nullcontext,
) -> ClosingExchange:
    """Return this stage's exchange with the others of its replica. All of them call this, and wait for one another.

    Args:
        transport: `auto` takes shared memory between CPUs of one host, the process group elsewhere.
        stage_ranks: rank of each stage of this replica.
        index: this stage, from 0.
        store: of all ranks; the replica's keys are apart from those of others.
        device: of this rank's messages.
        check: raises StageError when another stage is known to have died or stalled; waits call it.
        lost: is told the rank that can no longer be reached, and may raise a StageError that says more.
        phase: names what this stage waits for, while it does.

    Raises:
        ValueError: an unknown transport; shared memory for a GPU, between hosts or where there is none; CPUs and GPUs.
    """
    if transport not in TRANSPORTS:
        raise ValueError(f"transport {transport!r}; expected one of {', '.join(TRANSPORTS)}")
    own = PrefixStore(f"exchange/{'-'.join(map(str, stage_ranks))}", store)
    meeting = PrefixStore(str(own.add(f"made/{index}", 1)), own)
    homes = _homes(meeting, index, len(stage_ranks), device, check)
    _check_devices(homes, stage_ranks)
    if transport == "shared_memory":
        _check_shared_memory(homes, stage_ranks)
    hooks = _Hooks(check, lambda stage: lost(stage_ranks[stage]), phase)
    return MixedExchange(index, _exchanges(transport, homes, index, meeting, device, hooks))


def _exchanges(
    transport: str, homes: Sequence[tuple[str, str]], index: int, store: Store, device: torch.device, to: _Hooks
) -> dict[int, ClosingExchange]:
    """Return the exchange for each other stage."""
    others = [stage for stage in range(len(homes)) if stage != index]
    near = [stage for stage in others if _shares_memory(transport, homes, index, stage)]
    exchanges: dict[int, ClosingExchange] = {}
    if near:
        shared = SharedMemoryExchange(PrefixStore("shared", store), index, to.check, lost=to.lost, phase=to.phase)
        exchanges = dict.fromkeys(near, shared)
    if _needs_group(transport, homes):
        stages = len(homes)
        links = nccl_links(store, index, stages, device) if device.type == "cuda" else gloo_links(store, index, stages)
        group = ProcessGroupExchange(index, links, device, to.check, lost=to.lost, phase=to.phase)
        exchanges |= {stage: group for stage in others if stage not in near}
    return exchanges


def _homes(
    store: Store, index: int, stages: int, device: torch.device, check: Callable[[], None]
) -> list[tuple[str, str]]:
    """Return the kind of device and the host of each stage."""
    store.set(f"home/{index}", f"{device.type}\n{host_identity() if supported() else f'no shared memory, {index}'}")
    homes = []
    for stage in range(stages):
        while not store.check([f"home/{stage}"]):
            check()
            time.sleep(0.01)
        kind, host = store.get(f"home/{stage}").decode().split("\n")
        homes.append((kind, host))
    return homes


def _shares_memory(transport: str, homes: Sequence[tuple[str, str]], one: int, other: int) -> bool:
    return transport != "process_group" and one != other and homes[one] == homes[other] and homes[one][0] == "cpu"


def _needs_group(transport: str, homes: Sequence[tuple[str, str]]) -> bool:
    """Whether any two stages need the process group; all stages find the same."""
    pairs = [(one, other) for one in range(len(homes)) for other in range(one)]
    return any(not _shares_memory(transport, homes, *pair) for pair in pairs)


def _check_devices(homes: Sequence[tuple[str, str]], stage_ranks: Sequence[int]) -> None:
    kinds = [kind for kind, _ in homes]
    if len(set(kinds)) > 1:
        raise ValueError(f"stages of ranks {list(stage_ranks)} are on {', '.join(kinds)}; expected one kind for all")


def _check_shared_memory(homes: Sequence[tuple[str, str]], stage_ranks: Sequence[int]) -> None:
    remedy = "use transport 'auto' or 'process_group'"
    for stage, rank in enumerate(stage_ranks):
        if homes[stage][0] != "cpu":
            raise ValueError(f"transport 'shared_memory' on {homes[stage][0]} (rank {rank}); it is for CPUs: {remedy}")
        if homes[stage] != homes[0]:
            raise ValueError(
                f"transport 'shared_memory' between ranks {stage_ranks[0]} ({homes[0][1].split()[0]}) and {rank} "
                f"({homes[stage][1].split()[0]}), which are not on one host: {remedy}"
            )
