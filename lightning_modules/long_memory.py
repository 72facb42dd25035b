"""Long memory: learn what to remember over thousands of steps, from the few outcomes that are uncertain (MemUP).

    stream   cue ...... distraction ...... question        detector: once, when a stream begins: what is uncertain?
             |--r--|                          ^            selector: of the rest of the stream, the K most uncertain
             memory m_t ------predictor-------'            update: after every rollout of r steps (methods.md section 6)

A batch is one rollout of B lanes, and one update. Truncated backprop and full backprop through time are the same task
with another rule; a causal transformer over the last steps is another memory.

Shape legend: B lanes, T steps of a stream, N steps of a piece, A answers (steps that are scored), K classes.
"""

import inspect
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import Optimizer
from torchmetrics.classification import MulticlassConfusionMatrix

from lightning_modules.fit_plan import restore_loaders, updates_of
from lightning_modules.memory import building
from lightning_modules.memory.answering import answers_of, rows_of
from lightning_modules.memory.candidates import Candidates, candidates_of
from lightning_modules.memory.carried import Carried
from lightning_modules.memory.detectors import asked_now
from lightning_modules.memory.encoders import INPUT_KINDS, FrameEncoder, load_encoder
from lightning_modules.memory.findings import Findings
from lightning_modules.memory.first_choices import first_choices, hits_of
from lightning_modules.memory.moments import prediction_moments
from lightning_modules.memory.own_targets import local_loss, teach_encoder
from lightning_modules.memory.questions import make_question
from lightning_modules.memory.reading import Steps, read_run
from lightning_modules.memory.rollout import RolloutLoss, each_step_loss, memup_loss
from lightning_modules.memory.settings import check_settings, check_streams, rollout_of, without_effect
from lightning_modules.memory.watching import Watcher
from lightning_modules.metrics.long_answers import LongAnswers
from lightning_modules.optimisation import check_names, clip_per_unit, make_optimizer, make_scheduler

Batch = Mapping[str, Any]
STATE = "long_memory"
PRECISIONS = ("32-true", "bf16-mixed")


class LongMemory(LightningModule):
    """A memory over long streams, trained by MemUP or through time.

    Args:
        num_classes: of the targets, 1 for numbers; the command line takes it from the data.
        in_channels: symbols, numbers of a vector or channels of a frame; taken from the data.
        input_kind: symbols, vectors or frames; taken from the data.
        rule: memup; truncated_backprop: each step is predicted from its own memory, gradients stay inside the rollout;
            full_backprop: the same with whole streams as rollouts.
        rollout: steps between two updates, r; gradients go back no further.
        predict_every: p: predictions are made from every p-th step's memory, and always from the rollout's last; the
            rollout's length if absent.
        k: chosen steps that each moment's memory predicts.
        detector: entropy (of a local model, which goes on learning where a frame encoder does), surprise (of slowly
            following copies), or oracle (the scored steps).
        detector_updates: updates at the start in which the local model learns, and memory does not yet.
        select: top_k, gumbel_top_k, current (the moment's own step), or top_k+current.
        temperature: of gumbel_top_k.
        ema_decay: of surprise's copies, an update.
        memory: lstm, gru, or transformer (over the last `window` steps).
        hidden: numbers of the memory.
        layers: of the memory.
        chrono: begin with memories of up to so many steps (gates' biases); 0: torch's own beginning.
        window: of the transformer; the rollout's length if absent.
        context: steps of the local context, 1: the step alone.
        context_width: numbers of a local context.
        predictor_width: of the predictor's hidden layers.
        encoder: of frames: frozen, detached (learns from each frame's own target), sideways (the same, by
            Skip-Sideways) or joint (memory's gradients go on into it).
        encoder_updates: updates in which a detached or sideways encoder learns, and the local model with it; always if
            absent.
        network: the frame encoder: small_cnn, vgg8 or resnet18.
        wiring: its wiring; with encoder sideways those with skips are Skip-Sideways.
        width: multiplies its channels.
        depth: its number of units, where the network leaves it open.
        pool: its pool over space, avg or max.
        projections: random projections of what its last unit reads, beside its answers; the frames' own loss leaves
            them alone.
        encoder_ckpt: checkpoint of a run of action recognition with the same network: its weights, to begin a fit with.
        optimizer: adamw or sgd.
        lr: learning rate.
        memory_lr: learning rate of the memory, where it is another: what lanes have kept was written by older weights,
            the more so the longer streams are.
        local_lr: learning rate of the local model, and of an encoder that learns from frames' own targets; `lr` if
            absent.
        weight_decay: decoupled for adamw.
        schedule: onecycle, cosine or constant.
        clip_norm: largest 2-norm of the gradients of memory, of predictor, of local model and of encoder, each by
            itself [D]; none if absent.

    Raises:
        ValueError: a combination that makes no sense. Options of another rule, memory or input have no effect, and a
            fit says which.
    """

    score_metric = "val/top1"
    score_mode = "max"
    min_frames = 1

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 1,
        input_kind: str = "symbols",
        rule: str = "memup",
        rollout: int = 8,
        predict_every: int | None = None,
        k: int = 4,
        detector: str = "entropy",
        detector_updates: int = 300,
        select: str = "top_k",
        temperature: float = 0.25,
        ema_decay: float = 0.999,
        memory: str = "lstm",
        hidden: int = 128,
        layers: int = 1,
        chrono: int = 0,
        window: int | None = None,
        context: int = 1,
        context_width: int = 64,
        predictor_width: int = 128,
        encoder: str = "detached",
        encoder_updates: int | None = None,
        network: str = "small_cnn",
        wiring: str = "chain",
        width: float = 1.0,
        depth: int | None = None,
        pool: str = "max",
        projections: int = 32,
        encoder_ckpt: str | None = None,
        optimizer: str = "adamw",
        lr: float = 1e-3,
        memory_lr: float | None = None,
        local_lr: float | None = None,
        weight_decay: float = 0.0,
        schedule: str = "constant",
        clip_norm: float | None = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        check_settings(self.hparams)
        check_names(optimizer=optimizer, schedule=schedule)
        self.question = make_question(num_classes)
        self.encoder = building.make_encoder(self.hparams, self.question)
        self.network = building.make_network(self.hparams, self.encoder, self.question)
        self.local_model = building.make_local_model(self.hparams, self.encoder, self.question)
        self.followers = building.make_followers(self.hparams, self.network)
        self.detector = building.make_detector(self.hparams, self.question, self.local_model, self.followers)
        self.selector = building.make_selector(self.hparams)
        self.frames_seen = 0
        self._carried = Carried(k if select == "top_k" else None)
        self._findings = Findings(entropies=self.local_model is not None and num_classes > 1)
        self._generator = torch.Generator()
        self._drawn = self._restored = False
        self._scores = LongAnswers(self.question)
        if num_classes == 1:
            self.score_metric, self.score_mode = "val/mse", "min"

    @property
    def rollout(self) -> int:
        """Steps of a training batch, which the DataModule is told; 0: whole streams."""
        return rollout_of(self.hparams)

    @property
    def confusion(self) -> MulticlassConfusionMatrix:
        """Which class was taken for which at the scored steps of the last evaluation."""
        return self._scores.confusion

    def setup(self, stage: str) -> None:
        """Refuse data, devices and precisions that this task cannot work with; say which options have no effect."""
        self._restored = False
        if (precision := self.trainer.precision) not in PRECISIONS and (stage == "fit" or precision != "16-mixed"):
            raise ValueError(
                f"precision {precision!r}: features and what memory carries are float32, and gradients are not scaled; "
                f"expected one of {', '.join(PRECISIONS)}: --trainer.precision {PRECISIONS[0]}"
            )
        self.check_data(self.trainer.datamodule, self.trainer, training=stage == "fit")  # type: ignore[attr-defined]
        defaults = {name: p.default for name, p in inspect.signature(type(self).__init__).parameters.items()}
        if stage == "fit" and (unused := without_effect(self.hparams, defaults)):
            rank_zero_info(f"without effect beside the other options: {', '.join(unused)}")

    def on_fit_start(self) -> None:
        """Load the frame encoder's weights, where the fit does not go on from a checkpoint that has them."""
        if self.hparams["encoder_ckpt"] and not self._restored:
            assert isinstance(self.encoder, FrameEncoder)
            load_encoder(self.encoder.network, Path(self.hparams["encoder_ckpt"]))

    def check_data(self, data: Any, trainer: Trainer, *, training: bool) -> None:
        """Refuse data without long streams, and streams shorter than the rollout or K.

        The command line asks before it reads any data.

        Raises:
            ValueError: with the reason, and what to use instead.
        """
        if getattr(data, "input_kind", None) not in INPUT_KINDS:
            raise ValueError(
                f"long memory learns from long sequences that can be read anywhere, and {type(data).__name__} gives "
                "clips; see docs/memory.md for the data it takes"
            )
        if getattr(trainer.strategy, "makes_a_team", False) or trainer.world_size > 1:
            raise ValueError(
                f"long memory works in one process, given strategy {type(trainer.strategy).__name__} with "
                f"{trainer.world_size} processes; leave --trainer.strategy out, with --trainer.devices 1"
            )
        if training:
            check_streams(self.hparams, int(data.steps), self.encoder.ahead)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one optimizer and its schedule.

        Its groups are memory, predictor and, where they learn by themselves, local model and encoder.
        """
        hp = self.hparams
        groups = building.parameter_groups(hp, self.encoder, self.network, self.local_model)
        optimizer = make_optimizer(hp["optimizer"], groups, hp["lr"], hp["weight_decay"], momentum=0.9)
        updates = updates_of(self.trainer, hp["schedule"])
        return {"optimizer": optimizer, "lr_scheduler": make_scheduler(hp["schedule"], optimizer, updates)}

    def on_train_start(self) -> None:
        """Finish what a resume left open: the loader's place in its epoch; seed what selectors draw."""
        restore_loaders(self.trainer)
        if not self._drawn:
            self._generator.manual_seed(torch.initial_seed())
            self._drawn = True

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Work through one rollout of every lane; one update."""
        lanes, start_B, length_B = batch["lanes"], batch["start"].cpu(), batch["length"].cpu()
        steps = self.rollout or max(1, int(length_B.max()))
        run = read_run(self.encoder, lanes, start_B, steps, self.device, self.hparams["context"] - 1)
        figures: dict[str, Tensor] = {}
        if self._encoder_learns:
            assert isinstance(self.encoder, FrameEncoder)
            figures["train/encoder_loss"] = teach_encoder(self.encoder, lanes, start_B, length_B, steps, self.device)
        encoder_moves = self._encoder_learns or self.encoder.learns_jointly
        if self.local_model is not None and (self._detector_learns or encoder_moves):
            loss, asked = local_loss(self.local_model, self.question, run, length_B)
            self.manual_backward(loss)
            if asked:
                figures["train/local_loss"] = loss.detach()
        if not self._detector_learns:
            figures |= self._teach_memory(batch, run, start_B, length_B)
        optimizer = self._step()
        if self.followers is not None:
            self.followers.follow(self.network)
        self.frames_seen += int(length_B.sum())
        self.log("frames_seen", float(self.frames_seen))
        self.log("lr", float(optimizer.param_groups[0]["lr"]))
        self.log_dict(figures)

    @property
    def _detector_learns(self) -> bool:
        """Whether memory still waits for the local model's training."""
        return self.local_model is not None and self.trainer.global_step < self.hparams["detector_updates"]

    @property
    def prepares(self) -> bool:
        """Whether the next update is one before memory's own, whose time and memory are not those of most."""
        return self._detector_learns

    @property
    def _encoder_learns(self) -> bool:
        """Whether the encoder learns from frames' own targets at this update."""
        updates = self.hparams["encoder_updates"]
        return self.encoder.learns_alone and (updates is None or self.trainer.global_step < updates)

    def _teach_memory(self, batch: Batch, run: Steps, start_B: Tensor, length_B: Tensor) -> dict[str, Tensor]:
        carried = self._carried
        new_B = carried.begins(batch["lanes"].ids, start_B, run.targets.shape[1], batch["new"])
        state = carried.begin(new_B, lambda: self.network.memory.initial(len(length_B), run.features))
        if self.hparams["rule"] == "memup":
            found = self._memup(batch["lanes"], new_B, run, state, start_B, length_B)
        else:
            found = each_step_loss(self.network, self.question, run=run, state=state, length_B=length_B)
        carried.end(found.state)
        if found.loss is None:
            return {}
        self.manual_backward(found.loss)
        figures = {"train/loss": found.loss.detach()}
        return figures if found.right is None else figures | {"train/top1": found.right}

    def _memup(
        self, lanes: Any, new_B: Tensor, run: Steps, state: Any, start_B: Tensor, length_B: Tensor
    ) -> RolloutLoss:
        steps = run.targets.shape[1]
        uncertainty: Tensor | Candidates
        if self.detector is None:
            uncertainty = asked_now(self.question, run, start_B, int(lanes.lengths_B.max()))
        else:
            uncertainty = self._carried.uncertainty_of(lanes, new_B, self._detect).to(self.device)
        return memup_loss(
            self.network,
            self.encoder,
            self.question,
            self.selector,
            lanes=lanes,
            run=run,
            state=state,
            start_B=start_B,
            length_B=length_B,
            moments_M=prediction_moments(steps, self.hparams["predict_every"] or steps),
            uncertainty=uncertainty,
            generator=self._generator,
        )

    def _detect(self, lanes: Any) -> Tensor | Candidates:
        """Return the uncertainties (B, T) of streams that begin, or, where they do, the candidates."""
        assert self.detector is not None
        found: Tensor | Candidates
        if self._carried.k is None:
            found = self.detector(self.encoder, lanes, self.device)
            found = pad(found, (0, max(0, self.selector.k - found.shape[1])), value=-math.inf)
        else:
            found = self._candidates(lanes, self._carried.k)
        self._findings.judge(found)
        return found

    def _candidates(self, lanes: Any, k: int) -> Candidates:
        assert self.detector is not None
        return candidates_of(self.detector.pieces(self.encoder, lanes, self.device), k)

    def _step(self) -> Optimizer:
        """Change the weights: one counted step, whatever has learnt."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert not isinstance(optimizer, list)
        if self.hparams["clip_norm"] is not None:
            clip_per_unit(optimizer.optimizer, self.hparams["clip_norm"])
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()  # type: ignore[union-attr, call-arg]
        return optimizer.optimizer

    def answers(self, lanes: Any) -> tuple[Tensor, Tensor]:
        """Return what is said at the scored steps, each from its own memory: outputs (B, A, K) and targets (B, A)."""
        return answers_of(self.network, self.encoder, self.question, lanes, self.device)

    def watcher(self) -> Watcher:
        """Return what watches streams as they come, step by step, and says the same as `answers`."""
        return Watcher(self.network, self.encoder)

    def choices(self, lanes: Any) -> tuple[Tensor, Tensor]:
        """Return uncertainties (B, T) and the steps that a stream's first moment chooses, (B, K), -1 for none."""
        assert self.detector is not None
        uncertainty_BT = self.detector(self.encoder, lanes, self.device)
        candidates = candidates_of([uncertainty_BT], self.hparams["k"])
        return uncertainty_BT, first_choices(self.hparams, candidates, lanes.lengths_B)

    def hits(self, lanes: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return, of each lane, the scored steps among the min(K, A) first choices, their number, and A, all (B,)."""
        candidates = self._candidates(lanes, self.hparams["k"])
        return hits_of(first_choices(self.hparams, candidates, lanes.lengths_B), lanes.answers_BA)

    def _score(self, lanes: Any) -> None:
        self._scores.update(*self.answers(lanes), lanes.answers_BA >= 0)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score whole streams."""
        self._score(batch["lanes"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score whole streams, and what the detector chose."""
        self._score(batch["lanes"])
        if self.detector is not None:
            self._scores.update_choices(*self.hits(batch["lanes"]))

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return a row for each scored step: `clip_id` (stream@step), `label`, and scores (rows, K)."""
        return rows_of(batch["lanes"], *self.answers(batch["lanes"]))

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self._scores.reset()

    def on_test_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self._scores.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the validation figures."""
        if not self._scores.has_figures("validation", required=False):
            return
        for name, value in self._scores.figures(chance=False).items():
            self.log(f"val/{name}", value, prog_bar=name in ("loss", "top1"))

    def on_test_epoch_end(self) -> None:
        """Log the test figures."""
        self._scores.has_figures("test", required=True)
        self.log_dict({f"test/{name}": value for name, value in self._scores.figures(chance=True).items()})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is state beside weights and optimizer."""
        checkpoint[STATE] = {
            "frames_seen": self.frames_seen,
            "carried": self._carried.state_dict(),
            "findings": self._findings.state_dict(),
            "generator": self._generator.get_state() if self._drawn else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added."""
        state = checkpoint[STATE]
        self._restored = True
        self.frames_seen = state["frames_seen"]
        self._carried.load_state_dict(state["carried"])
        self._findings.load_state_dict(state["findings"])
        if state["generator"] is not None:
            self._generator.set_state(state["generator"].cpu())
            self._drawn = True
