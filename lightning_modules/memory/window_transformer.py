"""The baseline that forgets: a causal transformer over the last `window` inputs and nothing before them [D].

Legend: B lanes, N steps, F features, W window, H memory, S = B * N windows.

    window 3     a  b  c  d  e        c from (a b c), d from (b c d), e from (c d e), each encoded by itself: were
                      [c]             lower layers shared between outputs, two layers would see five inputs back
                         [d]
                            [e]
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]
HEADS = 4


class WindowTransformer(nn.Module):
    """A stand-in for a recurrent memory, with the same calls: its state is the last window - 1 inputs.

    Positions are learned, one vector for each number of steps back from the output. Cost and memory grow as steps times
    window, those of the attention's masks as steps times its square.

    Args:
        inputs: features of an input.
        hidden: features of an output.
        layers: blocks of attention and perceptron, normalised before each.
        window: inputs that an output is made from, its own included.
        heads: of the attention; they divide `hidden`.

    Raises:
        ValueError: a size below 1, or heads that do not divide `hidden`.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 2, window: int = 16, heads: int = HEADS) -> None:
        super().__init__()
        sizes = {"inputs": inputs, "hidden": hidden, "layers": layers, "window": window, "heads": heads}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name}={value} of a transformer, expected at least 1; give {name}=1 or more")
        if hidden % heads:
            raise ValueError(
                f"{heads} heads for {hidden} hidden features, expected heads that divide them; give heads=1 or another "
                f"divisor of {hidden}"
            )
        self.inputs, self.hidden, self.layers, self.window = inputs, hidden, layers, window
        self.embed = nn.Linear(inputs, hidden)
        self.place_WH = nn.Parameter(0.02 * torch.randn(window, hidden))
        self.blocks = nn.ModuleList(_Block(hidden, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x_BNF: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        """Return an output for each step, (B, N, H), and the state after the last one.

        Args:
            x_BNF: inputs.
            state: what `initial` or an earlier call returned: "past" (B, W - 1, F), the latest last, and "seen" (B,)
                int64, how many of them there were.
        """
        B, N, _ = x_BNF.shape
        W = self.window
        all_BXF = torch.cat([state["past"].to(x_BNF.dtype), x_BNF], 1)
        windows_BNHW = self.embed(all_BXF).unfold(1, W, 1)
        h_SWH = windows_BNHW.permute(0, 1, 3, 2).reshape(B * N, W, self.hidden) + self.place_WH
        seen_BN = state["seen"].unsqueeze(1) + torch.arange(N, device=x_BNF.device)
        allowed_SWW = _causal(seen_BN.reshape(-1), W)
        for block in self.blocks[:-1]:
            h_SWH = block(h_SWH, allowed_SWW, W)
        last_SH = self.blocks[-1](h_SWH, allowed_SWW, 1).squeeze(1)
        # A clone: a view would carry the rollout's other inputs into the checkpoint.
        past_BWF = all_BXF[:, all_BXF.shape[1] - (W - 1) :].clone()
        out_BNH = self.norm(last_SH).view(B, N, self.hidden)
        return out_BNH, {"past": past_BWF, "seen": (state["seen"] + N).clamp(max=W - 1)}

    def initial(self, batch: int, like: Tensor) -> State:
        """Return the state before the first step of streams: no input seen, on the device of `like`."""
        past_BWF = torch.zeros(batch, self.window - 1, self.inputs, dtype=self.place_WH.dtype, device=like.device)
        return {"past": past_BWF, "seen": torch.zeros(batch, dtype=torch.int64, device=like.device)}


class _Block(nn.Module):
    """Attention and perceptron, each beside a path that skips it."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.query, self.key_value = nn.Linear(hidden, hidden), nn.Linear(hidden, 2 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.perceptron = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, h_SWH: Tensor, allowed_SWW: Tensor, asked: int) -> Tensor:
        """Return new features of the last `asked` places of each window."""
        normed_SWH = self.attention_norm(h_SWH)
        parts = (self.query(normed_SWH[:, -asked:]), *self.key_value(normed_SWH).chunk(2, -1))
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed_SWW[:, None, -asked:])
        h_SAH = h_SWH[:, -asked:] + self.out(mixed.transpose(1, 2).flatten(2))
        return h_SAH + self.perceptron(self.perceptron_norm(h_SAH))


def _causal(seen_S: Tensor, window: int) -> Tensor:
    """Return which places (last dimension) each place of a window may attend to: earlier ones that hold an input.

    A place without an input attends to itself: what it makes of that goes nowhere, and a softmax over nothing, whose
    gradient is not a number, does not arise.
    """
    place_W = torch.arange(window, device=seen_S.device)
    real_SW = window - 1 - place_W <= seen_S.unsqueeze(1)
    earlier_WW = place_W <= place_W.unsqueeze(1)
    return (earlier_WW & real_SW.unsqueeze(1)) | (place_W == place_W.unsqueeze(1))
