"""Recurrent memories: an LSTM or a GRU whose state is one small tensor a lane, carried from rollout to rollout.

Legend: B lanes, N steps, F features, L layers, H memory.

    rollout 0              rollout 1
    x x x x x x  detached  x x x x x x  detached
    m>m>m>m>m>m -- state ->m>m>m>m>m>m -- state ->      gradients stay inside a rollout (methods.md section 6)
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

State = dict[str, Tensor]

_NETWORKS: dict[str, tuple[type[nn.LSTM] | type[nn.GRU], tuple[str, ...]]] = {
    "lstm": (nn.LSTM, ("h", "c")),
    "gru": (nn.GRU, ("h",)),
}
# Rows of torch's gates: an LSTM has input, forget, cell, output; a GRU has reset, update (which keeps), new.
_INPUT, _KEEP = 0, 1


class Recurrent(nn.Module):
    """A recurrent memory m_t = g(m_{t-1}, x_t) (methods.md section 6).

    It runs in its weights' precision under autocast too [D]: a state is carried over thousands of steps, and rounding
    to half precision at each rollout's end would wear it off.

    Args:
        kind: "lstm" or "gru".
        inputs: features of an input.
        hidden: features of the memory.
        layers: stacked networks.
        forget_bias: what the bias of the gate that keeps (an LSTM's forget gate, a GRU's update gate) begins with;
            torch's own beginning where None.

    Raises:
        ValueError: another kind, or a size below 1.
    """

    def __init__(
        self,
        kind: Literal["lstm", "gru"],
        inputs: int,
        hidden: int,
        layers: int = 1,
        forget_bias: float | None = None,
    ) -> None:
        super().__init__()
        if kind not in _NETWORKS:
            raise ValueError(f"memory {kind!r}, expected 'lstm' or 'gru'")
        for name, value in (("inputs", inputs), ("hidden", hidden), ("layers", layers)):
            if value < 1:
                raise ValueError(f"{name}={value} of a {kind} memory, expected at least 1; give {name}=1 or more")
        network, self._names = _NETWORKS[kind]
        self.kind, self.inputs, self.hidden, self.layers = kind, inputs, hidden, layers
        self.network = network(inputs, hidden, layers, batch_first=True)
        if forget_bias is not None:
            for layer in range(layers):
                self._set_gate(layer, _KEEP, torch.full((hidden,), float(forget_bias)))

    def forward(self, x_BNF: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, State]:
        """Return the last layer's memory after each step, (B, N, H), and the state after the last one.

        Args:
            x_BNF: inputs, at least one step.
            state: what `initial` or an earlier call returned: "h" and, of an LSTM, "c", each (B, L, H).
        """
        dtype = self._dtype
        parts = [state[name].to(dtype).transpose(0, 1).contiguous() for name in self._names]
        with torch.autocast(x_BNF.device.type, enabled=False):
            out_BNH, last = self.network(x_BNF.to(dtype), tuple(parts) if self.kind == "lstm" else parts[0])
        ends = last if self.kind == "lstm" else (last,)
        return out_BNH, {name: end.transpose(0, 1) for name, end in zip(self._names, ends, strict=True)}

    def initial(self, batch: int, like: Tensor) -> State:
        """Return the state before the first step of streams: zeros, of the weights' type, on the device of `like`."""
        zeros = torch.zeros(batch, self.layers, self.hidden, dtype=self._dtype, device=like.device)
        return {name: zeros.clone() for name in self._names}

    def chrono(self, longest: int, generator: torch.Generator | None = None) -> None:
        """Set the gates' biases for memories of up to `longest` steps: log of a draw from U(1, longest - 1).

        Tallec and Ollivier 2018 (arXiv 1804.11188), section 2: each unit begins to forget over about as many steps as
        it drew; an LSTM's input gate gets the opposite. In every layer [D].

        Args:
            longest: steps.
            generator: on the CPU; torch's own where None.

        Raises:
            ValueError: fewer than 3 steps.
        """
        if longest < 3:
            raise ValueError(f"chrono biases for {longest} steps, expected at least 3: the longest gap, in steps")
        for layer in range(self.layers):
            uniform = torch.rand(self.hidden, generator=generator)
            keep = (1 + uniform * (longest - 2)).log()
            self._set_gate(layer, _KEEP, keep)
            if self.kind == "lstm":
                self._set_gate(layer, _INPUT, -keep)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @torch.no_grad()
    def _set_gate(self, layer: int, gate: int, bias_H: Tensor) -> None:
        rows = slice(gate * self.hidden, (gate + 1) * self.hidden)
        getattr(self.network, f"bias_ih_l{layer}")[rows] = bias_H
        getattr(self.network, f"bias_hh_l{layer}")[rows] = 0  # torch adds the two


def reset(state: Mapping[str, Tensor], rows_B: Tensor) -> State:
    """Return a state with zeros in these lanes (bool), whatever they held; the others go on."""
    return {
        name: part.masked_fill(rows_B.to(part.device).reshape(-1, *[1] * (part.dim() - 1)), 0)
        for name, part in state.items()
    }


def detached(state: Mapping[str, Tensor]) -> State:
    """Return a state through which no gradient goes back into the rollout that made it."""
    return {name: part.detach() for name, part in state.items()}
