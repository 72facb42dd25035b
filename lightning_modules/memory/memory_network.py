"""The network that remembers: memory over features, and the predictor with the local context that it reads.

    x_t --encoder--> features --embedding--> memory m_t -.
                         `------> context c_k ----------> q(y_k | c_k, m_t)          methods.md section 6 [C]

Shape legend: B lanes, N steps, M moments, K chosen steps, F features, H memory, C context.
"""

from torch import Tensor, nn

from lightning_modules.memory.local_model import LocalContext
from lightning_modules.memory.predictor import Predictor
from lightning_modules.memory.recurrent import Recurrent, State
from lightning_modules.memory.window_transformer import WindowTransformer

MEMORIES = ("lstm", "gru", "transformer")


class MemoryNetwork(nn.Module):
    """Memory, local context and predictor; the encoder stands beside it.

    Args:
        features: F.
        memory: g.
        context: of a step that is predicted.
        predictor: q.
        input_scale: standard deviation of the embedding's first weights, such that it gives numbers around 1: torch's
            own would whisper one number of many into the gates [D].
    """

    def __init__(
        self,
        features: int,
        memory: Recurrent | WindowTransformer,
        context: LocalContext,
        predictor: Predictor,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(features, memory.inputs)
        nn.init.normal_(self.embedding.weight, std=input_scale)
        self.memory, self.context, self.predictor = memory, context, predictor

    def remember(self, features_BNF: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the memories (B, N, H) after each step, and the state.

        Args:
            features_BNF: of the steps, and of W - 1 before them.
            state: of the memory before the first step.
        """
        return self.memory(self.embedding(features_BNF[:, self.context.window - 1 :]), state)

    def at_each_step(self, features_BNF: Tensor, state: State) -> tuple[Tensor, Tensor, State]:
        """Return what is said of each step from its own memory: outputs (B, N, K), memories (B, N, H) and the state.

        Args:
            features_BNF: of the steps, and of W - 1 before them.
            state: of the memory before the first step.
        """
        memory_BNH, state = self.remember(features_BNF, state)
        return self.predictor(self.context(features_BNF), memory_BNH), memory_BNH, state

    def of_chosen(self, windows: Tensor, where_BMK: Tensor, memory_BMH: Tensor) -> Tensor:
        """Return what memories say of chosen steps: outputs (B, M, K, ...).

        Args:
            windows: features (B * J, W, F) that end at J different steps of each lane.
            where_BMK: which of the J each moment has chosen.
            memory_BMH: of the moments.
        """
        context_BJC = self.context(windows).view(len(memory_BMH), -1, self.context.width)
        at = where_BMK.flatten(1)[..., None].expand(-1, -1, self.context.width)
        context = context_BJC.gather(1, at).view(*where_BMK.shape, -1)
        return self.predictor(context, memory_BMH[:, :, None])
