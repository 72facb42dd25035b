"""Recurrent memories against their equations written out, across rollouts, lanes, resets and precisions."""

import io
import math

import pytest
import torch

from lightning_modules.memory.recurrent import Recurrent, detached, reset

KINDS = ["lstm", "gru"]
B, N, F, H, L = 3, 7, 4, 5, 2


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(kind, layers=L, **options):
    torch.manual_seed(0)
    return Recurrent(kind, F, H, layers, **options).double()


def inputs(steps=N, seed=1):
    return torch.randn(B, steps, F, dtype=torch.float64, generator=seeded(seed))


def by_equations(memory, x_BNF):
    """The published equations, step by step and layer by layer, from the weights of `memory`."""
    weights = {name.removeprefix("network."): value for name, value in memory.named_parameters()}
    out_BNH = x_BNF
    for layer in range(memory.layers):
        w_x, w_h, b_x, b_h = (weights[f"{name}_l{layer}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = torch.zeros(len(x_BNF), memory.hidden, dtype=x_BNF.dtype)
        steps = []
        for x in out_BNH.unbind(1):
            from_x, from_h = x @ w_x.T + b_x, h @ w_h.T + b_h
            if memory.kind == "lstm":
                i, f, g, o = (from_x + from_h).chunk(4, -1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            else:
                (x_r, x_z, x_n), (h_r, h_z, h_n) = from_x.chunk(3, -1), from_h.chunk(3, -1)
                z = (x_z + h_z).sigmoid()
                h = z * h + (1 - z) * (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
            steps.append(h)
        out_BNH = torch.stack(steps, 1)
    return out_BNH


def gradients(memory, out):
    weights = out.cos()  # any function that tells the outputs apart
    return torch.autograd.grad(weights.sum(), list(memory.parameters()), allow_unused=True)


def run(memory, x_BNF, lengths, between=lambda state: state):
    """Run x in pieces of these lengths; `between` is done to the state after each."""
    state, outs = memory.initial(len(x_BNF), x_BNF), []
    for piece in x_BNF.split(lengths, 1):
        out, state = memory(piece, state)
        outs.append(out)
        state = between(state)
    return torch.cat(outs, 1), state


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_those_of_the_equations(kind):
    memory, x = make(kind), inputs()
    out, want = run(memory, x, [N])[0], by_equations(memory, x)
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(gradients(memory, out), gradients(memory, want))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [[3, 4], [1] * N, [6, 1]])
def test_a_stream_in_pieces_is_the_whole_stream(kind, lengths):
    memory, x = make(kind), inputs()
    (whole, end), (pieces, own_end) = run(memory, x, [N]), run(memory, x, lengths)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(own_end, end)
    torch.testing.assert_close(gradients(memory, pieces), gradients(memory, whole))


@pytest.mark.parametrize("kind", KINDS)
def test_a_detached_state_ends_gradients_and_changes_no_number(kind):
    memory, x = make(kind), inputs().requires_grad_()
    whole, cut = run(memory, x, [4, 3])[0], run(memory, x, [4, 3], detached)[0]
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)
    (through,) = torch.autograd.grad(whole[:, 4:].sum(), x, retain_graph=True)
    (own,) = torch.autograd.grad(cut[:, 4:].sum(), x, retain_graph=True)
    assert through[:, :4].abs().sum() > 0
    assert own[:, :4].abs().sum() == 0
    torch.testing.assert_close(own[:, 4:], through[:, 4:])


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_has_its_lanes_first(kind):
    memory, x = make(kind), inputs()
    state = run(memory, x, [N])[1]
    assert sorted(state) == (["c", "h"] if kind == "lstm" else ["h"])
    assert {part.shape for part in state.values()} == {(B, L, H)}
    torch.testing.assert_close(state["h"][:, -1], run(memory, x, [N])[0][:, -1])
    rows = torch.tensor([2, 0])
    some = memory(x[rows], {name: part[rows] for name, part in state.items()})[0]
    torch.testing.assert_close(some, memory(x, state)[0][rows])


@pytest.mark.parametrize("kind", KINDS)
def test_reset_lanes_begin_anew_and_others_go_on(kind):
    memory, x, later = make(kind), inputs(), inputs(seed=2)
    state = run(memory, x, [N])[1]
    state["h"][1, 0, 0] = math.nan  # a lane that failed is healed
    rows = torch.tensor([False, True, False])
    went_on = memory(later, state)[0]
    out = memory(later, reset(state, rows))[0]
    anew = memory(later, memory.initial(B, later))[0]
    torch.testing.assert_close(out[1], anew[1])
    torch.testing.assert_close(out[[0, 2]], went_on[[0, 2]])
    assert state["h"][1].isnan().any(), "changed the state that it was given"


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_goes_through_a_reset(kind):
    memory, x = make(kind), inputs().requires_grad_()
    out = run(memory, x, [4, 3], lambda state: reset(state, torch.tensor([True, False, True])))[0]
    (grad,) = torch.autograd.grad(out[:, 4:].sum(), x)
    assert (grad[:, :4].abs().sum((1, 2)) > 0).tolist() == [False, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_survives_a_checkpoint(kind):
    memory, x = make(kind), inputs()
    state = detached(run(memory, x, [N])[1])
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    torch.testing.assert_close(memory(x, torch.load(file))[0], memory(x, state)[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_the_memory_keeps_its_precision(kind):
    memory, x = make(kind).float(), inputs().float()
    with torch.autocast("cpu", torch.bfloat16):
        out, state = run(memory, x.bfloat16(), [3, 4])
    want, end = run(memory, x.bfloat16().float(), [3, 4])
    assert {part.dtype for part in (out, *state.values())} == {torch.float32}
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(state, end)


@pytest.mark.parametrize("kind", KINDS)
def test_the_state_is_of_the_weights_type_whatever_the_input(kind):
    memory = make(kind)
    for like in (torch.zeros(1, dtype=torch.uint8), torch.zeros(1), torch.zeros(1, dtype=torch.int64)):
        assert {part.dtype for part in memory.initial(2, like).values()} == {torch.float64}


# Gates


def gate_biases(memory, layer):
    """Return what the gates add up to, (gates, H): torch's two biases of a layer."""
    network = memory.network
    both = getattr(network, f"bias_ih_l{layer}") + getattr(network, f"bias_hh_l{layer}")
    return both.detach().view(-1, memory.hidden)


@pytest.mark.parametrize("kind", KINDS)
def test_forget_bias_keeps_memories(kind):
    """With a large bias of the gate that keeps, what was put in stays: with the smallest one it is gone in a step."""
    x = torch.zeros(B, 50, F, dtype=torch.float64)
    for bias, factor in ((20.0, 1.0), (-20.0, 0.0)):
        memory = make(kind, layers=1, forget_bias=bias)
        assert (gate_biases(memory, 0)[1] == bias).all()
        with torch.no_grad():  # only the biases of that gate speak: nothing new is written
            memory.network.weight_hh_l0.zero_()
            for row in (0, 2, 3) if kind == "lstm" else (0, 2):
                memory.network.bias_ih_l0.view(-1, H)[row] = memory.network.bias_hh_l0.view(-1, H)[row] = 0
        held = {name: torch.ones_like(part) for name, part in memory.initial(B, x).items()}
        after = memory(x, held)[1]["c" if kind == "lstm" else "h"]
        torch.testing.assert_close(after, torch.full_like(after, factor), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_forget_bias_the_weights_are_torchs(kind):
    memory = make(kind)
    torch.manual_seed(0)
    want = (torch.nn.LSTM if kind == "lstm" else torch.nn.GRU)(F, H, L, batch_first=True).double()
    torch.testing.assert_close(memory.network.state_dict(), want.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_chrono_spreads_times_evenly_up_to_the_longest(kind):
    longest = 500
    memory = Recurrent(kind, 2, 1000, 2)
    before = [gate_biases(memory, layer) for layer in range(2)]
    memory.chrono(longest, seeded())
    for layer in range(2):
        gates = gate_biases(memory, layer)
        times = gates[1].exp()
        assert 1 <= times.min() < 5
        assert longest - 6 < times.max() <= longest - 1
        assert times.mean() == pytest.approx(longest / 2, rel=0.05)
        if kind == "lstm":
            torch.testing.assert_close(gates[0], -gates[1])
        untouched = [2, 3] if kind == "lstm" else [0, 2]
        torch.testing.assert_close(gates[untouched], before[layer][untouched], rtol=0, atol=0)
    assert not torch.equal(gate_biases(memory, 0)[1], gate_biases(memory, 1)[1])
    again = Recurrent(kind, 2, 1000, 2)
    again.chrono(longest, seeded())
    assert torch.equal(gate_biases(again, 0)[1], gate_biases(memory, 0)[1])


def test_chrono_lets_a_gradient_arrive_from_far():
    """At 200 steps from the loss the first input's gradient is many orders of magnitude larger."""

    def first_gradient(memory):
        x = torch.randn(2, 200, 4, generator=seeded()).double().requires_grad_()
        out, _ = memory(x, memory.initial(2, x))
        return torch.autograd.grad(out[:, -1].sum(), x)[0][:, 0].norm().item()

    torch.manual_seed(0)
    plain, chrono = (Recurrent("lstm", 4, 32).double() for _ in range(2))
    chrono.chrono(200, seeded())
    assert first_gradient(chrono) > 1e6 * first_gradient(plain)


# Errors


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="memory 'rnn', expected 'lstm' or 'gru'"):
        Recurrent("rnn", 2, 3)


@pytest.mark.parametrize("name", ["inputs", "hidden", "layers"])
def test_a_size_of_none_is_refused(name):
    sizes = {"inputs": 2, "hidden": 3, "layers": 1} | {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 of a gru memory, expected at least 1; give {name}=1 or more"):
        Recurrent("gru", **sizes)


@pytest.mark.parametrize("longest", [2, 0, -5])
def test_chrono_of_no_time_is_refused(longest):
    with pytest.raises(ValueError, match=f"chrono biases for {longest} steps, expected at least 3"):
        make("lstm").chrono(longest)
