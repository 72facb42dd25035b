"""Everything that an evaluation of long streams reports: of the answers, and of the steps that a detector chose.

    answers --update--> loss, share right (of numbers the squared error), what a guess would score
    hits --update_choices--> the detector's precision and recall

Shape legend: B lanes, A answers (steps that are scored), K outputs.
"""

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.utilities import dim_zero_cat

from lightning_modules.memory.questions import Question


class LongAnswers(nn.Module):
    """Counts of one evaluation, none of which enter a checkpoint.

    Args:
        question: what is asked.

    Attributes:
        confusion: which class was taken for which; of numbers it stays empty.
    """

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.question = question
        self.mean_loss, self.share_right, self.precision, self.recall = (MeanMetric() for _ in range(4))
        self.numbers = CatMetric()
        self.confusion = MulticlassConfusionMatrix(max(question.outputs, 2))
        self._scored = self._missing = 0
        self._said: set[tuple[str, bool]] = set()

    def reset(self) -> None:
        """Forget the last evaluation."""
        for metric in (self.mean_loss, self.share_right, self.precision, self.recall, self.numbers, self.confusion):
            metric.reset()
        self._scored = self._missing = 0

    def update(self, outputs_BAK: Tensor, targets_BA: Tensor, scored_BA: Tensor) -> None:
        """Add what is said at scored steps; where the target asks nothing it does not count.

        Args:
            outputs_BAK: what is said.
            targets_BA: what is right.
            scored_BA: which of them are scored steps, bool; lanes have different numbers.
        """
        asked_BA = self.question.is_asked(targets_BA)
        scored = int(scored_BA.sum())
        self._scored += scored
        self._missing += scored - int(asked_BA.sum())
        outputs, targets = outputs_BAK[asked_BA], targets_BA[asked_BA]
        self.mean_loss.update(self.question.loss(outputs, targets))
        if self.question.outputs > 1:
            self.share_right.update((outputs.argmax(-1) == targets).float())
            self.confusion.update(outputs, targets)
        else:
            self.numbers.update(targets)

    def update_choices(self, hits_B: Tensor, chosen_B: Tensor, answers_B: Tensor) -> None:
        """Add what a detector chose, see `first_choices.hits_of`; streams without choices or answers do not count."""
        for metric, of_B in ((self.precision, chosen_B), (self.recall, answers_B)):
            if (of_B > 0).any():
                metric.update((hits_B / of_B)[of_B > 0])

    def has_figures(self, stage: str, *, required: bool) -> bool:
        """Return whether anything was scored; warn, once for each stage, of scored steps that have no target.

        Args:
            stage: test or validation.
            required: whether it is an error where nothing was.

        Raises:
            ValueError: nothing was, and it is required.
        """
        some = self._missing < self._scored
        if not some and required:
            raise ValueError(self._nothing(stage))
        if (self._missing or not some) and (stage, some) not in self._said:
            self._said.add((stage, some))
            rank_zero_warn(self._some_missing(stage) if some else f"{self._nothing(stage)}. It has no figures")
        return some

    def _nothing(self, stage: str) -> str:
        if not self._scored:
            return (
                f"{stage} has nothing to score: its streams name no step as an answer, or none of them was read. Name "
                "the steps that are scored, and read more of it (--trainer.limit_{}_batches)"
            ).format("val" if stage == "validation" else stage)
        return (
            f"{stage} has nothing to score: none of {self._scored:,} scored steps has a target. Name steps as answers "
            "that have one, or give them a target (y)"
        )

    def _some_missing(self, stage: str) -> str:
        return (
            f"{self._missing:,} of {self._scored:,} scored steps of the {stage} streams have no target: figures are of "
            "the others alone. Name steps as answers that have one, or give them a target (y)"
        )

    def figures(self, *, chance: bool) -> dict[str, Tensor]:
        """Return the figures by name: `loss`, `top1` or of numbers `mse`, `chance`, `detector_precision`, ...

        Args:
            chance: whether to say what a guess without memory scores.
        """
        found = {"loss": self.mean_loss.compute()}
        if self.question.outputs > 1:
            found["top1"] = self.share_right.compute()
        else:
            found["mse"] = self.mean_loss.compute()
        if chance:
            found["chance"] = self.chance()
        if self.precision.update_called:
            found |= {"detector_precision": self.precision.compute(), "detector_recall": self.recall.compute()}
        return found

    def chance(self) -> Tensor:
        """Return what a guess without memory scores at best: always the commonest class, its share of the answers.

        Of numbers it is the mean, and its squared error their variance.
        """
        if self.question.outputs > 1:
            answers_K = self.confusion.compute().sum(1)
            return answers_K.max() / answers_K.sum()
        return dim_zero_cat(self.numbers.compute()).var(correction=0)
