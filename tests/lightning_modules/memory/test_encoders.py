"""Encoders: which of them learn, from what, and that their features and gradients are the network's own."""

from types import SimpleNamespace

import pytest
import torch
from toy_memory import CPU, Held, seeded

from lightning_modules.execution import clip_gradients
from lightning_modules.long_memory import LongMemory, load_encoder
from lightning_modules.memory.encoders import FrameEncoder, SymbolEncoder, VectorEncoder
from lightning_modules.memory.questions import IGNORE, Classes
from lightning_modules.memory.reading import read_run
from lightning_modules.memory.recurrent import detached
from lightning_modules.memory.rollout import each_step_loss, memup_loss
from lightning_modules.memory.selectors import TopK
from lightning_modules.networks import build_network

D, K, E = 3, 4, 3
KINDS = ["frozen", "detached", "sideways", "joint"]


def network(wiring="chain", outputs=K + E, seed=0):
    torch.manual_seed(seed)
    options = {"in_channels": 1, "depth": D, "width": 0.25, "pool": "max"}
    return build_network("small_cnn", num_classes=outputs, wiring=wiring, **options)


def encoder(kind, wiring="chain"):
    return FrameEncoder(network(wiring), kind, Classes(K))


def lanes_of(steps=9):
    frames = torch.randint(256, (2, steps, 1, 8, 8), dtype=torch.uint8, generator=seeded(1))
    return Held(frames, torch.randint(K, (2, steps), generator=seeded(2)))


def normed(x):
    """Mean 0 and variance 1 of the last dimension."""
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_a_symbol_is_one_number_of_many():
    assert SymbolEncoder(4)(torch.tensor([[2, 0]])).tolist() == [[[0, 0, 1, 0], [1, 0, 0, 0]]]


def test_a_vector_is_as_it_is():
    x = torch.randn(2, 3, 5, generator=seeded(0))
    assert torch.equal(VectorEncoder(5)(x), x)


@pytest.mark.parametrize("features", [1, 16, 400])
def test_a_memory_reads_numbers_around_1_of_vectors_of_any_width(features):
    """At unit scale a vector of 400 numbers was embedded as numbers around 20, which close every gate."""
    torch.manual_seed(0)
    module = LongMemory(num_classes=2, in_channels=features, input_kind="vectors")
    x = torch.randn(8, 32, features, generator=seeded(0))
    with torch.no_grad():
        embedded = module.network.embedding(module.encoder(x))
    assert 0.8 < embedded.square().mean().sqrt() < 1.25


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_what_the_network_says_of_each_frame(kind):
    """A chain's pipeline says it D - 1 ticks later: the frames that are read beyond the last."""
    made, x = encoder(kind), lanes_of().x_BT
    assert made.ahead == (D - 1 if kind == "sideways" else 0)
    assert made.features == K + E
    with torch.no_grad():
        want = normed(torch.stack([made.network(x[:, t].float() / 255) for t in range(9 - made.ahead)], 1))
    torch.testing.assert_close(made(x), want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made(x.float() / 255), made(x))


def test_skips_bring_newer_frames_and_none_beyond_those_that_are_read():
    """A feature of frame t changes with the frames t to t + D - 1 alone."""
    made, x = encoder("sideways", "dense"), lanes_of().x_BT
    features = made(x)
    for changed in range(9):
        other = x.clone()
        other[:, changed] = 255 - other[:, changed]
        moved = (made(other) != features).any(-1).any(0).nonzero().flatten().tolist()
        assert set(moved) <= set(range(changed - D + 1, changed + 1))
        assert changed not in range(7) or changed in moved
    assert made(x).shape == (2, 9 - D + 1, K + E)


@pytest.mark.parametrize(("kind", "rule"), [("detached", "backprop_frame"), ("sideways", "sideways")])
@pytest.mark.parametrize("wiring", ["chain", "concat"])
def test_what_it_learns_alone_is_the_rules_gradient_of_each_frames_own_target(kind, rule, wiring):
    made, lanes = encoder(kind, wiring), lanes_of()
    lengths = torch.tensor([9, 6])
    loss, gradients = made.own_gradients(lanes.x_BT, lanes.y_BT, lengths)

    def answers(outputs, targets):
        return torch.nn.functional.cross_entropy(outputs[..., :K].flatten(0, -2), targets.flatten(), reduction="none")

    frames = lanes.x_BT.float() / 255
    want = clip_gradients(made.network, frames, lanes.y_BT, rule=rule, lengths_B=lengths, loss=answers)
    torch.testing.assert_close(loss, want.loss)
    torch.testing.assert_close(gradients, want.gradients)
    assert set(gradients) == {name for name, _ in made.network.named_parameters()}


def test_detached_learns_what_autograd_says():
    made, lanes = encoder("detached"), lanes_of()
    lanes.y_BT[0, 3:7] = IGNORE
    loss, gradients = made.own_gradients(lanes.x_BT, lanes.y_BT, torch.tensor([9, 9]))
    outputs = made.network(lanes.x_BT.flatten(0, 1).float() / 255)[:, :K]
    want = torch.nn.functional.cross_entropy(outputs, lanes.y_BT.flatten(), ignore_index=IGNORE, reduction="sum") / 18
    torch.testing.assert_close(loss, want)
    found = torch.autograd.grad(want, list(made.network.parameters()))
    for (name, _), gradient in zip(made.network.named_parameters(), found, strict=True):
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_projections_stay_as_they_were_drawn():
    """No target asks for them: the rows of the last layer that give them get no gradient."""
    for kind in ("detached", "sideways"):
        made, lanes = encoder(kind), lanes_of()
        _, gradients = made.own_gradients(lanes.x_BT, lanes.y_BT, torch.tensor([9, 9]))
        rows = [g for name, g in gradients.items() if name.startswith(f"units.{D - 1}.") and len(g) == K + E]
        assert rows
        assert all(g[:K].any() and not g[K:].any() for g in rows)


def module_of(kind, **options):
    torch.manual_seed(0)
    sizes = {"hidden": 8, "context_width": 8, "predictor_width": 8, "rollout": 4, "k": 2, "detector": "surprise"}
    frames = {"network": "small_cnn", "depth": D, "width": 0.25, "projections": E}
    return LongMemory(K, 1, "frames", encoder=kind, **{**sizes, **frames, **options})


def memory_loss(module, rule, lanes):
    """One rollout's loss, from the first of four steps; a chosen step lies beyond."""
    run = read_run(module.encoder, lanes, torch.tensor([0, 0]), 4, CPU)
    start_B, length_B = torch.zeros(2, dtype=torch.int64), torch.full((2,), 4)
    state = module.network.memory.initial(2, run.features)
    if rule == "truncated_backprop":
        return each_step_loss(module.network, module.question, run=run, state=state, length_B=length_B).loss
    uncertainty_BT = torch.arange(9.0).repeat(2, 1)
    found = memup_loss(
        module.network,
        module.encoder,
        module.question,
        TopK(2),
        lanes=lanes,
        run=run,
        state=detached(state),
        start_B=start_B,
        length_B=length_B,
        moments_M=torch.tensor([3]),
        uncertainty=uncertainty_BT,
    )
    return found.loss


@pytest.mark.parametrize("rule", ["memup", "truncated_backprop"])
@pytest.mark.parametrize("kind", KINDS)
def test_memory_sends_gradients_into_a_joint_encoder_and_no_other(kind, rule):
    module, lanes = module_of(kind), lanes_of()
    memory_loss(module, rule, lanes).backward()
    got = [p.grad is not None and bool(p.grad.any()) for p in module.encoder.parameters()]
    assert all(got) if kind == "joint" else not any(got)


@pytest.mark.parametrize("rule", ["memup", "truncated_backprop"])
def test_a_joint_encoders_gradient_is_that_of_finite_differences(rule):
    """Along a random direction of its weights, in float64."""
    module, lanes = module_of("joint").double(), lanes_of()
    lanes.x_BT = lanes.x_BT.double() / 255
    weights = list(module.encoder.parameters())
    along = [torch.randn(p.shape, generator=seeded(i), dtype=p.dtype) for i, p in enumerate(weights)]
    gradients = torch.autograd.grad(memory_loss(module, rule, lanes), weights)
    slope = sum((g * v).sum() for g, v in zip(gradients, along, strict=True))

    def moved(by):
        with torch.no_grad():
            torch._foreach_add_(weights, along, alpha=by)
            loss = memory_loss(module, rule, lanes)
            torch._foreach_add_(weights, along, alpha=-by)
        return loss

    step = 1e-6
    torch.testing.assert_close(slope, (moved(step) - moved(-step)) / (2 * step), rtol=1e-4, atol=1e-7)
    assert slope.abs() > 1e-4


def optimised(module):
    """The optimizer's groups by name, as sets of parameters."""
    module._trainer = SimpleNamespace(estimated_stepping_batches=1, num_training_batches=4, max_epochs=1, max_steps=-1)
    groups = module.configure_optimizers()["optimizer"].param_groups
    return {group["name"]: {id(p) for p in group["params"]} for group in groups}


@pytest.mark.parametrize("kind", KINDS)
def test_each_weight_that_learns_is_in_one_group_and_no_other_in_any(kind):
    module = module_of(kind, detector="entropy")
    groups = optimised(module)

    def numbers(*parts):
        return {id(p) for part in parts for p in part.parameters()}

    own, network = numbers(module.encoder), module.network
    wanted = {
        "memory": numbers(network.embedding, network.memory) | (own if kind == "joint" else set()),
        "predictor": numbers(network.context, network.predictor),
        "local_model": numbers(module.local_model),
    }
    if kind in ("detached", "sideways"):
        wanted["encoder"] = own
    assert groups == wanted


def saved(path, made, prefix="network."):
    torch.save({"state_dict": {prefix + name: value for name, value in made.state_dict().items()}}, path)
    return path


def test_an_encoders_checkpoint_gives_all_units_and_of_the_last_layer_the_answers(tmp_path):
    trained, made = network(outputs=K, seed=5), network()
    fresh = {name: p.detach().clone() for name, p in made.named_parameters()}
    load_encoder(made, saved(tmp_path / "last.ckpt", trained))
    given = dict(trained.named_parameters())
    for name, p in made.named_parameters():
        rows = len(given[name])
        assert torch.equal(p[:rows], given[name])
        assert torch.equal(p[rows:], fresh[name][rows:])
    assert any(len(p) != len(given[name]) for name, p in made.named_parameters())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"width": 0.5}, r"units.0.* is \(.*\) here and \(.*\) there; give --model.network, wiring, width, depth"),
        ({"depth": D - 1}, r"units.\d.* here and"),
        ({"depth": D + 1}, r"units.\d.* here and"),
        ({"num_classes": K + E + 1}, r"units.2.* here and"),
        ({"in_channels": 3}, r"units.0.* here and"),
    ],
)
def test_the_checkpoint_of_another_network_is_refused(other, message, tmp_path):
    options = {"num_classes": K, "in_channels": 1, "depth": D, "width": 0.25, "pool": "max", "wiring": "chain"}
    path = saved(tmp_path / "last.ckpt", build_network("small_cnn", **{**options, **other}))
    with pytest.raises(ValueError, match=message):
        load_encoder(network(), path)


def test_a_checkpoint_of_no_network_and_no_checkpoint_are_refused(tmp_path):
    with pytest.raises(ValueError, match="here and nothing there"):
        load_encoder(network(), saved(tmp_path / "last.ckpt", network(), prefix="other."))
    with pytest.raises(ValueError, match=r"no\.ckpt: there is no such file; name a last.ckpt that `fit` wrote"):
        load_encoder(network(), tmp_path / "no.ckpt")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"broken\.ckpt"):
        load_encoder(network(), broken)
