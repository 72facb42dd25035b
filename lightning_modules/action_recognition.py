"""Action recognition: one label for a clip, learned under any rule, wiring and executor.

The loss is taken at every tick that has an output; a clip's score is the mean of the softmax over these ticks, a
video's the mean over its views. Where videos come as streams, consecutive clips with the pipeline's state kept between
them (a batch has a `piece`), a video's score is the mean over all ticks of the whole video.

Shape legend: B clips, T frames, C channels, H and W height and width, N ticks with an output, K classes.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_modules.batch import in_unit_range
from lightning_modules.execution import (
    ClipGradients,
    PipelineState,
    check_combination,
    check_stream,
    clip_gradients,
    clip_logits,
)
from lightning_modules.execution.clip_loss import first_loss_tick
from lightning_modules.execution.schedule import shortest_clip
from lightning_modules.execution.team import Team
from lightning_modules.metrics.gradients import gradient_health, is_logged, with_all_edges
from lightning_modules.metrics.video_scores import VideoScores, clip_scores, summed_scores
from lightning_modules.networks import ClipNetwork, UnitNetwork, build_network
from lightning_modules.optimisation import (
    LAG_STRENGTH,
    MOMENTUM,
    check_settings,
    clip_per_unit,
    freeze_all_but,
    make_optimizer,
    make_scheduler,
    parameter_groups,
    planned_updates,
    set_gradients,
)
from lightning_modules.rules import make_rule
from lightning_modules.stream_state import StreamState

Batch = Mapping[str, Any]


class ActionRecognition(LightningModule):
    """A network, a rule and an executor, trained to name the action in a clip.

    Args:
        num_classes: number of classes; the command line takes it from the data.
        in_channels: channels of a frame; the command line takes it from the data.
        network: small_cnn, vgg8, resnet18 (per frame), cnn3d or x3d (whole clips).
        wiring: chain (Sideways), residual, concat, dense or input (Skip-Sideways).
        width: multiplies the network's channels.
        depth: number of units, where the network leaves it open.
        reach: largest span of a skip in wiring dense.
        pool: the head's pool over space, avg or max.
        activation: relu, silu, softplus or tanh.
        gradient_edges: all, or newest: gradients go back only along each unit's newest message.
        rule: backprop_frame, backprop_shifted, sideways, or backprop for whole-clip networks.
        executor: vectorised (a clip at once), pipelined (tick by tick), or cuda_graph (the same, replayed on a GPU).
        update: clip (weights fixed inside a clip) or frame (a step at every tick).
        stash: exact keeps the past inputs that make Sideways' gradients exact.
        drain: with stash exact, run on until the last losses have reached the lowest unit.
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
        log_gradients_every: batches between logs of alignment, norm and weight change; 0 for never.

    Raises:
        ValueError: a combination that makes no sense, or a setting that would have no effect.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        network: str = "small_cnn",
        wiring: str = "chain",
        width: float = 1.0,
        depth: int | None = None,
        reach: int | None = None,
        pool: str = "avg",
        activation: str = "relu",
        gradient_edges: str = "all",
        rule: str = "sideways",
        executor: str = "vectorised",
        update: str = "clip",
        stash: str = "none",
        drain: bool = True,
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
        self.rule = make_rule(rule, update=update, stash=stash, drain=drain)  # type: ignore[arg-type]
        self.network = build_network(
            network,
            wiring=wiring,
            in_channels=in_channels,
            num_classes=num_classes,
            width=width,
            depth=depth,
            reach=reach,
            pool=pool,
            activation=activation,
            gradient_edges=gradient_edges,  # type: ignore[arg-type]
        )
        check_combination(self.network, self.rule, executor)
        check_settings(
            self.network,
            optimizer=optimizer,
            momentum=momentum,
            schedule=schedule,
            lag_scaling=lag_scaling,
            lag_strength=lag_strength,
        )
        _check_training(update, accumulate)
        freeze_all_but(self.network, train_units)
        self.team = Team()
        self.frames_seen = 0
        self._start_weights: dict[str, Tensor] = {}
        self._restored_gradients: dict[str, Tensor] = {}
        self._train_stream, self._eval_stream = StreamState(), StreamState()
        self._video_scores = VideoScores()
        top_k = min(5, num_classes)
        # The team brings all processes' scores together; torchmetrics would count them once for each process.
        self.top1 = MulticlassAccuracy(num_classes, average="micro", sync_on_compute=False)
        self.top5 = MulticlassAccuracy(num_classes, top_k=top_k, average="micro", sync_on_compute=False)
        self.confusion = MulticlassConfusionMatrix(num_classes, sync_on_compute=False)

    @property
    def min_frames(self) -> int:
        """Fewest frames from which every unit gets a gradient under Sideways, 2D - 1 where all edges carry one.

        Exact shifted backprop needs D; it asks for as many, so that both rules see the same clips. 1 for networks that
        do not pipeline.
        """
        if isinstance(self.network, ClipNetwork) or not self.rule.forward_shift:
            return 1
        return shortest_clip(self.network.wiring)

    @property
    def min_scored_frames(self) -> int:
        """Fewest frames from which there is an answer: D in the pipeline, 1 in other networks."""
        return first_loss_tick(self.rule, self.network.depth)

    @property
    def executor(self) -> str:
        """The executor in use: units in several stages work tick by tick wherever the rule lets them."""
        if self.team.stages > 1:
            return "pipelined" if self.rule.pipelines else "vectorised"
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
        return {"optimizer": optimizer, "lr_scheduler": make_scheduler(hp["schedule"], optimizer, self._updates())}

    def _updates(self) -> int:
        """How many updates the fit makes, for the schedule."""
        trainer, schedule = self.trainer, self.hparams["schedule"]
        # Asking for Lightning's own estimate, which knows nothing of our accumulation, sets the loaders up.
        trainer.estimated_stepping_batches  # noqa: B018
        updates = planned_updates(
            trainer.num_training_batches, self.hparams["accumulate"], trainer.max_epochs, trainer.max_steps
        )
        if updates is None and schedule != "constant":
            raise ValueError(f"schedule {schedule!r} needs an end; set max_epochs or max_steps, or schedule 'constant'")
        return updates or 1

    def on_fit_start(self) -> None:
        """Remember the weights at the start, from which `weight_change` is measured."""
        if self.hparams["log_gradients_every"] and not self._start_weights:
            self._start_weights = {name: p.detach().clone() for name, p in self.network.named_parameters()}

    def on_train_start(self) -> None:
        """Finish what a resume left open: the loader's place in its epoch, and gradients inside an accumulation."""
        # Planning the schedule made Lightning set the loader up before it had read its state.
        self.trainer.fit_loop._load_combined_loader_states()
        # Lightning cleared all gradients after it had loaded the checkpoint.
        for name, p in self.network.named_parameters():
            if name in self._restored_gradients:
                p.grad = self._restored_gradients[name].to(p)
        self._restored_gradients = {}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Find the batch's gradients under the rule and change the weights; one counted step per update."""
        if not len(batch["label"]):
            self._train_on_nothing(batch_idx)
            return
        batch = self._floats(batch)
        train = self._train_frames if self.rule.update == "frame" else self._train_clip
        result = train(batch, batch_idx)
        self.frames_seen += self.team.frames_of_all_clips(int(batch["length"].sum()))
        self.log("frames_seen", float(self.frames_seen))
        if self.team.stages == 1 or self._figures_are_due():
            self.log_dict(self._training_figures(result, batch))

    def _floats(self, batch: Batch) -> Batch:
        return in_unit_range(batch, next(self.network.parameters()).dtype)

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
        if self.rule.update == "frame" or (batch_idx + 1) % every == 0 or self.trainer.is_last_batch:
            self._clip(self._raw_optimizer())
            self._counted_step()

    def _training_figures(self, result: ClipGradients, batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracy of the batch, which only the stage with the outputs knows by itself."""
        figures = None
        if self.team.has_output:
            assert result.loss is not None
            answered_B = result.valid_BN.any(1)
            if "piece" in batch and not answered_B.any():
                return {}  # a piece of warm-up, or of ended videos, has no loss
            scores_BK = clip_scores(result.logits_BNK, result.valid_BN)
            right_B = (scores_BK.argmax(-1) == batch["label"]) & answered_B
            top1 = right_B.sum() / answered_B.sum().clamp_min(1)
            replicas = self.team.from_all_clips(torch.stack([result.loss.float(), top1]))
            loss, top1 = torch.stack(replicas).mean(0)
            figures = {"train/loss": loss, "train/top1": top1}
        return self.team.from_output(figures)

    def _figures_are_due(self) -> bool:
        """Whether Lightning stores this batch's figures: to fetch them from another stage at every batch costs time."""
        is_last = self.trainer.is_last_batch or 0 <= self.trainer.max_steps <= self.trainer.global_step
        return is_last or self.trainer._logger_connector.should_update_logs

    def _gradients(self, batch: Batch, **options: Any) -> ClipGradients:
        options = {"rule": self.rule, "executor": self.executor, "stage": self.team.stage, **options}
        options["state"] = self._state(self._train_stream, batch)
        return clip_gradients(self.network, batch["video"], batch["label"], lengths_B=batch["length"], **options)

    def _state(self, stream: StreamState, batch: Batch) -> PipelineState | None:
        """Return the state that a stream's piece goes on from; None for clips, and where nothing is kept."""
        is_kept = "piece" in batch and self.rule.forward_shift
        return stream.at(int(batch["piece"]), self.device) if is_kept else None

    def _train_clip(self, batch: Batch, batch_idx: int) -> ClipGradients:
        optimizer, every = self._raw_optimizer(), self.hparams["accumulate"]
        result = self._gradients(batch)
        if self._logs_gradients(batch_idx):
            self._log_gradients(batch, result.gradients)
        set_gradients(self.network, self.team.average(result.gradients), batches=batch_idx % every + 1)
        if (batch_idx + 1) % every == 0 or self.trainer.is_last_batch:
            self._clip(optimizer)
            self._counted_step()
        return result

    def _train_frames(self, batch: Batch, batch_idx: int) -> ClipGradients:
        """Change weights at every tick. The counted step comes last and moves nothing: no gradient is left."""
        optimizer = self._raw_optimizer()
        if self._logs_gradients(batch_idx):
            clip_rule = replace(self.rule, update="clip")
            self._log_gradients(batch, self._gradients(batch, rule=clip_rule, executor="vectorised").gradients)

        def on_tick(gradients: Mapping[str, Tensor]) -> None:
            set_gradients(self.network, self.team.average(gradients))
            self._clip(optimizer)
            optimizer.step()

        result = self._gradients(batch, on_tick=on_tick)
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

    def _logs_gradients(self, batch_idx: int) -> bool:
        return is_logged(batch_idx, self.hparams["log_gradients_every"]) and not isinstance(self.network, ClipNetwork)

    def _log_gradients(self, batch: Batch, gradients: Mapping[str, Tensor]) -> None:
        assert isinstance(self.network, UnitNetwork)
        exact = clip_gradients(
            with_all_edges(self.network),
            batch["video"],
            batch["label"],
            rule="backprop_shifted",
            lengths_B=batch["length"],
        ).gradients
        self.log_dict(gradient_health(self.network, gradients, exact, self._start_weights))

    def scores(self, batch: Batch) -> Tensor | None:
        """Return the score (B, K) of each clip; None where the outputs are found in another stage.

        Of a stream's pieces: the sum of the softmax over the ticks, so that pieces add up to videos.
        """
        logits_BNK, valid_BN = self._outputs(batch)
        if logits_BNK is None:
            return None
        return summed_scores(logits_BNK, valid_BN) if "piece" in batch else clip_scores(logits_BNK, valid_BN)

    def _outputs(self, batch: Batch) -> tuple[Tensor | None, Tensor]:
        """Return outputs (B, N, K), None where they are found in another stage, and which count (B, N)."""
        batch = self._floats(batch)
        logits_BNK, valid_BN = clip_logits(
            self.network,
            batch["video"],
            rule=self.rule,
            executor=self.executor,
            lengths_B=batch["length"],
            stage=self.team.stage,
            state=self._state(self._eval_stream, batch),
        )
        if logits_BNK is not None and not logits_BNK.shape[1]:
            logits_BNK = logits_BNK.new_zeros(*valid_BN.shape, self.hparams["num_classes"])
        return logits_BNK, valid_BN

    def _evaluate(self, batch: Batch) -> None:
        scores_BK = self.scores(batch)
        if scores_BK is not None:
            self._video_scores.update(scores_BK, batch["label"], batch["video_index"])

    def _end_evaluation(self, stage: str) -> None:
        """Log accuracy and loss over videos, each the mean of its views, the same in every process."""
        found = self.team.from_output(self._all_videos() if self.team.has_output else None)
        if not found:
            return
        scores_VK, labels_V = (x.to(self.device) for x in found)
        loss = torch.nn.functional.nll_loss(scores_VK.clamp_min(1e-12).log(), labels_V)
        self.log_dict({f"{stage}/loss": loss, f"{stage}/top1": self.top1(scores_VK, labels_V)}, prog_bar=stage == "val")
        self.log(f"{stage}/top5", self.top5(scores_VK, labels_V))
        self.confusion.update(scores_VK, labels_V)

    def _all_videos(self) -> tuple[Tensor, ...]:
        """Return scores (V, K) and labels (V,) of the videos of all processes; nothing where there are none."""
        parts = self.team.from_all_clips(self._video_scores)
        everything = VideoScores()
        for part in parts:
            everything.merge(part)
        return everything.compute() if everything else ()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch of validation views."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch of test views."""
        self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return scores (B, K) with the clips' ids and labels; of streams those of the videos that end here."""
        if "piece" in batch:
            return self._predict_piece(batch)
        scores_BK = self.scores(batch)
        scores_BK = self.team.from_output(None if scores_BK is None else scores_BK.cpu())
        return {"clip_id": batch["clip_id"], "label": batch["label"].cpu(), "scores": scores_BK}

    def _predict_piece(self, batch: Batch) -> dict[str, Any]:
        """Return the videos that end, and besides what was answered about which frame: softmax (B, N, K), mask (B, N).

        `answered_frames` (N, 2) are the first frame that an answer is about and the one after the last, counted from
        the video's first, 0: a pipeline's answer is about a frame that came D - 1 ticks ago, a 3D network's about all
        frames of the piece.
        """
        logits_BNK, valid_BN = self._outputs(batch)
        assert logits_BNK is not None
        video_index_B, going = batch["video_index"], batch["length"] > 0
        sums_BK = summed_scores(logits_BNK, valid_BN)
        self._video_scores.update(sums_BK[going], batch["label"][going], video_index_B[going])
        ended = batch["last"].nonzero().flatten().tolist()
        waits = first_loss_tick(self.rule, self.network.depth) - 1
        first_N = max(0, batch["start"] - waits) + torch.arange(valid_BN.shape[1])
        about = int(batch["length"].max()) if self.rule.whole_clip else 1
        return {
            "clip_id": [batch["clip_id"][lane] for lane in ended],
            "label": batch["label"][ended].cpu(),
            "scores": self._video_scores.take([int(video_index_B[lane]) for lane in ended]),
            "answers": logits_BNK.softmax(-1).cpu(),
            "answered": valid_BN.cpu(),
            "answered_frames": torch.stack([first_N, first_N + about], 1),
        }

    def _start_evaluation(self) -> None:
        self._video_scores = VideoScores()
        for metric in (self.top1, self.top5, self.confusion):
            metric.reset()

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self._start_evaluation()

    def on_validation_epoch_end(self) -> None:
        """Log the validation figures."""
        self._end_evaluation("val")

    def on_test_epoch_end(self) -> None:
        """Log the test figures."""
        self._end_evaluation("test")

    def on_predict_epoch_start(self) -> None:
        """Forget the last prediction."""
        self._start_evaluation()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is state beside weights and optimizer."""
        # Between two updates of an accumulation the gradients so far are state; after an update there are none.
        gradients = {name: p.grad for name, p in self.network.named_parameters() if p.grad is not None}
        checkpoint["action_recognition"] = {
            "frames_seen": self.frames_seen,
            "start_weights": self._start_weights,
            "gradients": self.team.from_all_units(gradients),
            "stream": self._train_stream.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added."""
        state = checkpoint.get("action_recognition", {})
        self.frames_seen = state.get("frames_seen", 0)
        self._start_weights = state.get("start_weights", {})
        self._restored_gradients = state.get("gradients", {})
        self._train_stream.load_state_dict(state.get("stream"))


def _check_training(update: str, accumulate: int) -> None:
    if accumulate < 1:
        raise ValueError(f"accumulate is {accumulate}; it must be at least 1")
    if accumulate > 1 and update == "frame":
        raise ValueError(f"accumulate={accumulate} with update 'frame', which steps at every tick; use update 'clip'")
