"""Action recognition: one label for a clip, learned under any rule, wiring and executor.

The loss is taken at every tick that has an output; a clip's score is the mean of the softmax over these ticks, a
video's the mean over its views. Where videos come as streams, consecutive clips with the pipeline's state kept between
them (a batch has a `piece`), a video's score is the mean over all ticks of the whole video.

Shape legend: B clips, T frames, C channels, H and W height and width, N ticks with an output, K classes.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_modules.execution import ClipAnswers, ClipGradients
from lightning_modules.execution.clip_loss import Loss, cross_entropy, first_loss_tick
from lightning_modules.execution.schedule import shortest_clip
from lightning_modules.inputs import Inputs
from lightning_modules.metrics.module_scores import ModuleScores
from lightning_modules.metrics.video_scores import VideoScores, clip_scores, summed_scores
from lightning_modules.networks import ClipNetwork, UnitNetwork, build_network
from lightning_modules.rules import Rule
from lightning_modules.video_task import Batch, VideoTask


class ActionRecognition(VideoTask):
    """A network, a rule and an executor, trained to name the action in a clip.

    Args:
        num_classes: number of classes; the command line takes it from the data.
        network: small_cnn, vgg8, resnet18 (per frame), cnn3d or x3d (whole clips).
        pool: the head's pool over space, avg or max.
        options: of every task, see `VideoTask`.

    Raises:
        ValueError: a combination that makes no sense, or a setting that would have no effect.
    """

    score_metric = "val/top1"
    score_mode = "max"

    def __init__(self, num_classes: int, network: str = "small_cnn", pool: str = "avg", **options: Any) -> None:
        super().__init__(**options)
        self._video_scores, self._module_scores = VideoScores(), ModuleScores()
        top_k = min(5, num_classes)
        # The team brings all processes' scores together; torchmetrics would count them once for each process.
        self.top1 = MulticlassAccuracy(num_classes, average="micro", sync_on_compute=False)
        self.top5 = MulticlassAccuracy(num_classes, top_k=top_k, average="micro", sync_on_compute=False)
        self.confusion = MulticlassConfusionMatrix(num_classes, sync_on_compute=False)

    def build_network(self) -> UnitNetwork | ClipNetwork:
        """Return a network with one output a class."""
        names = ("wiring", "in_channels", "num_classes", "width", "depth", "reach", "pool", "activation")
        options = {name: self.hparams[name] for name in (*names, "gradient_edges")}
        return build_network(self.hparams["network"], **options)

    @property
    def loss(self) -> Loss:
        """Cross-entropy."""
        return cross_entropy

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
        return 1 if isinstance(self.network, ClipNetwork) else first_loss_tick(self.rule, self.network.wiring)

    def inputs(self, batch: Batch, rule: Rule | None = None) -> Inputs:
        """Return the clips, their labels and their lengths, the same under every rule."""
        return Inputs(batch["video"], batch["label"], batch["length"])

    def batch_figures(self, result: ClipGradients, batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracy of the batch."""
        if result.loss is None:
            return {}  # of modules with replay buffers the last one has not worked
        label_B = batch["label"] if result.targets is None else result.targets
        answered_B = result.valid_BN.any(1)
        if "piece" in batch and not answered_B.any():
            return {}  # a piece of warm-up, or of ended videos, has no loss
        scores_BK = clip_scores(result.logits_BNK, result.valid_BN)
        right_B = (scores_BK.argmax(-1) == label_B) & answered_B
        top1 = right_B.sum() / answered_B.sum().clamp_min(1)
        return {"train/loss": result.loss, "train/top1": top1}

    def scores(self, batch: Batch) -> Tensor | None:
        """Return the score (B, K) of each clip; None where the outputs are found in another stage.

        Of a stream's pieces: the sum of the softmax over the ticks, so that pieces add up to videos.
        """
        logits_BNK, valid_BN, _ = self._outputs(batch)
        return None if logits_BNK is None else self._scores(batch, logits_BNK, valid_BN)

    def _scores(self, batch: Batch, logits_BNK: Tensor, valid_BN: Tensor) -> Tensor:
        return summed_scores(logits_BNK, valid_BN) if "piece" in batch else clip_scores(logits_BNK, valid_BN)

    def _outputs(self, batch: Batch) -> ClipAnswers:
        """Return outputs (B, N, K), None where they are found in another stage, which count (B, N), and modules'."""
        logits_BNK, valid_BN, modules = self.answers(*self.read(batch))
        if logits_BNK is not None and not logits_BNK.shape[1]:
            logits_BNK = logits_BNK.new_zeros(*valid_BN.shape, self.hparams["num_classes"])
        return ClipAnswers(logits_BNK, valid_BN, modules)

    def _evaluate(self, batch: Batch) -> None:
        logits_BNK, valid_BN, modules = self._outputs(batch)
        if logits_BNK is not None:
            self._video_scores.update(self._scores(batch, logits_BNK, valid_BN), batch["label"], batch["video_index"])
        scores = {j: self._scores(batch, *answer[1:]) for j, answer in modules.items() if answer.logits_BNK.shape[1]}
        self._module_scores.update(scores, batch["label"], batch["video_index"])

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
        for name, top1 in self._all_modules().top1().items():
            self.log(f"{stage}/top1/{name}", top1)

    def _all_modules(self) -> ModuleScores:
        """Return the scores of all processes' modules, in every one of them; nothing where modules do not answer."""
        everything = ModuleScores()
        if self._module_scores:
            for part in self.team.from_all_clips(self._module_scores):
                everything.merge(part)
            for part in self.team.from_all_stages(everything):
                everything.merge(part)
        return everything

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
        logits_BNK, valid_BN, _ = self._outputs(batch)
        assert logits_BNK is not None
        video_index_B, going = batch["video_index"], batch["length"] > 0
        sums_BK = summed_scores(logits_BNK, valid_BN)
        self._video_scores.update(sums_BK[going], batch["label"][going], video_index_B[going])
        ended = batch["last"].nonzero().flatten().tolist()
        waits = self.min_scored_frames - 1
        first_N = max(0, batch["start"] - waits) + torch.arange(valid_BN.shape[1])
        about = int(batch["length"].max()) if isinstance(self.network, ClipNetwork) else 1
        return {
            "clip_id": [batch["clip_id"][lane] for lane in ended],
            "label": batch["label"][ended].cpu(),
            "scores": self._video_scores.take([int(video_index_B[lane]) for lane in ended]),
            "answers": logits_BNK.softmax(-1).cpu(),
            "answered": valid_BN.cpu(),
            "answered_frames": torch.stack([first_N, first_N + about], 1),
        }

    def _start_evaluation(self) -> None:
        self._video_scores, self._module_scores = VideoScores(), ModuleScores()
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
