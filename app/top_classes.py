"""The most probable classes of an answer, and their columns in a csv file.

    class_1, probability_1, ..., class_k, probability_k

Shape legend: K classes.
"""

from collections.abc import Sequence

from torch import Tensor


class TopClasses:
    """Names the `top_k` most probable classes, or all where there are fewer.

    Args:
        class_names: by class index.
        top_k: as given with --top_k.

    Raises:
        ValueError: `top_k` below 1.
    """

    def __init__(self, class_names: Sequence[str], top_k: int) -> None:
        if top_k < 1:
            raise ValueError(f"--top_k is {top_k}; expected at least 1.")
        self.class_names, self.top_k = list(class_names), min(top_k, len(class_names))

    def head(self) -> list[str]:
        """Return the columns' names."""
        return [f"{name}_{i}" for i in range(1, self.top_k + 1) for name in ("class", "probability")]

    def best(self, scores_K: Tensor) -> list[tuple[str, float]]:
        """Return names and probabilities, the most probable first."""
        values, classes = scores_K.topk(self.top_k)
        return [(self.class_names[i], p) for i, p in zip(classes.tolist(), values.tolist(), strict=True)]

    def cells(self, scores_K: Tensor) -> list[str]:
        """Return the columns' cells."""
        return [cell for name, p in self.best(scores_K) for cell in (name, f"{p:.6f}")]
