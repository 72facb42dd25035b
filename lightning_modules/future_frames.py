"""Future frames: the next K frames of a clip, learned under any rule, wiring and executor.

    frame      0   1   2   3   4   5   6   7   8   9  10  11        T = 12, K = 2, D = 4
    read       *   *   *   *   *   *   *   *   *   *                the first T - K
    output                         m   1   2                        newest frame m; the answer is about m + 1, m + 2
    scored                 m   m   m   m                            D - 1 .. T - K - D: the same for every rule, wiring

The horizon counts from the newest frame m that can have reached an output (see horizon.py): counted from the output's
nominal frame, a network with skips would be asked for frames that it has seen. With `predict: change` the network says
what is to be added to frame m, and starts at nothing, so that training starts from copying the last frame.

`horizon: 0` is plain auto-encoding: the answer is frame m itself, as it is.

Shape legend: B clips, T frames, N outputs, K horizons (1 where `horizon` is 0), C channels, H and W height and width,
O = K * C channels of the network's output, horizon by horizon.
"""

from typing import Any

from lightning import Trainer
from torch import Tensor

from lightning_modules.execution import ClipGradients
from lightning_modules.execution.clip_loss import Loss
from lightning_modules.frame_losses import frame_loss
from lightning_modules.horizon import (
    check_horizon,
    context_lengths,
    horizons,
    newest_frames,
    predicted_frames,
    says_change,
    scored_outputs,
    shortest_scored_clip,
    target_frames,
    training_targets,
)
from lightning_modules.inputs import Inputs
from lightning_modules.metrics.frame_evaluation import NONE, VALIDATION, FrameEvaluation, protocols
from lightning_modules.metrics.frame_scores import check_window
from lightning_modules.metrics.frechet import feature_extractor
from lightning_modules.metrics.lpips import NETWORKS as LPIPS_NETWORKS
from lightning_modules.metrics.lpips import Lpips, check_pictures
from lightning_modules.networks import UnitNetwork, build_frame_predictor
from lightning_modules.networks.heads import DECODER
from lightning_modules.predicted_clips import PredictedClips
from lightning_modules.rules import Rule
from lightning_modules.video_task import Batch, VideoTask

SCHEMA = 1


class FutureFrames(VideoTask):
    """A network, a rule and an executor, trained to predict the next frames of a clip.

    Args:
        network: small_autoencoder, vgg8_autoencoder or resnet18_autoencoder.
        horizon: number of future frames that every output predicts; 0: plain auto-encoding.
        predict: change (from the newest frame that can have reached the output) or frame; without effect with
            horizon 0, which always answers with the frame.
        loss: mse, or l1_gdl (absolute error and gradient difference).
        lead: frames by which the target behind the gradients that the last unit sends back is newer than its output:
            rule sideways without a stash (see rules/sideways.py); 0 is Sideways as defined.
        saved_clips: test clips whose predictions are kept, the same in every run on the same data; 0 for none.
        lpips: none, alex or vgg: the network whose features the test compares besides.
        frechet: none, pixels, or the import path of a feature extractor for the test's Frechet distance.
        options: of every task, see `VideoTask`.

    Raises:
        ValueError: a combination that makes no sense, or a setting that would have no effect.
    """

    network: UnitNetwork
    score_metric = "val/mse"
    score_mode = "min"
    frame_targets = True
    heads = (DECODER,)
    rule_options = (*VideoTask.rule_options, "lead")

    def __init__(
        self,
        network: str = "small_autoencoder",
        horizon: int = 4,
        predict: str = "change",
        loss: str = "mse",
        lead: int = 0,
        saved_clips: int = 4,
        lpips: str = NONE,
        frechet: str = NONE,
        **options: Any,
    ) -> None:
        check_horizon(horizon, predict)
        if saved_clips < 0:
            raise ValueError(f"saved_clips is {saved_clips}; expected a number of test clips, 0 for none")
        if lpips not in (NONE, *LPIPS_NETWORKS):
            raise ValueError(f"lpips {lpips!r} is unknown; expected one of none, {', '.join(LPIPS_NETWORKS)}")
        if frechet != NONE:
            feature_extractor(frechet)
        super().__init__(**options)
        self._loss = frame_loss(loss)
        self._evaluation: FrameEvaluation | None = None
        self._lpips_is_there = False
        self.scored: dict[str, Any] = {}  # what the last evaluation's figures are about

    @property
    def horizon(self) -> int:
        """Number of future frames K; 0 for auto-encoding."""
        return int(self.hparams["horizon"])

    @property
    def predict(self) -> str:
        """What an output says: change or frame."""
        return str(self.hparams["predict"])

    def build_network(self) -> UnitNetwork:
        """Return an encoder-decoder with the channels of all predicted frames."""
        names = ("wiring", "in_channels", "width", "depth", "reach", "activation", "gradient_edges")
        return build_frame_predictor(
            self.hparams["network"],
            out_channels=len(horizons(self.horizon)) * self.hparams["in_channels"],
            zero_output=self.zero_start,
            **{name: self.hparams[name] for name in names},
        )

    @property
    def zero_start(self) -> bool:
        """Where outputs are changes, from none."""
        return says_change(self.horizon, self.predict)

    @property
    def loss(self) -> Loss:
        """The chosen loss of an output's frames."""
        return self._loss

    @property
    def min_frames(self) -> int:
        """Fewest frames of a clip with a scored frame, 2D - 1 + K: the same for every rule and wiring of D units."""
        return shortest_scored_clip(self.network.depth, self.horizon)

    @property
    def min_scored_frames(self) -> int:
        """As for training."""
        return self.min_frames

    def check_data(self, data: Any, trainer: Trainer, *, training: bool) -> None:
        """Refuse streams, frames that the network cannot halve or a metric cannot take, and clips that are too short.

        Before training also a lead beyond the clips' end, and a metric of the test whose weights are not there.

        Raises:
            ValueError: with the reason, and what to use instead.
        """
        if getattr(data, "stream", False):
            raise ValueError(
                f"stream with FutureFrames: a clip's last {self.horizon} frames are its targets, which no piece of a "
                "stream may read ahead; use --data.stream false"
            )
        super().check_data(data, trainer, training=training)
        clips = getattr(data, "clip_options", data)
        if (size := getattr(clips, "size", None)) is not None:
            self._check_size(int(size), int(size))
            check_window(int(size), int(size))
            if training and self.hparams["lpips"] != NONE:
                check_pictures(self.hparams["lpips"], self.hparams["in_channels"], int(size), int(size))
        if (frames := getattr(clips, "frames", None)) is not None:
            self._check_frames(int(frames))
            if training:
                self._check_lead(int(frames))
        if training and self.hparams["lpips"] != NONE and not self._lpips_is_there:
            Lpips(self.hparams["lpips"], horizons(self.horizon))  # which fails in a second now, or after the training
            self._lpips_is_there = True

    def _check_size(self, height: int, width: int) -> None:
        multiple = self.network.frame_multiple
        if height % multiple or width % multiple:
            near = max(1, round(max(height, width) / multiple)) * multiple
            raise ValueError(
                f"frames of {height} x {width} pixels: network {self.hparams['network']!r} halves and doubles them, "
                f"which needs multiples of {multiple}; use --data.size {near}"
            )

    def _check_frames(self, frames: int) -> None:
        if frames < self.min_frames:
            raise ValueError(
                f"clips of {frames} frames: {self.network.depth} units and horizon {self.horizon} need at least "
                f"2 x {self.network.depth} - 1 + {self.horizon} = {self.min_frames} to have a frame that is scored; "
                f"use --data.frames {self.min_frames} or more, or a smaller --model.horizon"
            )

    def _check_lead(self, frames: int) -> None:
        """Refuse a lead with which even the first output's message would be about the clip's last target."""
        wiring, lead = self.network.wiring, self.hparams["lead"]
        last = frames - self.horizon - 1 - (wiring.length - wiring.lmin)  # the lead from the first target to the last
        if lead and lead >= last:
            raise ValueError(
                f"lead {lead} with clips of {frames} frames, whose last target is {last} frames newer than the first "
                f"(horizon {self.horizon}, {wiring.depth} units, wiring {wiring.name!r}): all gradients sent back "
                f"would be about that one; use --model.lead {max(0, last - 1)} or less, or longer clips"
            )

    def inputs(self, batch: Batch, rule: Rule | None = None) -> Inputs:
        """Return the first T - K frames of the clips, and for each nominal frame what the network should say.

        What an output can be asked for depends on the rule: in the pipeline on what the skips have brought.
        """
        video_BTCHW = batch["video"]
        self._check_size(*video_BTCHW.shape[-2:])
        self._check_frames(video_BTCHW.shape[1])
        first = int(newest_frames(rule or self.rule, self.network.wiring, 1)[0])
        targets_BTOHW = training_targets(
            video_BTCHW, first, batch["length"], horizon=self.horizon, predict=self.predict
        )
        context_BTCHW = video_BTCHW[:, : video_BTCHW.shape[1] - self.horizon]
        return Inputs(context_BTCHW, targets_BTOHW, context_lengths(batch["length"], self.horizon))

    def batch_figures(self, result: ClipGradients, batch: Batch) -> dict[str, Tensor]:
        """Return the batch's loss."""
        return {} if result.loss is None else {"train/loss": result.loss}

    def _evaluate(self, batch: Batch) -> PredictedClips | None:
        """Score a batch; return the clips where the outputs are found, None in other stages, or of no clips."""
        if not len(batch["label"]):
            return None
        floats, inputs = self.read(batch)
        output_BNOHW = self.answers(floats, inputs).logits_BNK
        if output_BNOHW is None:
            return None
        clips = self._predicted(batch, floats["video"], output_BNOHW)
        if self._evaluation is not None:
            b, n = output_BNOHW.shape[:2]
            losses_BN = self.loss(output_BNOHW.flatten(0, 1), inputs.targets[:, :n].flatten(0, 1)).view(b, n)
            self._evaluation.update(clips, floats["video"], losses_BN)
        return clips

    def _predicted(self, batch: Batch, video_BTCHW: Tensor, output_BNOHW: Tensor) -> PredictedClips:
        horizon, newest_N = self.horizon, newest_frames(self.rule, self.network.wiring, output_BNOHW.shape[1])
        scored_BN = scored_outputs(newest_N, batch["length"], depth=self.network.depth, horizon=horizon)
        return PredictedClips(
            clip_ids=list(batch["clip_id"]),
            labels=self._class_names(batch["label"]),
            context_BTCHW=video_BTCHW,
            lengths_B=batch["length"],
            newest_N=newest_N,
            target_BNKCHW=target_frames(video_BTCHW, newest_N, horizon),
            prediction_BNKCHW=predicted_frames(
                output_BNOHW.to(video_BTCHW), video_BTCHW, newest_N, horizon=horizon, predict=self.predict
            ),
            scored_BN=scored_BN,
        )

    def _class_names(self, label_B: Tensor) -> list[str]:
        names = getattr(self.trainer.datamodule, "class_names", [])  # type: ignore[attr-defined]
        return [str(names[i]) if 0 <= i < len(names) else "" for i in label_B.tolist()]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score a batch of validation clips."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> PredictedClips | None:  # type: ignore[override]
        """Score a batch of test clips, and return them with their predictions."""
        return self._evaluate(batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> PredictedClips | None:
        """Return the clips with their predictions, in every process."""
        clips = self._evaluate(batch)
        return clips if self.team.stages == 1 else self.team.from_output(clips)

    def on_validation_epoch_start(self) -> None:
        """Forget the last evaluation."""
        self._evaluation = FrameEvaluation(self.horizon, every_baseline=False)

    def on_test_epoch_start(self) -> None:
        """Forget the last evaluation."""
        extra = {name: self.hparams[name] for name in ("lpips", "frechet")}
        self._evaluation = FrameEvaluation(self.horizon, every_baseline=True, **extra)

    def on_predict_epoch_start(self) -> None:
        """Score nothing: whoever takes the predictions does."""
        self._evaluation = None

    def _figures(self) -> dict[str, float]:
        """Return the figures over the clips of all processes, the same in every one of them."""
        found = None
        if self.team.has_output:
            assert self._evaluation is not None
            first, *others = self.team.from_all_clips(self._evaluation)
            for other in others:
                first.merge(other)
            found = (first.figures(), first.about())
        figures, self.scored = self.team.from_output(found)
        return figures

    def on_validation_epoch_end(self) -> None:
        """Log the validation figures, means over all horizons."""
        figures = self._figures()
        self.log_dict({f"val/{name}": figures[name] for name in VALIDATION if name in figures}, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        """Log the test figures, of each horizon and over all of them."""
        self.log_dict({f"test/{name}": value for name, value in self._figures().items()})

    def artifact(self) -> dict[str, Any]:
        """Return what the figures of a test are about, plain values: the artifact `future_frames.json`."""
        return {
            "schema": SCHEMA,
            "horizons": horizons(self.horizon),
            "predict": self.predict if self.horizon else "frame",
            "lmin": self.network.wiring.lmin,
            "depth": self.network.depth,
            "scored_frames": "newest frames D-1 to l-K-D of each clip of l frames, counted from 0",
            "protocols": protocols(self.hparams["lpips"], self.hparams["frechet"]),
            **self.scored,
        }
