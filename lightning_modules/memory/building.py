"""Builds the parts of a long memory, and the optimizer's groups of them, as its settings ask.

    encoder --> network (memory, local context, predictor)         every rule
       |           '--> followers --.
       '--> local model ------------+--> detector, selector        MemUP

Settings are hyperparameters by name, as `LongMemory` documents them and `check_settings` has let them pass.
"""

from lightning_modules.memory.detectors import Detector, EntropyDetector, OracleDetector, SurpriseDetector
from lightning_modules.memory.encoders import Encoder, FrameEncoder, SymbolEncoder, VectorEncoder
from lightning_modules.memory.followers import Followers
from lightning_modules.memory.local_model import LocalContext, LocalModel
from lightning_modules.memory.memory_network import MemoryNetwork
from lightning_modules.memory.predictor import Predictor
from lightning_modules.memory.questions import Question
from lightning_modules.memory.recurrent import Recurrent
from lightning_modules.memory.selectors import Composite, CurrentStep, GumbelTopK, Selector, TopK
from lightning_modules.memory.settings import Settings, looks_ahead
from lightning_modules.memory.window_transformer import WindowTransformer
from lightning_modules.networks import UnitNetwork, build_network


def make_encoder(hp: Settings, question: Question) -> Encoder:
    """Return what gives the features of steps."""
    if hp["input_kind"] == "symbols":
        return SymbolEncoder(hp["in_channels"])
    if hp["input_kind"] == "vectors":
        return VectorEncoder(hp["in_channels"])
    answers = question.outputs + hp["projections"]
    options = {name: hp[name] for name in ("wiring", "in_channels", "width", "depth", "pool")}
    network = build_network(hp["network"], num_classes=answers, **options)
    assert isinstance(network, UnitNetwork)
    return FrameEncoder(network, hp["encoder"], question)


def make_network(hp: Settings, encoder: Encoder, question: Question) -> MemoryNetwork:
    """Return memory, local context and predictor."""
    memory: Recurrent | WindowTransformer
    if hp["memory"] == "transformer":
        memory = WindowTransformer(hp["hidden"], hp["hidden"], hp["layers"], hp["window"] or hp["rollout"])
    else:
        memory = Recurrent(hp["memory"], hp["hidden"], hp["hidden"], hp["layers"])
        if hp["chrono"]:
            memory.chrono(hp["chrono"])
    context = LocalContext(encoder.features, hp["context"], hp["context_width"])
    predictor = Predictor(hp["context_width"], hp["hidden"], hp["predictor_width"], question.outputs)
    return MemoryNetwork(encoder.features, memory, context, predictor, encoder.scale)


def make_local_model(hp: Settings, encoder: Encoder, question: Question) -> LocalModel | None:
    """Return what says how uncertain a step is without memory; None where nothing asks for its entropy."""
    if not (looks_ahead(hp) and hp["detector"] == "entropy"):
        return None
    return LocalModel(encoder.features, hp["context"], hp["context_width"], question.local_outputs)


def make_followers(hp: Settings, network: MemoryNetwork) -> Followers | None:
    """Return the network's slow copies; None where nothing asks for their surprise."""
    return Followers(network, hp["ema_decay"]) if looks_ahead(hp) and hp["detector"] == "surprise" else None


def make_detector(
    hp: Settings, question: Question, local_model: LocalModel | None, followers: Followers | None
) -> Detector | None:
    """Return what tells how uncertain steps are; None where nothing asks."""
    if local_model is not None:
        return EntropyDetector(local_model, question)
    if followers is not None:
        return SurpriseDetector(followers.copy, question)
    return OracleDetector(question) if looks_ahead(hp) else None


def make_selector(hp: Settings) -> Selector:
    """Return what chooses the steps that moments predict."""
    k, select = hp["k"], hp["select"]
    if select == "gumbel_top_k":
        return GumbelTopK(k, hp["temperature"])
    if select == "current":
        return CurrentStep()
    return Composite([TopK(k), CurrentStep()]) if select == "top_k+current" else TopK(k)


def parameter_groups(
    hp: Settings, encoder: Encoder, network: MemoryNetwork, local_model: LocalModel | None
) -> list[dict[str, object]]:
    """Return the optimizer's groups, each with its learning rate: memory, predictor, local model and encoder."""
    memory = [*network.embedding.parameters(), *network.memory.parameters()]
    predictor = [*network.context.parameters(), *network.predictor.parameters()]
    own = [p for p in encoder.parameters() if p.requires_grad]
    if encoder.learns_jointly:
        memory += own
    local_lr = hp["lr"] if hp["local_lr"] is None else hp["local_lr"]
    groups: list[dict[str, object]] = [
        {"params": memory, "lr": hp["lr"] if hp["memory_lr"] is None else hp["memory_lr"], "name": "memory"},
        {"params": predictor, "lr": hp["lr"], "name": "predictor"},
    ]
    if local_model is not None:
        groups.append({"params": [*local_model.parameters()], "lr": local_lr, "name": "local_model"})
    if encoder.learns_alone:
        groups.append({"params": own, "lr": local_lr, "name": "encoder"})
    return groups
