"""The sizes that both sides have: those of the public code's copy task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """The copy task and its training.

    Args:
        gap: blanks between the symbols and the question.
        symbols: that are to be remembered.
        lanes: streams of a batch.
        rollout: steps of an update.
        every: how often there is a prediction moment.
        chosen: steps that are predicted from a moment.
        hidden: units of a layer of the memory and of the local context, and numbers of a symbol's embedding.
        width: of the predictor's two hidden layers.
        layers: of the memory, and of the public code's local context.
        dropout: between them.
        learning_rate: of Adam.
    """

    gap: int
    symbols: int = 10
    lanes: int = 128
    rollout: int = 20
    every: int = 10
    chosen: int = 10
    hidden: int = 128
    width: int = 256
    layers: int = 2
    dropout: float = 0.1
    learning_rate: float = 2e-4

    @property
    def steps(self) -> int:
        """Steps of a stream."""
        return self.gap + 2 * self.symbols

    @property
    def rollouts(self) -> int:
        """Rollouts of a stream."""
        return -(-self.steps // self.rollout)
