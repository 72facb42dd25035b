"""The windowed transformer: an exact window, the same outputs however a stream is cut, lanes that begin anew."""

import io

import pytest
import torch

from lightning_modules.memory.recurrent import detached, reset
from lightning_modules.memory.window_transformer import WindowTransformer

B, N, F, H = 3, 12, 4, 8


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make(window=4, layers=2, **options):
    torch.manual_seed(0)
    memory = WindowTransformer(F, H, layers, window, heads=2, **options).double()
    with torch.no_grad():
        memory.place_WH.normal_()  # so that a place makes a difference which tests can see
    return memory


def inputs(steps=N, seed=1):
    return torch.randn(B, steps, F, dtype=torch.float64, generator=seeded(seed))


def run(memory, x_BNF, lengths, between=lambda state: state):
    """Run x in pieces of these lengths; `between` is done to the state after each."""
    state, outs = memory.initial(len(x_BNF), x_BNF), []
    for piece in x_BNF.split(lengths, 1):
        out, state = memory(piece, state)
        outs.append(out)
        state = between(state)
    return torch.cat(outs, 1), state


def dependence(memory, x_BNF):
    """Return, (N, N), by how much each output of lane 0 depends on each input: norms of the gradients."""
    x_BNF = x_BNF.clone().requires_grad_()
    out, _ = run(memory, x_BNF, [x_BNF.shape[1]])
    rows = [torch.autograd.grad((out[0, n] ** 2).sum(), x_BNF, retain_graph=True)[0] for n in range(out.shape[1])]
    assert all(not row[1:].any() for row in rows), "lanes know of one another"
    return torch.stack([row[0].norm(dim=-1) for row in rows])


@pytest.mark.parametrize("window", [1, 2, 4, 12, 20])
@pytest.mark.parametrize("layers", [1, 3])
def test_an_output_depends_on_its_window_and_on_all_of_it(window, layers):
    found = dependence(make(window, layers), inputs()) > 0
    n, k = torch.arange(N)[:, None], torch.arange(N)
    assert torch.equal(found, (k <= n) & (n - k < window))


@pytest.mark.parametrize("layers", [1, 3])
def test_what_lies_before_the_window_changes_nothing(layers):
    memory, x = make(4, layers), inputs()
    other = torch.cat([inputs(seed=9)[:, :-4], x[:, -4:]], 1)
    torch.testing.assert_close(run(memory, other, [N])[0][:, -1], run(memory, x, [N])[0][:, -1], rtol=0, atol=1e-12)
    assert (run(memory, other, [N])[0][:, -2] - run(memory, x, [N])[0][:, -2]).abs().max() > 1e-3


@pytest.mark.parametrize("window", [1, 4, 9, 20])
@pytest.mark.parametrize("lengths", [[1] * N, [5, 7], [10, 2], [2, 3, 7]])
def test_a_stream_in_pieces_is_the_whole_stream(window, lengths):
    memory, x = make(window), inputs()
    (whole, end), (pieces, own_end) = run(memory, x, [N]), run(memory, x, lengths)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(own_end, end)
    found = torch.autograd.grad(pieces.cos().sum(), list(memory.parameters()), allow_unused=True)
    want = torch.autograd.grad(whole.cos().sum(), list(memory.parameters()), allow_unused=True)
    torch.testing.assert_close(found, want)


def test_an_output_is_a_plain_encoder_on_its_window():
    """torch's own encoder layers, given the same weights, on the inputs of one window at a time."""
    memory, x = make(window=5, layers=2), inputs()
    layers = []
    for block in memory.blocks:
        layer = torch.nn.TransformerEncoderLayer(
            H, 2, 4 * H, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ).double()
        attention = layer.self_attn
        with torch.no_grad():
            attention.in_proj_weight.copy_(torch.cat([block.query.weight, block.key_value.weight]))
            attention.in_proj_bias.copy_(torch.cat([block.query.bias, block.key_value.bias]))
        pairs = [(attention.out_proj, block.out), (layer.norm1, block.attention_norm)]
        pairs += [(layer.norm2, block.perceptron_norm)]
        pairs += [(layer.linear1, block.perceptron[0]), (layer.linear2, block.perceptron[2])]
        for own, theirs in pairs:
            own.load_state_dict(theirs.state_dict())
        layers.append(layer)
    out, _ = run(memory, x, [4, 8])
    for n in range(N):
        h = memory.embed(x[:, max(0, n - 4) : n + 1])
        W = h.shape[1]
        h = h + memory.place_WH[-W:]
        for layer in layers:
            h = layer(h, src_mask=torch.triu(torch.full((W, W), -torch.inf, dtype=h.dtype), 1))
        torch.testing.assert_close(out[:, n], memory.norm(h[:, -1]))


def test_positions_are_told_apart():
    """Two inputs that change places make another output, as a bag of inputs would not."""
    memory, x = make(window=4, layers=1), inputs(4)
    swapped = x[:, [1, 0, 2, 3]]
    assert (run(memory, x, [4])[0][:, -1] - run(memory, swapped, [4])[0][:, -1]).abs().min() > 1e-6


def test_where_in_the_stream_a_window_lies_makes_no_difference():
    memory, x = make(window=4), inputs()
    out, _ = run(memory, torch.cat([x, x], 1), [2 * N])
    torch.testing.assert_close(out[:, N + 3 :], out[:, 3:N])


def test_reset_lanes_begin_anew_and_others_go_on():
    memory, x, later = make(window=6), inputs(), inputs(seed=2)
    state = run(memory, x, [N])[1]
    rows = torch.tensor([False, True, False])
    went_on, anew = memory(later, state)[0], memory(later, memory.initial(B, later))[0]
    state["past"][1] = torch.nan  # a lane that failed is healed
    out, after = memory(later[:, :2], reset(state, rows))
    torch.testing.assert_close(out[1], anew[1, :2])
    torch.testing.assert_close(out[[0, 2]], went_on[[0, 2], :2])
    assert after["seen"].tolist() == [5, 2, 5]


def test_a_detached_state_ends_gradients_and_changes_no_number():
    memory, x = make(window=6), inputs().requires_grad_()
    whole, cut = run(memory, x, [8, 4])[0], run(memory, x, [8, 4], detached)[0]
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)
    (through,) = torch.autograd.grad(whole[:, 8:].cos().sum(), x, retain_graph=True)
    (own,) = torch.autograd.grad(cut[:, 8:].cos().sum(), x, retain_graph=True)
    assert through[:, 3:8].abs().sum() > 0
    assert own[:, :8].abs().sum() == 0
    torch.testing.assert_close(own[:, 8:], through[:, 8:])


def plain_attention(query, key, value, attn_mask):
    """Attention whose softmax over nothing is not a number, as some of torch's backends have it."""
    scores = query @ key.mT / query.shape[-1] ** 0.5
    return scores.masked_fill(~attn_mask, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("attention", [None, plain_attention])
def test_gradients_are_numbers_where_windows_are_not_full(attention, monkeypatch):
    memory, x = make(window=20), inputs(2)
    want, _ = run(memory, x, [2])
    if attention:
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    out, _ = run(memory, x, [2])
    torch.testing.assert_close(out, want)
    out.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in memory.parameters())


def test_gradients_are_right():
    memory, x = make(window=3, layers=2), inputs(5)[:1]
    assert torch.autograd.gradcheck(lambda x: run(memory, x, [2, 3])[0], x.requires_grad_(), fast_mode=True)


def test_the_state_holds_the_window_and_no_more():
    memory, x = make(window=4), inputs(50)
    state = detached(run(memory, x, [50])[1])
    assert torch.equal(state["past"], x[:, -3:])
    assert state["seen"].tolist() == [3] * B
    assert state["past"].untyped_storage().nbytes() == B * 3 * F * 8
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    torch.testing.assert_close(memory(x, torch.load(file))[0], memory(x, state)[0], rtol=0, atol=0)


def test_it_learns_to_recall_inside_the_window_and_cannot_beyond():
    """Say the sign that was shown 3 steps ago: with a window of 4 it is learned, with one of 3 it can't be."""

    def score(window):
        torch.manual_seed(0)
        memory, head = WindowTransformer(1, 16, 1, window, heads=2), torch.nn.Linear(16, 1)
        optimiser = torch.optim.Adam([*memory.parameters(), *head.parameters()], 1e-2)
        generator = seeded()
        for _ in range(60):
            signs = torch.randint(0, 2, (32, 12, 1), generator=generator).float()
            out, _ = memory(2 * signs - 1, memory.initial(32, signs))
            answers = head(out)[:, 3:]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(answers, signs[:, :-3])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return ((answers > 0) == signs[:, :-3].bool()).float().mean().item()

    assert score(4) > 0.99
    assert score(3) < 0.65


def test_runs_under_autocast():
    memory, x = make().float(), inputs().float()
    with torch.autocast("cpu", torch.bfloat16):
        out, state = run(memory, x, [5, 7])
    torch.testing.assert_close(out.float(), run(memory, x, [N])[0], rtol=0.1, atol=0.1)
    assert state["past"].dtype == torch.float32


# Errors


@pytest.mark.parametrize("name", ["inputs", "hidden", "layers", "window", "heads"])
def test_a_size_of_none_is_refused(name):
    sizes = {"inputs": 2, "hidden": 4, "layers": 1, "window": 3, "heads": 2} | {name: 0}
    with pytest.raises(ValueError, match=f"{name}=0 of a transformer, expected at least 1; give {name}=1 or more"):
        WindowTransformer(**sizes)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"3 heads for 8 hidden features, .*give heads=1 or another divisor of 8"):
        WindowTransformer(2, 8, heads=3)
