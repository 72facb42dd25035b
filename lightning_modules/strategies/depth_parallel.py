"""DepthParallelStrategy: units on separate devices, one process a stage, as a Lightning strategy.

    trainer.devices 4, stages 4          rank 0     rank 1     rank 2     rank 3
                                         units 1-2  unit 3     units 4-5  unit 6
    decodes frames                       *
    sends activations up, gradients down    <---->     <---->     <---->
    has targets, loss, metrics                                            *       (frames, where these are targets)
    writes checkpoints, logs, progress   *

With `stages 2` the same four processes are two replicas of two stages, each on clips of its own, and their gradients
are averaged. Rules that cannot be pipelined (exact backprop) run as naive model parallelism: one stage works at a time.
Under rules with local losses a stage has whole modules, messages only go up, and every stage has targets and losses.
With replay buffers between them stages do not wait for one another in training (replay_link.py, asynchronous.py).
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch.optim import Optimizer

from lightning_modules.execution.placement import Placement, cut
from lightning_modules.execution.replay_buffer import tensors_of
from lightning_modules.execution.stage import Stage, StageError, message_bytes
from lightning_modules.execution.team import Team
from lightning_modules.networks import UnitNetwork
from lightning_modules.strategies.asynchronous import check_asynchronous, never_meet, updates_line
from lightning_modules.strategies.balance import (
    balanced,
    given_sizes,
    module_times,
    modules_in_stages,
    report,
    unit_times,
    units_in_stages,
)
from lightning_modules.strategies.launcher import StageLauncher
from lightning_modules.strategies.letters import Letters, for_tensors
from lightning_modules.strategies.mesh import Mesh
from lightning_modules.strategies.mixed import TRANSPORTS, Transport, make_exchange
from lightning_modules.strategies.replay_link import ReplayLink
from lightning_modules.strategies.stage_batches import StageBatches, StatefulStageBatches
from lightning_modules.strategies.stage_team import StageTeam
from lightning_modules.strategies.stage_weights import StageWeights
from lightning_modules.strategies.watchdog import Watchdog

NAME = "depth_parallel"
_LAYOUT = "depth_parallel"  # in a checkpoint
_TIMEOUT = timedelta(minutes=30)


class DepthParallelStrategy(DDPStrategy):
    """Places a network's units on separate devices and trains them without blocking.

    Every process holds the whole network, its own units on its device and the others' on the CPU as they were when
    weights were last brought together: at checkpoints and at the end. A checkpoint is one file with plain names.

    Args:
        stages: stages of a replica; all devices by default. `devices` must be a multiple.
        balance: units of each stage: `auto` (by measured time), or numbers, the lowest stage's first.
        transport: of messages between stages: `auto`, `shared_memory` or `process_group`.
        stall_s: longest time in seconds that one tick of one stage may take before the run is ended; ten times that for
            the first.
        accelerator: this and what follows is set by Lightning.
        parallel_devices: see accelerator.
        cluster_environment: see accelerator.
        checkpoint_io: see accelerator.
        precision_plugin: see accelerator.

    Raises:
        ValueError: one device, or a network, model or setting that cannot be cut into stages.
    """

    strategy_name = NAME
    makes_a_team = True

    def __init__(
        self,
        stages: int | None = None,
        balance: str | list[int] = "auto",
        transport: Transport = "auto",
        stall_s: float = 5.0,
        accelerator: "pl.accelerators.Accelerator | None" = None,
        parallel_devices: list[torch.device] | None = None,
        cluster_environment: ClusterEnvironment | None = None,
        checkpoint_io: CheckpointIO | None = None,
        precision_plugin: Precision | None = None,
    ) -> None:
        super().__init__(accelerator, parallel_devices, cluster_environment, checkpoint_io, precision_plugin)
        self._stages, self.balance, self.transport, self.stall_s = stages, balance, transport, stall_s
        self._sizes: list[int] | None = None  # of a checkpoint's stages
        self._team: StageTeam | None = None
        self._weights: StageWeights | None = None
        self._watchdog: Watchdog | None = None
        self._loaders = 0
        self._link: ReplayLink | None = None  # of stages that train without waiting for one another

    @property
    def stages(self) -> int:
        """Number of stages of a replica."""
        return self.world_size if self._stages is None else self._stages

    @property
    def mesh(self) -> Mesh:
        """Where this process stands."""
        return Mesh(self.world_size, self.stages, self.global_rank)

    @property
    def feeds_frames(self) -> bool:
        """Whether this process decodes frames: it is a first stage."""
        return self.mesh.stage == 0

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Which share of the clips this process gets: all stages of a replica the same."""
        return {"num_replicas": self.mesh.replicas, "rank": self.mesh.replica}

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = StageLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    def _get_process_group_backend(self) -> str:
        return "cpu:gloo,cuda:nccl" if self.root_device.type == "cuda" else "gloo"

    def setup(self, trainer: "pl.Trainer") -> None:
        """Place the units, make the team, and set up optimizers."""
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        self.precision_plugin.convert_module(self.model)
        network = self.checked_network(trainer)
        self._equal_weights()
        self._team = self._make_team(trainer, network)
        self._weights = StageWeights(network, self._placement, self.mesh, self._guarded)
        self._module().team = self._team
        self.model_to_device()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)  # of parameters that are on their devices: their states will be too
        self.setup_precision_plugin()

    @property
    def _placement(self) -> Placement:
        assert self._team is not None
        assert self._team.stage is not None
        return self._team.stage.placement

    def _module(self) -> Any:
        assert self.lightning_module is not None
        return self.lightning_module

    def checked_network(self, trainer: "pl.Trainer") -> UnitNetwork:
        """Return the network to place. The launcher calls this too, before it starts any process.

        Raises:
            ValueError: what cannot be placed, with what to type instead.
        """
        if self.world_size < 2:
            raise ValueError(
                f"strategy {NAME} with {self.world_size} device has nothing to place; use --trainer.devices 2 or more "
                "(with --trainer.accelerator cpu: processes), or leave the strategy out"
            )
        _ = self.mesh
        module = self._module()
        network = getattr(module, "network", None)
        if not isinstance(network, UnitNetwork) or not hasattr(module, "team"):
            raise ValueError(
                f"strategy {NAME} with {type(module).__name__} and a {type(network).__name__}: it places the units of "
                "a network that is cut into units; use --model.network small_cnn, vgg8 or resnet18, or no strategy"
            )
        if self.stages > network.depth:
            raise ValueError(
                f"{self.stages} stages for {network.depth} units: each stage needs at least one; use "
                f"--trainer.devices {network.depth} or fewer, or --model.depth {self.stages} where the network has it"
            )
        self._check_modules(network)
        given_sizes(self.balance, self.stages, network.depth, network.wiring.modules)
        if self.transport not in TRANSPORTS:
            raise ValueError(f"transport {self.transport!r}; expected one of {', '.join(TRANSPORTS)}")
        if self.stages > 1 and module.hparams.get("executor") == "cuda_graph":
            raise ValueError(
                "executor 'cuda_graph' is for one process on one GPU; with several stages use executor 'pipelined'"
            )
        if self.stages > 1 and module.hparams.get("log_gradients_every"):
            raise ValueError(
                "log_gradients_every compares with exact backprop over the whole network, which no stage has; "
                "leave it out, or train on one device to see alignment"
            )
        if self._is_asynchronous:
            check_asynchronous(trainer, module.rule.replay, self.stages)
        if trainer.state.fn == TrainerFn.PREDICTING and self.mesh.replicas > 1:
            raise ValueError(
                f"predict with {self.mesh.replicas} replicas would write one table for each; use --trainer.devices "
                f"{self.stages}, or leave the strategy out"
            )
        return network

    def _check_modules(self, network: UnitNetwork) -> None:
        """Refuse what modules with losses of their own cannot do in stages and replicas.

        Raises:
            ValueError: with what to type instead.
        """
        count, replicas = network.module_count, self.mesh.replicas
        if count and self.stages > count:
            raise ValueError(
                f"{self.stages} stages for {count} modules of {list(network.wiring.modules)} units: a module works in "
                f"one stage; use --trainer.devices {count} or fewer, or --model.modules {self.stages} where the "
                f"network's {network.depth} units allow it"
            )
        if replicas > 1 and any(network.quantiser(unit) for unit in range(1, network.depth + 1)):
            one = f"--trainer.devices {self.stages}" if self.stages > 1 else "one device without a strategy"
            raise ValueError(
                f"vq_groups with {replicas} replicas, each of which would learn codebooks of its own; use {one}, or "
                "--model.vq_groups 0"
            )
        if replicas > 1 and self._module().rule.replay is not None:
            one = f"--trainer.devices {self.stages}" if self.stages > 1 else "one device without a strategy"
            raise ValueError(
                f"replay buffers with {replicas} replicas, which would train on different minibatches; use {one}, or "
                "--model.replay 0"
            )

    def _equal_weights(self) -> None:
        """Start from the first process's weights, whatever the others drew."""
        for tensor in self._module().state_dict().values():
            dist.broadcast(tensor, src=0)

    # -- team -----------------------------------------------------------------------------------------------------

    def _make_team(self, trainer: "pl.Trainer", network: UnitNetwork) -> StageTeam:
        mesh = self.mesh
        placement = cut(network.wiring, self._stage_sizes(trainer, network))
        store = self._make_store()
        self._watchdog = watchdog = Watchdog(
            store,
            rank=mesh.rank,
            ranks=mesh.processes,
            describe=lambda rank: _described(placement, mesh, rank),
            stall_s=self.stall_s,
            hint=_resume_hint(trainer),
        )
        for logger in trainer.loggers:
            watchdog.on_exit(partial(logger.finalize, "failed"))
        letters = Letters(store, str(mesh.rank), watchdog.check, watchdog.collective)
        exchange = make_exchange(
            self.transport,
            stage_ranks=mesh.team,
            index=mesh.stage,
            store=store,
            device=self.root_device,
            check=watchdog.check,
            lost=watchdog.lost,
            phase=watchdog.phase,
        )
        watchdog.on_failure(exchange.interrupt)
        self._link = None
        if self._is_asynchronous and trainer.state.fn == TrainerFn.FITTING:
            self._link = self._make_link(network, placement, store, watchdog)
            never_meet(trainer)
        stage = Stage(placement, mesh.stage, exchange, watchdog.on_tick, watchdog.on_clip_end, self._link)
        return StageTeam(mesh, stage, network, letters, self._twins(mesh), watchdog.collective, self._link)

    @property
    def _is_asynchronous(self) -> bool:
        """Whether stages train without waiting for one another."""
        return self.stages > 1 and self._module().rule.replay is not None

    def _make_link(
        self, network: UnitNetwork, placement: Placement, store: dist.Store, watchdog: Watchdog
    ) -> ReplayLink:
        replay, stage = self._module().rule.replay, self.mesh.stage
        tops = {network.module_units(j)[-1]: j for j in range(1, network.module_count + 1)}
        return ReplayLink(
            dist.PrefixStore("replay", store),
            stage,
            self.stages,
            tops[placement.stages[stage][-1]],
            watchdog.check,
            lost=watchdog.lost,
            phase=watchdog.phase,
            on_update=watchdog.on_update,
            on_batch_end=watchdog.on_clip_end,
            buffer=replay.size,
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Do a training step; of stages that do not wait for one another, the first one's says when it is over."""
        with nullcontext() if self._link is None else self._link.batch():
            result = super().training_step(*args, **kwargs)
        self._log_bytes_sent(*args)
        return result

    def _log_bytes_sent(self, batch: Any, *_: Any) -> None:
        """Log what a batch's messages of each module to other stages came to, in bytes a clip, in every process.

        Tensors, or codes and codebooks; every stage's copy. Labels, lengths and what else of a batch is no frame goes
        to the other stages by letters: `bytes_sent/labels` counts its tensors.
        """
        module, clips = self._module(), len(batch["label"])
        if not module.rule.local or self._link is not None or not clips or not module._figures_are_due():
            return
        assert self._team is not None
        assert self._team.stage is not None
        sums: dict[str, float] = {}
        for unit, count in message_bytes(self._team.stage.routes).items():
            name = f"bytes_sent/module_{module.network.wiring.position(unit)}" if unit else "bytes_sent/frames"
            sums[name] = sums.get(name, 0.0) + count / clips
        labels = sum(t.nbytes for t in tensors_of(dict(batch)) if t.dim() < 5)
        module.log_dict(sums | {"bytes_sent/labels": labels * (self.stages - 1) / clips})

    def _stage_sizes(self, trainer: "pl.Trainer", network: UnitNetwork) -> list[int]:
        """Return the given cut, the checkpoint's, or the best by the units' times; the same in every process."""
        modules = network.wiring.modules or (1,) * network.depth
        sizes = given_sizes(self.balance, self.stages, network.depth, network.wiring.modules)
        if sizes is None and self._sizes is not None and len(self._sizes) == self.stages:
            sizes = self._sizes if modules_in_stages(self._sizes, modules) else None
        if self.stages > 1 and trainer.state.fn == TrainerFn.FITTING:
            sizes = self.broadcast(self._timed_sizes(trainer, network, sizes) if self.is_global_zero else None)
        return sizes or units_in_stages(balanced([1.0] * len(modules), self.stages), modules)

    def _timed_sizes(self, trainer: "pl.Trainer", network: UnitNetwork, sizes: list[int] | None) -> list[int] | None:
        """Time units or modules, print what each stage takes, and return its units: the best cut if none is given."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        shape = [getattr(data, name, None) for name in ("channels", "size", "batch_size")]
        if None in shape:
            rank_zero_warn(
                f"the units could not be timed, since {type(data).__name__} does not say its channels, size and "
                "batch_size; without a given balance they are cut evenly by number"
            )
            return sizes
        channels, size, clips = (int(n) for n in shape if n is not None)
        network.to(self.root_device)
        frame, modules = (channels, size, size), network.wiring.modules
        if modules:
            times = module_times(network, frame, clips, self.root_device)
        else:
            times = unit_times(network, frame, clips, self.root_device, self._module().rule)
        parts = (modules_in_stages(sizes, modules) if sizes and modules else sizes) or balanced(times, self.stages)
        print(report(times, parts, "module" if modules else "unit"), flush=True)
        return units_in_stages(parts, modules) if modules else parts

    def _make_store(self) -> dist.Store:
        """Return a key-value store of this run, kept by the first process."""
        assert self.cluster_environment is not None
        host = self.cluster_environment.main_address
        first = self.is_global_zero
        store = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=_TIMEOUT) if first else None
        port = self.broadcast(store.port if store else 0)
        return store or dist.TCPStore(host, port, is_master=False, timeout=_TIMEOUT)

    def _twins(self, mesh: Mesh) -> "dist.ProcessGroup | None":
        if mesh.replicas == 1:
            return None
        groups = [dist.new_group([mesh.rank_of(s, r) for r in range(mesh.replicas)]) for s in range(mesh.stages)]
        return groups[mesh.stage]

    # -- data -----------------------------------------------------------------------------------------------------

    def process_dataloader(self, dataloader: object) -> object:
        """Return the loader of the first stage, and one of its batches without frames for the others."""
        assert self._team is not None
        if isinstance(dataloader, list):
            return dataloader  # no loader: nothing is validated
        if len(dataloader) == 0:  # type: ignore[arg-type]
            raise ValueError(
                f"a loader of no clips for replica {self.mesh.replica} of {self.mesh.replicas}; give each replica at "
                "least one clip of every split, or use fewer replicas"
            )
        self._loaders += 1
        first, *others = map(str, self.mesh.team)
        at_first = self.mesh.stage == 0
        batches = StatefulStageBatches if hasattr(dataloader, "state_dict") else StageBatches
        compare = others if self._module().rule.local else others[-1:]
        with_frames = compare if getattr(self._module(), "frame_targets", False) else ()
        topic = f"batches/{self._loaders}"
        return batches(
            dataloader, self._team.letters, others if at_first else [], first, topic, with_frames, self._trains_apart
        )

    def _trains_apart(self) -> bool:
        """Whether this is training, in which stages do not wait for one another."""
        return self._link is not None and self._module().trainer.training

    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """Move a batch to this stage's device; a video that is only a shape stays one."""
        if self.mesh.stage == 0:
            return super().batch_to_device(batch, device, dataloader_idx)
        to = device or self.root_device
        return for_tensors(batch, lambda t: t if t.is_meta else t.to(to, non_blocking=True))

    # -- weights --------------------------------------------------------------------------------------------------

    def model_to_device(self) -> None:
        """Move this stage's units, and what belongs to no unit, to the device."""
        super().model_to_device()
        if self.root_device.type != "cpu" and self._weights is not None:
            self._weights.keep_others_on_cpu()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Return all weights, each unit's from where it is trained."""
        self._bring_weights_together()
        return super().lightning_module_state_dict()

    def _bring_weights_together(self) -> None:
        if self._weights is not None:
            self._weights.bring_together()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the whole optimizer's state, each unit's from where it is trained."""
        state: dict[str, Any] = super().optimizer_state(optimizer)
        return state if self._weights is None else self._weights.whole_optimizer(optimizer, state)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load the optimizer's state, and let go of other stages' units'."""
        super().load_optimizer_state_dict(checkpoint)
        if self._weights is not None:
            self._weights.forget_others(self.optimizers)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint in every process, and remember its stages."""
        checkpoint = super().load_checkpoint(checkpoint_path, weights_only)
        self._sizes = checkpoint.get(_LAYOUT, {}).get("sizes")
        return checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint with its stages, in the first process."""
        if self._team is not None:
            checkpoint[_LAYOUT] = {"sizes": [len(units) for units in self._placement.stages]}
        super().save_checkpoint(checkpoint, filepath, storage_options)

    # -- calls of Lightning's that wait for all processes ----------------------------------------------------------

    def _guarded(self, name: str) -> AbstractContextManager[object]:
        return nullcontext() if self._watchdog is None else self._watchdog.collective(name)

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Wait for all processes."""
        with self._guarded("waiting for all ranks"):
            super().barrier(*args, **kwargs)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        """Return one process's object in all of them."""
        with self._guarded(f"waiting for rank {src}"):
            return super().broadcast(obj, src)

    def reduce(self, *args: Any, **kwargs: Any) -> Any:
        """Return what all processes' tensors come to."""
        with self._guarded("waiting for all ranks"):
            return super().reduce(*args, **kwargs)

    # -- end ------------------------------------------------------------------------------------------------------

    def on_train_end(self) -> None:
        """Leave every process with the whole trained network."""
        self._bring_weights_together()
        if self._link is not None and self.is_global_zero:
            print(updates_line(self._module().trainer.callback_metrics), flush=True)

    def on_exception(self, exception: BaseException) -> None:
        """Tell the other stages, so that they end too."""
        super().on_exception(exception)
        if self._watchdog is not None:
            self._watchdog.failed(exception)
            if isinstance(exception, StageError):
                exception.told_elsewhere = not self._watchdog.speaks()
        if isinstance(self._launcher, StageLauncher):
            self._launcher.patience_s = 1.0

    def teardown(self) -> None:
        """Leave the other stages in order."""
        if self._team is not None and self._team.stage is not None and self._team.stage.exchange is not None:
            self._team.stage.exchange.close()  # type: ignore[attr-defined]
        if self._link is not None:
            self._link.close()
        super().teardown()
        if self.lightning_module is not None and self._team is not None:
            self._module().team = Team()  # from now on the module works alone, with all units
        if self._watchdog is not None:
            self._watchdog.stop()  # last: until then a process that hangs after a failure is ended


def _described(placement: Placement, mesh: Mesh, rank: int) -> str:
    units = placement.stages[rank % mesh.stages]
    named = f"unit {units[0]}" if len(units) == 1 else f"units {units[0]}-{units[-1]}"
    replica = f" of replica {rank // mesh.stages}" if mesh.replicas > 1 else ""
    return f"stage {rank % mesh.stages}{replica} (rank {rank}, {named})"


def _resume_hint(trainer: "pl.Trainer") -> str:
    callback = trainer.checkpoint_callback
    if trainer.state.fn != TrainerFn.FITTING or callback is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return "mend what stopped it and repeat the command"
    folder = getattr(callback, "dirpath", None)
    where = f" (in {folder})" if folder else ""
    return f"repeat the command with --ckpt_path last to go on from the last checkpoint{where}"


if NAME not in StrategyRegistry:
    StrategyRegistry.register(
        NAME, DepthParallelStrategy, description="Units on separate devices, one process a stage, without blocking."
    )
