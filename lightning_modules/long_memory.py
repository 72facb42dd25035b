"""Long memory: learn what to remember over thousands of steps, from the few outcomes that are uncertain (MemUP).

    stream   cue ...... distraction ...... question        detector: once, when a stream begins: what is uncertain?
             |--r--|                          ^            selector: of the rest of the stream, the K most uncertain
             memory m_t ------predictor-------'            update: after every rollout of r steps (methods.md section 6)

A batch is one rollout of B lanes, and one update. Truncated backprop and full backprop through time are the same task
with another rule; a causal transformer over the last steps is another memory.

Shape legend: B lanes, T steps of a stream, N steps of a piece, A answers (steps that are scored), K classes.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.functional import pad
from torch.optim import Optimizer
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.memory.candidates import Candidates, candidates_of
from lightning_modules.memory.carried import Carried
from lightning_modules.memory.detectors import (
    DETECTORS,
    PIECE,
    Detector,
    EntropyDetector,
    Followers,
    OracleDetector,
    SurpriseDetector,
    refuse_certainty,
)
from lightning_modules.memory.encoders import (
    FRAME_ENCODERS,
    INPUT_KINDS,
    Encoder,
    FrameEncoder,
    SymbolEncoder,
    VectorEncoder,
    load_encoder,
)
from lightning_modules.memory.local_model import LocalContext, LocalModel
from lightning_modules.memory.memory_network import MEMORIES, MemoryNetwork
from lightning_modules.memory.moments import prediction_moments
from lightning_modules.memory.predictor import Predictor
from lightning_modules.memory.questions import Question, make_question
from lightning_modules.memory.reading import Steps, read_run
from lightning_modules.memory.recurrent import Recurrent
from lightning_modules.memory.rollout import RolloutLoss, each_step_loss, memup_loss
from lightning_modules.memory.selectors import Composite, CurrentStep, GumbelTopK, Selector, TopK
from lightning_modules.memory.watching import Watcher
from lightning_modules.memory.window_transformer import WindowTransformer
from lightning_modules.networks import FRAME_NETWORKS, UnitNetwork, build_network
from lightning_modules.optimisation import (
    OPTIMIZERS,
    SCHEDULES,
    clip_per_unit,
    make_optimizer,
    make_scheduler,
    planned_updates,
)

Batch = Mapping[str, Any]
STATE = "long_memory"
RULES = ("memup", "truncated_backprop", "full_backprop")
SELECTORS = ("top_k", "gumbel_top_k", "current", "top_k+current")


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
        projections: fixed random projections of what its last unit reads, beside its answers.
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
        ValueError: a combination that makes no sense. Options of another rule, memory or input have no effect.
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
        _check_settings(self.hparams)
        self.question = make_question(num_classes)
        self.encoder = self._make_encoder()
        self.network = self._make_network()
        self.local_model: LocalModel | None = None
        self.followers: Followers | None = None
        if rule == "memup" and detector == "entropy" and select != "current":
            outputs = self.question.local_outputs
            self.local_model = LocalModel(self.encoder.features, context, context_width, outputs)
        if rule == "memup" and detector == "surprise" and select != "current":
            self.followers = Followers(self.network, ema_decay)
        self.detector, self.selector = self._make_detector(), self._make_selector()
        self.frames_seen = 0
        self._carried = Carried(k if select == "top_k" else None)
        self._generator = torch.Generator()
        self._drawn = False
        self.share_right, self.mean_loss, self.precision, self.recall = (MeanMetric() for _ in range(4))
        self.numbers = CatMetric()
        self.confusion = MulticlassConfusionMatrix(max(num_classes, 2))
        if num_classes == 1:
            self.score_metric, self.score_mode = "val/mse", "min"

    @property
    def rollout(self) -> int:
        """Steps of a training batch, which the DataModule is told; 0: whole streams."""
        return 0 if self.hparams["rule"] == "full_backprop" else int(self.hparams["rollout"])

    def _make_encoder(self) -> Encoder:
        hp = self.hparams
        if hp["input_kind"] == "symbols":
            return SymbolEncoder(hp["in_channels"])
        if hp["input_kind"] == "vectors":
            return VectorEncoder(hp["in_channels"])
        answers = self.question.outputs + hp["projections"]
        options = {name: hp[name] for name in ("wiring", "in_channels", "width", "depth", "pool")}
        network = build_network(hp["network"], num_classes=answers, **options)
        assert isinstance(network, UnitNetwork)
        return FrameEncoder(network, hp["encoder"], self.question)

    def _make_network(self) -> MemoryNetwork:
        hp, features = self.hparams, self.encoder.features
        memory: Recurrent | WindowTransformer
        if hp["memory"] == "transformer":
            memory = WindowTransformer(hp["hidden"], hp["hidden"], hp["layers"], hp["window"] or hp["rollout"])
        else:
            memory = Recurrent(hp["memory"], hp["hidden"], hp["hidden"], hp["layers"])
            if hp["chrono"]:
                memory.chrono(hp["chrono"])
        context = LocalContext(features, hp["context"], hp["context_width"])
        predictor = Predictor(hp["context_width"], hp["hidden"], hp["predictor_width"], self.question.outputs)
        return MemoryNetwork(features, memory, context, predictor, self.encoder.scale)

    def _make_detector(self) -> Detector | None:
        if self.hparams["rule"] != "memup" or self.hparams["select"] == "current":
            return None
        if self.local_model is not None:
            return EntropyDetector(self.local_model, self.question)
        if self.followers is not None:
            return SurpriseDetector(self.followers.copy, self.question)
        return OracleDetector(self.question)

    def _make_selector(self) -> Selector:
        k, select = self.hparams["k"], self.hparams["select"]
        if select == "gumbel_top_k":
            return GumbelTopK(k, self.hparams["temperature"])
        if select == "current":
            return CurrentStep()
        return Composite([TopK(k), CurrentStep()]) if select == "top_k+current" else TopK(k)

    def setup(self, stage: str) -> None:
        """Refuse data, devices and precisions that this task cannot work with."""
        if stage == "fit" and self.trainer.precision == "16-mixed":
            raise ValueError("precision '16-mixed' would shrink gradients that nobody has scaled; use 'bf16-mixed'")
        self.check_data(self.trainer.datamodule, self.trainer, training=stage == "fit")  # type: ignore[attr-defined]
        if stage == "fit" and self.hparams["encoder_ckpt"] and not self.trainer.ckpt_path:
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
        steps = int(data.steps)
        k = self.hparams["k"] if self.detector is not None else 0
        for name, value in (("rollout", self.rollout), ("k", k), ("context", self.hparams["context"])):
            if value > steps:
                raise ValueError(
                    f"{name} is {value}, and the longest stream has {steps:,} steps; use --model.{name} {steps} or less"
                )
        if training and self.encoder.ahead and 0 < self.rollout <= self.encoder.ahead:
            raise ValueError(
                f"rollout {self.rollout} with encoder 'sideways' of {self.encoder.ahead + 1} units, whose lowest unit "
                f"would get no gradient; use --model.rollout {self.encoder.ahead + 1} or more, or --model.depth "
                f"{max(2, self.rollout)}"
            )

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return one optimizer with a group for memory, local model and encoder, and its schedule."""
        hp = self.hparams
        memory = [*self.network.embedding.parameters(), *self.network.memory.parameters()]
        predictor = [*self.network.context.parameters(), *self.network.predictor.parameters()]
        encoder = [p for p in self.encoder.parameters() if p.requires_grad]
        if self.encoder.learns_jointly:
            memory += encoder
        local_lr = hp["lr"] if hp["local_lr"] is None else hp["local_lr"]
        groups: list[dict[str, object]] = [
            {"params": memory, "lr": hp["lr"] if hp["memory_lr"] is None else hp["memory_lr"], "name": "memory"},
            {"params": predictor, "lr": hp["lr"], "name": "predictor"},
        ]
        if self.local_model is not None:
            groups.append({"params": [*self.local_model.parameters()], "lr": local_lr, "name": "local_model"})
        if self.encoder.learns_alone:
            groups.append({"params": encoder, "lr": local_lr, "name": "encoder"})
        optimizer = make_optimizer(hp["optimizer"], groups, hp["lr"], hp["weight_decay"], momentum=0.9)
        return {"optimizer": optimizer, "lr_scheduler": make_scheduler(hp["schedule"], optimizer, self._updates())}

    def _updates(self) -> int:
        trainer = self.trainer
        trainer.estimated_stepping_batches  # noqa: B018 - sets the loaders up
        updates = planned_updates(trainer.num_training_batches, 1, trainer.max_epochs, trainer.max_steps)
        if updates is None and self.hparams["schedule"] != "constant":
            raise ValueError(
                f"schedule {self.hparams['schedule']!r} needs an end; set max_epochs or max_steps, or schedule "
                "'constant'"
            )
        return updates or 1

    def on_train_start(self) -> None:
        """Finish what a resume left open: the loader's place in its epoch; seed what selectors draw."""
        # Planning the schedule made Lightning set the loader up before it had read its state.
        self.trainer.fit_loop._load_combined_loader_states()
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
            figures["train/encoder_loss"] = self._teach_encoder(lanes, start_B, length_B, steps)
        encoder_moves = self._encoder_learns or self.encoder.learns_jointly
        if self.local_model is not None and (self._detector_learns or encoder_moves):
            figures["train/local_loss"] = self._teach_local_model(self.local_model, run, length_B)
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

    def _teach_encoder(self, lanes: Any, start_B: Tensor, length_B: Tensor, steps: int) -> Tensor:
        encoder = self.encoder
        assert isinstance(encoder, FrameEncoder)
        x, y = lanes.read(start_B[:, None] + torch.arange(steps + encoder.ahead))
        beyond_B = (lanes.lengths_B - start_B).clamp(0, steps + encoder.ahead) * (length_B > 0)
        x, y, beyond_B = (part.to(self.device) for part in (x, y, beyond_B))
        loss, gradients = encoder.own_gradients(x, y, beyond_B)
        for name, p in encoder.network.named_parameters():
            p.grad = gradients.get(name)
        return loss.detach()

    def _teach_local_model(self, model: LocalModel, run: Steps, length_B: Tensor) -> Tensor:
        outputs = model(run.features.detach())
        steps = torch.arange(outputs.shape[1], device=self.device)
        valid_BN = run.inside & (steps < length_B.to(self.device)[:, None]) & self.question.is_asked(run.targets)
        loss = (self.question.local_loss(outputs, run.targets) * valid_BN).sum() / valid_BN.sum().clamp_min(1)
        self.manual_backward(loss)
        return loss.detach()

    def _teach_memory(self, batch: Batch, run: Steps, start_B: Tensor, length_B: Tensor) -> dict[str, Tensor]:
        carried = self._carried
        state = carried.begin(batch["new"], lambda: self.network.memory.initial(len(length_B), run.features))
        if self.hparams["rule"] == "memup":
            found = self._memup(batch, run, state, start_B, length_B)
        else:
            found = each_step_loss(self.network, self.question, run=run, state=state, length_B=length_B)
        carried.end(found.state)
        if found.loss is None:
            return {}
        self.manual_backward(found.loss)
        figures = {"train/loss": found.loss.detach()}
        return figures if found.right is None else figures | {"train/top1": found.right}

    def _memup(self, batch: Batch, run: Steps, state: Any, start_B: Tensor, length_B: Tensor) -> RolloutLoss:
        lanes, steps = batch["lanes"], run.targets.shape[1]
        uncertainty: Tensor | Candidates
        if self.detector is None:
            uncertainty = _asked_now(self.question, run, start_B, int(lanes.lengths_B.max()))
        else:
            first = self._carried.uncertainty is None
            uncertainty = self._carried.uncertainty_of(lanes, batch["new"].cpu(), self._detect).to(self.device)
            if first and self.local_model is not None and self.question.outputs > 1:
                refuse_certainty(uncertainty if isinstance(uncertainty, Tensor) else uncertainty.value_BS)
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
        """Return the uncertainties (B, T) of streams, or, where they do, the candidates."""
        assert self.detector is not None
        if self._carried.k is None:
            found_BT = self.detector(self.encoder, lanes, self.device)
            return pad(found_BT, (0, max(0, self.selector.k - found_BT.shape[1])), value=-math.inf)
        return self._candidates(lanes, self._carried.k)

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

    @torch.no_grad()
    def answers(self, lanes: Any) -> tuple[Tensor, Tensor]:
        """Return what is said at the scored steps, each from its own memory: outputs (B, A, K) and targets (B, A).

        Where a lane has fewer scored steps the target asks nothing. Whole streams are read in pieces.
        """
        answers_BA = lanes.answers_BA
        given_BA = answers_BA >= 0
        _, targets_BA = lanes.read(answers_BA.masked_fill(~given_BA, -1))
        out_BAK = torch.zeros(*answers_BA.shape, self.question.outputs, device=self.device)
        before = self.hparams["context"] - 1
        state: Any = None
        for start in range(0, int(lanes.lengths_B.max()), PIECE):
            steps = min(PIECE, int(lanes.lengths_B.max()) - start)
            run = read_run(self.encoder, lanes, torch.full_like(lanes.lengths_B, start), steps, self.device, before)
            if state is None:
                state = self.network.memory.initial(len(answers_BA), run.features)
            outputs, _, state = self.network.at_each_step(run.features, state)
            lane, answer = ((answers_BA >= start) & (answers_BA < start + steps) & given_BA).nonzero(as_tuple=True)
            out_BAK[lane, answer] = outputs[lane, answers_BA[lane, answer] - start].float()
        return out_BAK, targets_BA.to(self.device)

    def _evaluate(self, batch: Batch, *, detect: bool) -> None:
        lanes = batch["lanes"]
        outputs_BAK, targets_BA = self.answers(lanes)
        asked = self.question.is_asked(targets_BA)
        outputs, targets = outputs_BAK[asked], targets_BA[asked]
        self.mean_loss.update(self.question.loss(outputs, targets))
        if self.question.outputs > 1:
            self.share_right.update((outputs.argmax(-1) == targets).float())
            self.confusion.update(outputs, targets)
        else:
            self.numbers.update(targets)
        if detect and self.detector is not None:
            hits_B, chosen_B, answers_B = self.hits(lanes)
            for metric, of_B in ((self.precision, chosen_B), (self.recall, answers_B)):
                if (of_B > 0).any():
                    metric.update((hits_B / of_B)[of_B > 0])

    def watcher(self) -> Watcher:
        """Return what watches streams as they come, step by step, and says the same as `answers`."""
        return Watcher(self.network, self.encoder)

    def choices(self, lanes: Any) -> tuple[Tensor, Tensor]:
        """Return uncertainties (B, T) and the steps that a stream's first moment chooses, (B, K), -1 for none."""
        assert self.detector is not None
        uncertainty_BT = self.detector(self.encoder, lanes, self.device)
        return uncertainty_BT, self._first_choices(lanes, candidates_of([uncertainty_BT], self.hparams["k"]))

    def _first_choices(self, lanes: Any, candidates: Candidates) -> Tensor:
        first = min(self.rollout or 1, self.hparams["predict_every"] or self.rollout or 1)
        moments_B1 = lanes.lengths_B.clamp(1, first)[:, None].to(self.device) - 1
        chosen = candidates.choose(TopK(self.hparams["k"]), moments_B1)
        return chosen.steps_BMK[:, 0].masked_fill(~chosen.valid_BMK[:, 0], -1)

    def hits(self, lanes: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return, of each lane, the scored steps among the min(K, A) first choices, their number, and A, all (B,)."""
        chosen_BK = self._first_choices(lanes, self._candidates(lanes, self.hparams["k"]))
        answers_BA = lanes.answers_BA.to(self.device)
        answers_B = (answers_BA >= 0).sum(1)
        rank_K = torch.arange(chosen_BK.shape[1], device=self.device)
        counts_BK = (chosen_BK >= 0) & (rank_K < answers_B[:, None])
        hit_BK = (chosen_BK[:, :, None] == answers_BA[:, None]).any(-1) & counts_BK
        return hit_BK.sum(1).float(), counts_BK.sum(1), answers_B

    def _end_evaluation(self, stage: str) -> None:
        self.log(f"{stage}/loss", self.mean_loss.compute(), prog_bar=stage == "val")
        if self.question.outputs > 1:
            self.log(f"{stage}/top1", self.share_right.compute(), prog_bar=stage == "val")
        else:
            self.log(f"{stage}/mse", self.mean_loss.compute())
        if stage == "test":
            self.log("test/chance", self.chance())
        if self.precision.update_called:
            self.log_dict(
                {
                    f"{stage}/detector_precision": self.precision.compute(),
                    f"{stage}/detector_recall": self.recall.compute(),
                }
            )

    def chance(self) -> Tensor:
        """Return what a guess without memory scores: 1 of the classes that answers have; of numbers the variance."""
        if self.question.outputs > 1:
            return 1 / (self.confusion.compute().sum(1) > 0).sum().clamp_min(1)
        return dim_zero_cat(self.numbers.compute()).var(correction=0)

    def _start_evaluation(self) -> None:
        for metric in (self.share_right, self.mean_loss, self.precision, self.recall, self.confusion, self.numbers):
            metric.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score whole streams."""
        self._evaluate(batch, detect=False)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score whole streams, and what the detector chose."""
        self._evaluate(batch, detect=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return a row for each scored step: `clip_id` (stream@step), `label`, and scores (rows, K)."""
        lanes = batch["lanes"]
        outputs_BAK, targets_BA = self.answers(lanes)
        lane, answer = (lanes.answers_BA >= 0).nonzero(as_tuple=True)
        names = [
            f"{lanes.ids[i]}@{int(lanes.answers_BA[i, j])}" for i, j in zip(lane.tolist(), answer.tolist(), strict=True)
        ]
        outputs = outputs_BAK[lane, answer]
        scores = outputs.softmax(-1) if self.question.outputs > 1 else outputs
        return {"clip_id": names, "label": targets_BA[lane, answer].cpu(), "scores": scores.cpu()}

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is state beside weights and optimizer."""
        checkpoint[STATE] = {
            "frames_seen": self.frames_seen,
            "carried": self._carried.state_dict(),
            "generator": self._generator.get_state() if self._drawn else None,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` added."""
        state = checkpoint[STATE]
        self.frames_seen = state["frames_seen"]
        self._carried.load_state_dict(state["carried"])
        if state["generator"] is not None:
            self._generator.set_state(state["generator"].cpu())
            self._drawn = True


def _asked_now(question: Question, run: Steps, start_B: Tensor, steps: int) -> Tensor:
    """Return (B, T): 0 at the run's steps that ask something, -inf elsewhere."""
    asked_BN = question.is_asked(run.targets) & run.inside
    at_BN = start_B.to(asked_BN.device)[:, None] + torch.arange(asked_BN.shape[1], device=asked_BN.device)
    out_BT = torch.full((len(asked_BN), steps + 1), -math.inf, device=asked_BN.device)
    return out_BT.scatter_(1, torch.where(asked_BN, at_BN, steps), 0.0)[:, :-1]


def _check_settings(hp: Mapping[str, Any]) -> None:
    known = {
        "rule": RULES, "detector": DETECTORS, "select": SELECTORS, "memory": MEMORIES, "input_kind": INPUT_KINDS,
        "encoder": FRAME_ENCODERS, "network": tuple(FRAME_NETWORKS), "optimizer": OPTIMIZERS, "schedule": SCHEDULES,
    }  # fmt: skip
    for name, names in known.items():
        if hp[name] not in names:
            raise ValueError(f"{name} {hp[name]!r} is unknown; expected one of {', '.join(names)}")
    for name in ("rollout", "k", "hidden", "layers", "context", "context_width", "predictor_width"):
        if hp[name] < 1:
            raise ValueError(f"{name} is {hp[name]}; expected 1 or more: --model.{name} 1")
    if hp["detector_updates"] < 0 or hp["projections"] < 0 or (hp["encoder_updates"] or 0) < 0:
        raise ValueError("detector_updates, encoder_updates and projections must not be negative; use 0 for none")
    if hp["clip_norm"] is not None and hp["clip_norm"] <= 0:
        raise ValueError(f"clip_norm is {hp['clip_norm']}; expected more than 0, or leave --model.clip_norm at 1.0")
    for name in ("predict_every", "window"):
        if hp[name] is not None and hp[name] < 1:
            raise ValueError(f"{name} is {hp[name]}; expected 1 or more, or leave --model.{name} out")
    if hp["window"] is not None and hp["memory"] != "transformer":
        raise ValueError(
            f"window {hp['window']} with memory {hp['memory']!r}, which has none; leave --model.window out"
        )
    if hp["chrono"] and hp["memory"] == "transformer":
        raise ValueError("chrono with memory 'transformer', which has no gates; leave --model.chrono out")
    if hp["encoder_ckpt"] and hp["input_kind"] != "frames":
        raise ValueError(
            f"encoder_ckpt with {hp['input_kind']}, which no network encodes; leave --model.encoder_ckpt out"
        )
