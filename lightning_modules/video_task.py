"""VideoTask: what every task does to learn from videos, whatever it asks of the network.

    batch --inputs--> clips, targets, lengths --rule, executor--> gradients --optimizer--> weights       every task
            ^ task                            ^ loss: task

A task says which network it builds, what the network reads of a batch, what it should answer, and how answers are
scored. The rest is here, and the same for all of them: settings, the rule's gradients, updates of a clip or of a frame,
accumulation, streams, the team of processes, logs of the gradients' health, and what a checkpoint holds beside weights.

Shape legend: B clips, T frames, C channels, H and W height and width, N ticks with an output, K numbers of an output.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer

from lightning_modules.batch import data_shape, in_unit_range
from lightning_modules.execution import (
    ClipAnswers,
    ClipGradients,
    PipelineState,
    ReplayMemory,
    check_combination,
    check_stream,
    clip_answers,
    clip_gradients,
)
from lightning_modules.execution.clip_loss import Loss
from lightning_modules.execution.greedy import stage_modules
from lightning_modules.execution.team import Team
from lightning_modules.fit_plan import restore_loaders, updates_of
from lightning_modules.gradient_logs import GradientLogs
from lightning_modules.inputs import Inputs, no_inputs
from lightning_modules.layers.xconv import draws_state, load_draws_state, set_replica
from lightning_modules.metrics.codebooks import codebook_figures
from lightning_modules.metrics.sketch_health import left_as_it_is
from lightning_modules.networks import ClipNetwork, UnitNetwork
from lightning_modules.networks.heads import HEADS
from lightning_modules.networks.local_modules import LocalModules, cut_for_rule
from lightning_modules.networks.sketched import Sketching
from lightning_modules.optimisation import (
    LAG_STRENGTH,
    MOMENTUM,
    check_settings,
    clip_per_unit,
    freeze_all_but,
    make_optimizer,
    make_scheduler,
    parameter_groups,
    set_gradients,
)
from lightning_modules.rules import ORDERS, Rule, make_rule
from lightning_modules.sketched_training import SketchedTraining
from lightning_modules.stream_state import StreamState
from lightning_modules.team_figures import codebook_figures_of, losses_of_modules, mean_of_replicas, own_losses

Batch = Mapping[str, Any]
STATE = "video_task"
OLD_STATE = "action_recognition"  # its name in checkpoints of before there were other tasks


class VideoTask(LightningModule, ABC):
    """A network, a rule and an executor, trained on clips: the base of every task.

    Args:
        in_channels: channels of a frame; the command line takes it from the data.
        wiring: chain (Sideways), residual, concat, dense, input, or of autoencoders unet (Skip-Sideways).
        width: multiplies the network's channels.
        depth: number of units, where the network leaves it open.
        reach: largest span of a skip in wiring dense.
        activation: relu, silu, softplus or tanh.
        gradient_edges: all; newest: gradients go back only along each unit's newest message; shortest: only along its
            shortest path to the last unit.
        rule: backprop_frame, backprop_shifted, sideways, greedy, greedy_frame (images), or of ActionRecognition's
            whole-clip networks backprop.
        executor: vectorised (a clip at once), pipelined (tick by tick), or cuda_graph (the same, replayed on a GPU).
        update: clip (weights fixed inside a clip) or frame (a step at every tick).
        stash: exact keeps the past inputs that make Sideways' gradients exact.
        drain: with stash exact, run on until the last losses have reached the lowest unit.
        modules: of greedy rules: number of modules with losses of their own, or the units in each, the lowest first;
            all units but the last, which stays with the one below it, if absent.
        head: of greedy rules: mlp-sr, mlp or cnn, for predicted frames decoder; the task's own if absent.
        head_width: multiplies the heads' hidden channels; 1 as in the paper.
        replay: of greedy rules: minibatches that the buffer below each module holds, so that modules do not wait for
            one another; 0: they do.
        replay_order: priority-lifo (the least used, of these the newest) or reference (the public code's).
        max_reuse: how often a minibatch is drawn from a buffer at most.
        slow_down: simulated: of every module, or of each, the lowest first; 2: works in every second step on average.
        vq_groups: of greedy rules: groups of channels, each with a codebook, in what modules send; 0: sent as it is.
        vq_codes: codes in each codebook.
        vq_decay: share of the past in the codebooks' running means.
        probes: of convolutions' weight gradients: they keep a sketch of their input by so many random probes; below 1
            the share of the input's numbers that is kept; 0: the input, exact (XConv).
        probe_warmup: updates (batches where weights move at every tick) before the first sketch, exact until then.
        probe_schedule: probes from an update (such a batch) on, by its number, such as {0: 0, 500: 0.125}; in place of
            these two.
        probe_layers: auto (where it saves bytes), all, or a list of names of convolutions or patterns.
        probe_mode: local (of a few positions of one sample), independent, multi or orthogonal (shared by all samples).
        probe_center: sketch what is left without the channels' means, and keep these: smaller errors.
        probe_half: keep sketches in bfloat16, whose rounding is far below a sketch's own error.
        probe_budget_mib: of probes, and of what is got back from them at a time, in MiB.
        compact: what keeps few bits instead of tensors: none, relu (ReLUs and pools, exact), norm (norms too, 8 bits).
        train_units: all, last (every other unit stays at its random start: the frozen control), or a list of units.
        optimizer: adamw or sgd.
        lr: learning rate of the last unit, and of the others after lag_scaling.
        weight_decay: decoupled for adamw.
        momentum: sgd only.
        schedule: onecycle, cosine or constant.
        lag_scaling: off, lower, inverse or exponential: each unit's rate by its lag.
        lag_strength: the law's one number.
        clip_norm: largest 2-norm of a unit's gradient; none if absent.
        accumulate: batches whose mean gradient makes one update.
        log_gradients_every: batches between logs of alignment, norm, weight change and sketches' errors; 0 for never.

    Raises:
        ValueError: a combination that makes no sense, or a setting that would have no effect.
    """

    score_metric: ClassVar[str]  # the figure of the validation that decides which weights are best
    score_mode: ClassVar[str]  # whether the best is the largest or the smallest: max or min
    rule_options: ClassVar[tuple[str, ...]] = (  # options that the rule takes
        *("update", "stash", "drain"),
        *("replay", "replay_order", "max_reuse", "slow_down"),
    )
    heads: ClassVar[tuple[str, ...]] = HEADS  # kinds of heads of its modules; the first is the default
    frame_targets: ClassVar[bool] = False  # whether outputs are compared with frames, in whatever stage they are found

    def __init__(
        self,
        in_channels: int = 3,
        wiring: str = "chain",
        width: float = 1.0,
        depth: int | None = None,
        reach: int | None = None,
        activation: str = "relu",
        gradient_edges: str = "all",
        rule: str = "sideways",
        executor: str = "vectorised",
        update: str = "clip",
        stash: str = "none",
        drain: bool = True,
        modules: int | list[int] | None = None,
        head: str | None = None,
        head_width: float = LocalModules.head_width,
        replay: int = 0,
        replay_order: str = ORDERS[0],
        max_reuse: int | None = None,
        slow_down: float | list[float] = 1.0,
        vq_groups: int = LocalModules.vq_groups,
        vq_codes: int = LocalModules.vq_codes,
        vq_decay: float = LocalModules.vq_decay,
        probes: float = Sketching.probes,
        probe_warmup: int = Sketching.probe_warmup,
        probe_schedule: dict[int, float] | None = None,
        probe_layers: str | list[str] = "auto",
        probe_mode: str = Sketching.probe_mode,
        probe_center: bool = Sketching.probe_center,
        probe_half: bool = Sketching.probe_half,
        probe_budget_mib: float = Sketching.probe_budget_mib,
        compact: str = Sketching.compact,
        train_units: str | list[int] = "all",
        optimizer: str = "adamw",
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        momentum: float = MOMENTUM,
        schedule: str = "onecycle",
        lag_scaling: str = "off",
        lag_strength: float = LAG_STRENGTH,
        clip_norm: float | None = None,
        accumulate: int = 1,
        log_gradients_every: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.rule = self.make_rule()
        self.network = self.build_network()
        cut_for_rule(self.network, self.hparams, local=self.rule.local, heads=self.heads, zero=self.zero_start)
        check_combination(self.network, self.rule, executor)
        self._sketching = SketchedTraining(self.network, self.hparams, executor)
        self._gradient_logs = GradientLogs(self.network, self._sketching, log_gradients_every)
        check_settings(
            self.network,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
            lag_scaling=lag_scaling,
            lag_strength=lag_strength,
        )
        _check_training(self.rule, accumulate)
        freeze_all_but(self.network, train_units)
        self.team = Team()
        self.frames_seen = 0
        self._restored_gradients: dict[str, Tensor] = {}
        self._train_stream, self._eval_stream = StreamState(), StreamState()
        self._memory = ReplayMemory()

    def make_rule(self) -> Rule:
        """Return the rule that `hparams` ask for."""
        return make_rule(self.hparams["rule"], **{name: self.hparams[name] for name in self.rule_options})

    @property
    def zero_start(self) -> bool:
        """Whether an untrained network, and with it the heads of its modules, says 0 everywhere."""
        return False

    @abstractmethod
    def build_network(self) -> UnitNetwork | ClipNetwork:
        """Return the network that `hparams` ask for."""

    @property
    @abstractmethod
    def loss(self) -> Loss:
        """From outputs (n, ...) and targets (n, ...) to losses (n,); the same function at every call."""

    @property
    @abstractmethod
    def min_frames(self) -> int:
        """Fewest frames of a training clip."""

    @property
    @abstractmethod
    def min_scored_frames(self) -> int:
        """Fewest frames of a clip from which there is something to score."""

    @abstractmethod
    def inputs(self, batch: Batch, rule: Rule | None = None) -> Inputs:
        """Return what the network reads of a batch whose videos are floats, and what it should answer.

        Args:
            batch: by name.
            rule: under which it answers, and which may decide what it can be asked for; None: the task's own.
        """

    @abstractmethod
    def batch_figures(self, result: ClipGradients, batch: Batch) -> dict[str, Tensor]:
        """Return what is logged of a training batch, scalars by name; none where no clip has an output yet."""

    @property
    def executor(self) -> str:
        """The executor in use: units in several stages work tick by tick wherever the rule lets them."""
        if self.team.stages > 1:
            return self.rule.stage_executor(self.hparams["executor"])
        return self.hparams["executor"]

    def setup(self, stage: str) -> None:
        """Refuse what Lightning would accept and compute wrongly: our gradients bypass its DDP wrapper and its scaler.

        Raises:
            ValueError: several processes, or float16 with a gradient scaler.
        """
        if self.trainer.world_size > 1 and not getattr(self.trainer.strategy, "makes_a_team", False):
            raise ValueError(
                f"{self.trainer.world_size} processes under strategy {type(self.trainer.strategy).__name__} would each "
                "train and score by itself; use --trainer.strategy depth_parallel, or --trainer.devices 1"
            )
        if stage == "fit" and self.trainer.precision == "16-mixed":
            raise ValueError("precision '16-mixed' would shrink gradients that nobody has scaled; use 'bf16-mixed'")
        self.check_data(self.trainer.datamodule, self.trainer, training=stage == "fit")  # type: ignore[attr-defined]

    def check_data(self, data: Any, trainer: Trainer, *, training: bool) -> None:
        """Refuse streams that the rule, the executor or the strategy cannot go on with from clip to clip.

        The command line asks before it reads any data.

        Raises:
            ValueError: with the reason, and what to use instead.
        """
        if not getattr(data, "stream", False):
            return
        if getattr(trainer.strategy, "makes_a_team", False):
            raise ValueError(
                "stream with --trainer.strategy depth_parallel: the state kept between clips belongs to one process; "
                "use --data.stream false, or one device"
            )
        if training:
            check_stream(self.network, self.rule, self.hparams["executor"])
            if self.hparams["log_gradients_every"]:
                raise ValueError(
                    "stream with log_gradients_every, which compares with exact backprop over a whole clip; "
                    "use --model.log_gradients_every 0, or --data.stream false"
                )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one optimizer with a group per unit, and its schedule over the planned updates."""
        hp = self.hparams
        groups = parameter_groups(self.network, hp["lr"], hp["lag_scaling"], hp["lag_strength"])
        optimizer = make_optimizer(hp["optimizer"], groups, hp["lr"], hp["weight_decay"], hp["momentum"])
        updates = updates_of(self.trainer, hp["schedule"], hp["accumulate"])
        return {"optimizer": optimizer, "lr_scheduler": make_scheduler(hp["schedule"], optimizer, updates)}

    def on_fit_start(self) -> None:
        """Remember the weights at the start, from which `weight_change` is measured; choose what sketches."""
        set_replica(self.network, self.team.replica)
        shape = data_shape(self.trainer.datamodule, clips=isinstance(self.network, ClipNetwork))  # type: ignore[attr-defined]
        self._sketching.choose(shape, sees_batches=not self.team.is_asynchronous)
        self._gradient_logs.start()

    def on_train_start(self) -> None:
        """Finish what a resume left open: the loader's place in its epoch, and gradients inside an accumulation."""
        restore_loaders(self.trainer)
        # Lightning cleared all gradients after it had loaded the checkpoint.
        for name, p in self.network.named_parameters():
            if name in self._restored_gradients:
                p.grad = self._restored_gradients[name].to(p)
        self._restored_gradients = {}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Find the batch's gradients under the rule and change the weights; one counted step per update."""
        if not len(batch["label"]) and not self.team.draws:
            self._train_on_nothing(batch_idx)
            if self.team.is_asynchronous:
                self._log_newest(_no_gradients(self.device), batch)  # the others may wait for it
            return
        batch, inputs = (batch, no_inputs(self.device)) if self.team.draws else self.read(batch)
        if not self.team.draws:
            self._sketching.choose(tuple(inputs.video_BTCHW.shape[1 if isinstance(self.network, ClipNetwork) else 2 :]))
        self._sketching.set_probes_of(self.trainer.global_step)
        train = self._train_in_steps if self.rule.hands_over else self._train_clip
        result = train(batch, inputs, batch_idx)
        self.frames_seen += self.team.frames_of_all_clips(int(inputs.lengths_B.sum()))
        if self.team.is_asynchronous:
            self._log_newest(result, batch)
            return
        self.log("frames_seen", float(self.frames_seen))
        if self.team.stages == 1 or self._figures_are_due():
            self.log_dict(self._training_figures(result, batch))
        if self._figures_are_due():
            codebooks = codebook_figures_of(self.team, self.network, quantised=bool(self.hparams["vq_groups"]))
            self.log_dict(self._memory.figures() | codebooks)

    def read(self, batch: Batch) -> tuple[Batch, Inputs]:
        """Return the batch with its videos as floats, and what the network reads of it."""
        batch = in_unit_range(batch, next(self.network.parameters()).dtype)
        return batch, self.inputs(batch)

    def _train_on_nothing(self, batch_idx: int) -> None:
        """Count the step of a batch none of whose clips could be decoded; no weight moves by it alone.

        Raises:
            ValueError: other processes have clips at this step, and wait for gradients.
        """
        if self.team.replicas > 1:
            raise ValueError(
                f"none of the clips of batch {batch_idx} could be decoded in one of {self.team.replicas} replicas, "
                "which work in step; mend or remove the files named above"
            )
        every = self.hparams["accumulate"]
        if self.rule.hands_over or (batch_idx + 1) % every == 0 or self.trainer.is_last_batch:
            self._clip(self._raw_optimizer())
            self._counted_step()

    def _training_figures(self, result: ClipGradients, batch: Batch) -> dict[str, Tensor]:
        """Return the figures of the batch, which only the stage with the outputs knows by itself."""
        figures = None
        if self.team.has_output:
            own: dict[str, Any] = dict(self.batch_figures(result, batch))
            if not own and self.rule.replay is None:
                return {}  # a stream's piece before the first output: no module's loss counts either
            figures = {}  # with buffers the last module may not have worked, and others have
            if own:
                figures = mean_of_replicas(self.team, own, torch.stack([value.float() for value in own.values()]))
        return self.team.from_output(figures) | losses_of_modules(self.team, result.answers)

    def _log_newest(self, result: ClipGradients, batch: Batch) -> None:
        """Log what stages that do not wait for one another know of each other; at an epoch's end they meet for it."""
        if not self._figures_are_due():
            return
        modules = stage_modules(self.network, self.team.stage)
        own: dict[str, Any] = dict(self.batch_figures(result, batch)) | own_losses(result.answers)
        own |= self._memory.figures(modules) | codebook_figures(self.network, modules)
        if not self.team.draws:
            own["frames_seen"] = float(self.frames_seen)
        self.log_dict(self.team.newest_figures(own, meet=self._is_last_batch()))

    def _is_last_batch(self) -> bool:
        """Whether an epoch, or the training, ends with this batch."""
        return self.trainer.is_last_batch or 0 <= self.trainer.max_steps <= self.trainer.global_step

    def _figures_are_due(self) -> bool:
        """Whether Lightning stores this batch's figures: to fetch them from another stage at every batch costs time."""
        return self._is_last_batch() or self.trainer._logger_connector.should_update_logs

    def _gradients(self, batch: Batch, inputs: Inputs, **options: Any) -> ClipGradients:
        options = {"rule": self.rule, "executor": self.executor, "stage": self.team.stage, "loss": self.loss, **options}
        options |= {"state": self._state(self._train_stream, batch), "memory": self._memory}
        return clip_gradients(self.network, inputs.video_BTCHW, inputs.targets, lengths_B=inputs.lengths_B, **options)

    def find_gradients(self, batch: Batch, inputs: Inputs) -> dict[str, Tensor]:
        """Return the gradients that the rule finds if no weight moves meanwhile; they go nowhere."""
        options: dict[str, Any] = {}
        if self.rule.hands_over:
            options = {"rule": replace(self.rule, update="clip", replay=None), "executor": "vectorised"}
        return self._gradients(batch, inputs, **options).gradients

    def _state(self, stream: StreamState, batch: Batch) -> PipelineState | None:
        """Return the state that a stream's piece goes on from; None for clips, and where nothing is kept."""
        is_kept = "piece" in batch and self.rule.forward_shift and isinstance(self.network, UnitNetwork)
        return stream.at(int(batch["piece"]), self.device) if is_kept else None

    def _train_clip(self, batch: Batch, inputs: Inputs, batch_idx: int) -> ClipGradients:
        optimizer, every = self._raw_optimizer(), self.hparams["accumulate"]
        result = self._gradients(batch, inputs)
        if self._gradient_logs.are_due(batch_idx):
            self._log_gradients(batch, inputs, result.gradients)
        set_gradients(self.network, self.team.average(result.gradients), batches=batch_idx % every + 1)
        if (batch_idx + 1) % every == 0 or self.trainer.is_last_batch:
            self._clip(optimizer)
            self._counted_step()
        return result

    def _train_in_steps(self, batch: Batch, inputs: Inputs, batch_idx: int) -> ClipGradients:
        """Change weights at every tick or update. The counted step comes last and moves nothing: no gradient left."""
        optimizer = self._raw_optimizer()
        if self._gradient_logs.are_due(batch_idx):
            with left_as_it_is(self.network):
                found = self.find_gradients(batch, inputs)
            self._log_gradients(batch, inputs, found)

        def on_tick(gradients: Mapping[str, Tensor]) -> None:
            set_gradients(self.network, self.team.average(gradients))
            self._clip(optimizer)
            optimizer.step()

        result = self._gradients(batch, inputs, on_tick=on_tick)
        optimizer.zero_grad()
        self._counted_step()
        return result

    def _raw_optimizer(self) -> Optimizer:
        """The torch optimizer: its steps are not counted by Lightning."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        return optimizer.optimizer

    def _counted_step(self) -> None:
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert not isinstance(optimizer, list)
        optimizer.step()
        optimizer.zero_grad()
        assert scheduler is not None
        assert not isinstance(scheduler, list)
        scheduler.step()  # type: ignore[call-arg]

    def _clip(self, optimizer: Optimizer) -> None:
        if self.hparams["clip_norm"] is not None:
            clip_per_unit(optimizer, self.hparams["clip_norm"])

    def _log_gradients(self, batch: Batch, inputs: Inputs, gradients: Mapping[str, Tensor]) -> None:
        of_sketches = self._gradient_logs.of_sketches(gradients, inputs, partial(self.find_gradients, batch))
        self.log_dict(of_sketches | self._gradient_logs.of_units(gradients, partial(self.inputs, batch), self.loss))

    def answers(self, batch: Batch, inputs: Inputs) -> ClipAnswers:
        """Return outputs (B, N, ...), None where they are found in another stage, which count (B, N), and modules'."""
        return clip_answers(
            self.network,
            inputs.video_BTCHW,
            rule=self.rule,
            executor=self.executor,
            lengths_B=inputs.lengths_B,
            stage=self.team.stage,
            state=self._state(self._eval_stream, batch),
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is state beside weights and optimizer."""
        # Between two updates of an accumulation the gradients so far are state; after an update there are none.
        gradients = {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}
        checkpoint[STATE] = {
            "frames_seen": self.frames_seen,
            "start_weights": self._gradient_logs.start_weights,
            "gradients": self.team.from_all_units(gradients),
            "stream": self._train_stream.state_dict(),
            "replay": self._replay_state(),
            "probes": self.team.from_all_units(draws_state(self.network)),
        }

    def _replay_state(self) -> dict[str, Any]:
        """Return the state of the buffers; of several stages' only the counts: they start again with empty ones."""
        state = self._memory.state_dict()
        if not self.team.is_asynchronous:
            return state
        own = self._memory.updates(stage_modules(self.network, self.team.stage))
        updates = {j: count for part in self.team.from_all_stages(own) for j, count in part.items()}
        return {**state, "updates": updates, "buffers": {}}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added."""
        state = checkpoint.get(STATE, checkpoint.get(OLD_STATE, {}))
        self.frames_seen = state.get("frames_seen", 0)
        self._gradient_logs.start_weights = state.get("start_weights", {})
        self._restored_gradients = state.get("gradients", {})
        self._train_stream.load_state_dict(state.get("stream"))
        self._memory.load_state_dict(state.get("replay"))
        load_draws_state(self.network, state.get("probes", {}))


def _no_gradients(device: torch.device) -> ClipGradients:
    """Return what is found on no clips."""
    none = torch.empty(0, 0, device=device)
    return ClipGradients(None, none[:, :, None], none.bool(), {})


def _check_training(rule: Rule, accumulate: int) -> None:
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}; it must be at least 1")
    if accumulate > 1 and rule.update == "frame":
        raise ValueError(f"accumulate={accumulate} with update 'frame', which steps at every tick; use update 'clip'")
    if accumulate > 1 and rule.replay:
        raise ValueError(
            f"accumulate={accumulate} with replay buffers, whose modules step by themselves; use accumulate 1"
        )
