"""A stage that is killed, stopped, stuck or fails ends all others within 10 s, which say who, where and what next."""

import re
import signal
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch.distributed import PrefixStore, TCPStore

from lightning_modules.execution import clip_gradients
from lightning_modules.execution.placement import Channel, cut
from lightning_modules.execution.stage import Route, Stage, StageError
from lightning_modules.strategies.mixed import make_exchange
from lightning_modules.strategies.watchdog import Watchdog
from tests.lightning_modules.execution.reference import moving_video, tiny_network
from tests.lightning_modules.strategies.processes import mark, running

CPU = torch.device("cpu")
SIZES = (1, 2, 1)
UNITS = ("unit 1", "units 2-3", "unit 4")
HINT = "resume with --ckpt_path last.ckpt"
ENDED_S = 10.0


def describe(rank: int) -> str:
    return f"stage {rank} (rank {rank}, {UNITS[rank]})"


def watch(store, index, **options) -> Watchdog:
    return Watchdog(store, index, len(SIZES), describe, hint=HINT, **options)


def kept_by_rank_0(index, store):
    """A store in rank 0's process, as in a real run: it dies with it."""
    timeout = timedelta(seconds=60)
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timeout) if index == 0 else None
    if server is not None:
        store.set("port", str(server.port))
    own = server or TCPStore("127.0.0.1", int(store.get("port")), is_master=False, timeout=timeout)
    return PrefixStore("run", own)


def stage(index, store, folder, transport, clips, trouble) -> str:
    """Train clip after clip; `trouble(tick, batch)` makes stage 1 differ."""
    store = kept_by_rank_0(index, store)
    watchdog = watch(store, index, stall_s=2.0)
    watchdog.on_exit(lambda: mark(folder, f"exit{index}"))
    network = tiny_network(sum(SIZES), "residual")
    exchange = make_exchange(
        transport, stage_ranks=range(len(SIZES)), index=index, store=store, device=CPU,
        check=watchdog.check, lost=watchdog.lost, phase=watchdog.phase,
    )  # fmt: skip
    watchdog.on_failure(exchange.interrupt)
    batch = 0

    def on_tick(tick) -> None:
        watchdog.on_tick(tick)
        if tick == 5:
            mark(folder, f"batch{batch}stage{index}")
        if trouble is not None:
            trouble(index, tick, batch)

    here = Stage(cut(network.wiring, SIZES), index, exchange, on_tick, watchdog.on_clip_end)
    video, labels = moving_video(2, 10), torch.tensor([0, 1])
    try:
        for _ in range(clips):
            batch += 1
            clip_gradients(network, video, labels, executor="pipelined", stage=here)
        return "finished"
    except StageError as error:
        return str(error)
    except BaseException as error:
        watchdog.failed(error)
        raise
    finally:
        exchange.close()
        watchdog.stop()


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize(
    ("how", "victim", "transport"),
    [
        ("SIGKILL", 0, "shared_memory"),  # the one that keeps the store
        ("SIGKILL", 1, "shared_memory"),
        ("SIGSTOP", 1, "shared_memory"),
        ("SIGKILL", 1, "process_group"),
        ("SIGSTOP", 0, "process_group"),
    ],
)
def test_a_stage_that_dies_in_mid_clip_ends_all_others(how, victim, transport, tmp_path) -> None:
    others = [s for s in range(len(SIZES)) if s != victim]
    with running(tmp_path, len(SIZES), stage, tmp_path, transport, 10**6, None) as group:
        group.wait_for(f"batch3stage{victim}")
        group.send_signal(victim, signal.Signals[how])
        outcomes = group.join(ENDED_S, but=victim)
    said = {outcomes[s].result for s in others}
    if victim != 0:  # without the store, which rank 0 keeps, each survivor counts for itself
        assert len(said) == 1, outcomes
    message = said.pop()
    assert message.startswith(f"{describe(victim)} died"), message
    reached = max(n for n in range(10**4) if (tmp_path / f"batch{n}stage{victim}").exists())
    assert int(re.search(r"at (?:about )?tick \d+ of batch (\d+)", message)[1]) in range(reached, reached + 3), message
    assert message.endswith(f"; {HINT}"), message


def raise_at_tick_4(index, tick, batch) -> None:
    if (index, tick, batch) == (1, 4, 2):
        raise KeyError("a bug of ours")


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("transport", ["shared_memory", "process_group"])
def test_a_stage_that_fails_ends_the_others_with_its_message(transport, tmp_path) -> None:
    with running(tmp_path, len(SIZES), stage, tmp_path, transport, 10**6, raise_at_tick_4) as group:
        outcomes = group.join(60)
    expected = f"{describe(1)} raised KeyError: 'a bug of ours' at tick 4 of batch 2; {HINT}"
    assert "a bug of ours" in outcomes[1].error
    assert [outcomes[s].result for s in (0, 2)] == [expected] * 2, outcomes


def stick_at_tick_4(index, tick, batch) -> None:
    if (index, tick, batch) == (1, 4, 2):
        time.sleep(60)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_stage_that_is_stuck_in_a_tick_ends_itself_and_all_others(tmp_path) -> None:
    with running(tmp_path, len(SIZES), stage, tmp_path, "auto", 10**6, stick_at_tick_4) as group:
        group.wait_for("batch2stage0")
        outcomes = group.join(ENDED_S)
    (message,) = {outcomes[s].result for s in (0, 2)}
    assert message.startswith(f"{describe(1)} stalled at tick 4 of batch 2 (2."), message
    assert outcomes[1].exitcode == 1
    assert "error: stage" not in outcomes[1].stderr, (
        "the lowest surviving rank speaks, and its main thread has the error"
    )
    assert (tmp_path / "exit1").exists()
    assert not (tmp_path / "exit0").exists()


def slow_at_times(index, tick, batch) -> None:
    if index == 1 and tick == 4:
        time.sleep(1.2)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_slow_stages_and_those_that_finish_early_are_not_accused(tmp_path) -> None:
    with running(tmp_path, len(SIZES), stage, tmp_path, "auto", 5, slow_at_times) as group:
        assert group.results(80) == ["finished"] * 3


def blocked(index, store, folder) -> None:
    """The main thread of ranks 1 and 2 sits in a call that knows nothing of the watchdog; rank 0 is killed."""
    watchdog = watch(kept_by_rank_0(index, store), index)
    watchdog.on_exit(lambda: 1 / 0)
    watchdog.on_exit(lambda: mark(folder, f"exit{index}"))
    watchdog.on_tick(7)
    time.sleep(1.5)
    mark(folder, f"blocked{index}")
    with watchdog.phase("checkpoint"):
        time.sleep(60)


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_ranks_that_do_not_come_back_are_ended_and_the_lowest_one_says_why(tmp_path) -> None:
    with running(tmp_path, len(SIZES), blocked, tmp_path) as group:
        for index in range(3):
            group.wait_for(f"blocked{index}")
        group.send_signal(0, signal.SIGKILL)
        outcomes = group.join(ENDED_S, but=0)
    assert [outcomes[s].exitcode for s in (1, 2)] == [1, 1]
    said = outcomes[1].stderr
    assert f"skip-sideways: error: {describe(0)} died at tick 7 of batch 1" in said, said
    assert "its store no longer answers" in said
    assert "ZeroDivisionError" in said
    assert HINT not in outcomes[2].stderr
    assert all((tmp_path / f"exit{index}").exists() for index in (1, 2))


def beats(index, store) -> float:
    """A main thread that waits in the store for long does not hold up the beats."""
    store.set_timeout(timedelta(seconds=7))
    watchdog = watch(store, index)
    if index == 0:
        with pytest.raises(torch.distributed.DistStoreError):
            store.get("nothing")
    end = time.monotonic() + 8
    while time.monotonic() < end:
        watchdog.check()
        time.sleep(0.1)
    watchdog.stop()
    assert [t for t in threading.enumerate() if "watchdog" in t.name and t.join(3) and t.is_alive()] == []


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_beats_go_on_while_the_main_thread_is_in_the_store(tmp_path) -> None:
    with running(tmp_path, len(SIZES), beats) as group:
        group.results(60)


def only_shared_memory(index, store) -> str:
    """Rank 1 claims to be on another host."""
    import lightning_modules.strategies.mixed as mixed

    if index == 1:
        mixed.host_identity = lambda: "elsewhere 1 2"
    device = torch.device("meta") if index == 2 else CPU
    options = {"stage_ranks": [0, 1], "index": index, "store": store, "device": device, "check": lambda: None}
    with pytest.raises(ValueError, match="transport 'shm'; expected one of auto, shared_memory, process_group"):
        make_exchange("shm", **options)
    with pytest.raises(ValueError, match=r"transport 'shared_memory' between ranks 0 .* and 1 .elsewhere"):
        make_exchange("shared_memory", **options)
    exchange = make_exchange("auto", **options)
    assert type(exchange.exchanges[1 - index]).__name__ == "ProcessGroupExchange"
    up = Channel("activation", 1, 0, 1)
    exchange.open({up: Route((2,), torch.Size((3,)), torch.float32)})
    if index == 0:
        exchange.send(up, 2, torch.arange(3.0))
    else:
        assert exchange.receive(up, 2).tolist() == [0, 1, 2]
    exchange.close()
    return "done"


@pytest.mark.timeout(60)
def test_between_hosts_messages_go_by_the_process_group(tmp_path) -> None:
    with running(tmp_path, 2, only_shared_memory) as group:
        assert group.results(50) == ["done", "done"]


def test_shared_memory_is_not_for_gpus() -> None:
    store = torch.distributed.HashStore()
    with pytest.raises(
        ValueError, match=r"transport 'shared_memory' on cuda \(rank 4\); it is for CPUs: use transport"
    ):
        make_exchange(
            "shared_memory", stage_ranks=[4], index=0, store=store, device=torch.device("cuda"), check=lambda: None
        )
