"""A network cut into modules that learn by losses of their own: heads, and quantisers of what modules send.

Decoupled Greedy Learning (arXiv 1901.08164, methods.md section 4). Units are put together in J modules; every module
but the last gets a head, which answers from the module's output what the network is asked for, and keeps its own last
unit:

    unit      1     2  |  3     4  |  5     6                modules 2,2,2
              `---> h  |  `---> h  |  `---> answer           h: head; what crosses a bar is detached, perhaps quantised

A head belongs to its module's last unit, a quantiser to the unit whose output it quantises: so do their parameters, and
with them learning rate, clipping, stage and place in a checkpoint.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lightning_modules.layers.vector_quantiser import VectorQuantiser
from lightning_modules.networks.clip_network import ClipNetwork
from lightning_modules.networks.heads import check_known, make_head
from lightning_modules.networks.unit_network import UnitNetwork


@dataclass(frozen=True)
class LocalModules:
    """How a network is cut into modules.

    Args:
        modules: how many, or the number of units in each (of blocks, where a network takes whole clips), the lowest
            first; None: every unit is one, but the last, which stays with the unit below it.
        head: kind of the heads, see heads.py.
        head_width: multiplies the heads' hidden channels.
        activation: of the heads.
        zero: decoders start at zero.
        vq_groups: groups of channels, each with a codebook, in what modules send; 0: it is sent as it is.
        vq_codes: codes in each codebook.
        vq_decay: share of the past in the codebooks' running means.
    """

    modules: int | Sequence[int] | None = None
    head: str = "mlp-sr"
    head_width: float = 0.25
    activation: str = "relu"
    zero: bool = False
    vq_groups: int = 0
    vq_codes: int = 256
    vq_decay: float = 0.99


_UNUSED = {
    "modules": None,
    "head": None,
    "head_width": LocalModules.head_width,
    "vq_groups": LocalModules.vq_groups,
    "vq_codes": LocalModules.vq_codes,
    "vq_decay": LocalModules.vq_decay,
}


def cut_for_rule(
    network: UnitNetwork | ClipNetwork,
    options: Mapping[str, Any],
    *,
    local: bool,
    heads: Sequence[str],
    zero: bool = False,
) -> None:
    """Cut a network into modules as a rule with local losses needs it; of other rules nothing may be chosen.

    Args:
        network: is changed.
        options: `LocalModules`'s, by name; a head that is absent is the first of `heads`.
        local: whether the rule's losses are local.
        heads: kinds that give what the task asks for.
        zero: heads start at saying 0 everywhere.

    Raises:
        ValueError: a head of another kind, an option without effect, or what `cut_into_modules` raises.
    """
    if not local:
        for name, default in _UNUSED.items():
            if options[name] != default:
                raise ValueError(
                    f"{name} {options[name]!r} with a rule whose losses are not local; use rule 'greedy', or leave "
                    f"{name} out"
                )
        return
    head = options["head"] or heads[0]
    check_known(head, heads)
    if head not in heads:
        raise ValueError(f"head {head!r} does not give what this task asks for; expected one of {', '.join(heads)}")
    names = ("modules", "head_width", "activation", "vq_groups", "vq_codes", "vq_decay")
    cut_into_modules(network, LocalModules(head=head, zero=zero, **{name: options[name] for name in names}))


def module_sizes(
    modules: int | Sequence[int] | None, units: int, *, without_classifier: bool = False
) -> tuple[int, ...]:
    """Return the number of units in each module, the lowest first.

    A number of modules cuts the units evenly, lower modules first in what is left over; the last unit, a classifier or
    the convolution that gives frames, stays with the one below it unless every unit is to be a module (methods.md
    section 4: the last unit keeps the real classifier [C]).

    Args:
        modules: their number, their sizes, or None: as many as possible.
        units: of the network.
        without_classifier: these are the blocks of a network of whole clips, and its classifier is not counted.

    Raises:
        ValueError: a number or sizes that the network does not have.
    """
    parts, classifier = ("blocks", 0) if without_classifier else ("units", 1)
    if modules is None:
        modules = max(1, units - classifier)
    if not isinstance(modules, int):
        sizes = tuple(modules)
        if not sizes or min(sizes) < 1 or sum(sizes) != units:
            number = min(max(1, len(sizes)), units)
            even = list(module_sizes(number, units, without_classifier=without_classifier))
            raise ValueError(
                f"modules {list(sizes)} have {sum(sizes)} {parts}, the network has {units}, at least 1 a module; give "
                f"numbers that add up to {units}, such as {even}, or the number of modules"
            )
        return sizes
    if isinstance(modules, bool) or not 1 <= modules <= units:
        raise ValueError(
            f"modules {modules} of a network of {units} {parts}; expected 1 to {units}, or a size for each"
        )
    if modules == units:
        return (1,) * units
    each, over = divmod(units - classifier, modules)
    sizes = tuple(each + (number < over) for number in range(modules))
    return (*sizes[:-1], sizes[-1] + classifier)


def cut_into_modules(network: UnitNetwork | ClipNetwork, local: LocalModules) -> None:
    """Put a network's units together in modules, with heads and quantisers; weights that were there stay.

    Raises:
        ValueError: modules, heads or codebooks that the network cannot have, or a network that cannot be cut.
    """
    if isinstance(network, ClipNetwork):
        _cut_clip_network(network, local)
        return
    if network.wiring.gradients != "all":
        raise ValueError(
            f"gradient_edges {network.wiring.gradients!r} with a greedy rule, whose gradients stay inside modules; "
            "leave gradient_edges out"
        )
    sizes = module_sizes(local.modules, network.depth)
    _check_codes(local, len(sizes))
    network.wiring = replace(network.wiring, modules=sizes, gradients="local")
    answers = network.channels[-1]
    for module in range(1, len(sizes) + 1):
        if module < len(sizes):
            top = network.module_units(module)[-1]
            network.unit(top).head = make_head(
                local.head,
                network.channels[top],
                answers,
                width=local.head_width,
                act=local.activation,
                zero=local.zero,
            )
        for unit in network.module_outputs(module):
            network.unit(unit).quantiser = _quantiser(network.channels[unit], local)


def _cut_clip_network(network: ClipNetwork, local: LocalModules) -> None:
    if not network.blocks:
        raise ValueError("this network takes whole clips and does not say its blocks; use network 'cnn3d' or 'x3d'")
    sizes = module_sizes(local.modules, len(network.blocks), without_classifier=True)
    _check_codes(local, len(sizes))
    network.sizes = sizes
    answers = network.head.out_features
    for module in range(1, len(sizes)):
        channels = network.module_channels(module)
        network.heads.append(
            make_head(local.head, channels, answers, width=local.head_width, act=local.activation, clip=True)
        )
        if (quantiser := _quantiser(channels, local)) is not None:
            network.quantisers.append(quantiser)


def _check_codes(local: LocalModules, modules: int) -> None:
    """Refuse options of codebooks where there are none."""
    if local.vq_groups and modules == 1:
        raise ValueError(
            f"vq_groups {local.vq_groups} with one module, which sends nothing; leave vq_groups out, or use modules 2 "
            "or more"
        )
    if not local.vq_groups and (local.vq_codes, local.vq_decay) != (LocalModules.vq_codes, LocalModules.vq_decay):
        raise ValueError(
            f"vq_codes {local.vq_codes} and vq_decay {local.vq_decay} without vq_groups; use vq_groups 1 or more, "
            "or leave them out"
        )


def _quantiser(channels: int, local: LocalModules) -> VectorQuantiser | None:
    if not local.vq_groups:
        return None
    return VectorQuantiser(channels, local.vq_groups, local.vq_codes, decay=local.vq_decay)


@contextmanager
def codebooks_kept(network: UnitNetwork | ClipNetwork) -> Iterator[None]:
    """Undo what the codebooks learn inside the block, for gradients that are only looked at."""
    quantisers = [part for part in network.modules() if isinstance(part, VectorQuantiser)]
    before = [{name: value.clone() for name, value in part.state_dict().items()} for part in quantisers]
    try:
        yield
    finally:
        for part, state in zip(quantisers, before, strict=True):
            part.load_state_dict(state)
