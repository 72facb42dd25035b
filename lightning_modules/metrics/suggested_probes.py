"""How many probes to take: so many that a sketch adds no more than the minibatch's own noise (methods.md section 5).

The squared error falls as 1 / r [D], so that errors measured with a few numbers of probes tell those with any other.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod, sqrt

from lightning_modules.layers.probes import Probes


def all_probes(probes: Probes, shape: Sequence[int]) -> int:
    """Return the probes that a share of 1 would mean: as many as there are numbers for them to cover.

    Args:
        probes: of this kind.
        shape: of one sample, (C, *S).
    """
    return prod(shape[1:]) if probes.a_channel else prod(shape)


def most_probes(probes: Probes, shape: Sequence[int]) -> int:
    """Return the most probes, of this kind and of `all_probes`, with which a sketch is smaller than its input."""
    counts = range(1, all_probes(probes, shape) + 1)
    return bisect_left(counts, 4 * prod(shape), key=lambda n: replace(probes, count=n).stored_bytes(shape[0]))


def one_probe_error(errors: Mapping[int, float]) -> float:
    """Return the error that one probe would have, from errors by number of probes: error^2 falls as 1 / r [D]."""
    return sqrt(sum(error**2 * probes for probes, error in errors.items()) / len(errors))


def suggest_probes(
    errors: Mapping[str, float], noises: Mapping[str, float], probes: Mapping[str, int], most: Mapping[str, int]
) -> dict[str, int]:
    """Return the fewest probes with which each convolution's error is at most the minibatch's noise [D].

    Args:
        errors: relative, measured with `probes`.
        noises: relative to the same norm.
        probes: by convolution.
        most: with which a sketch is smaller than the input; no more are suggested, and as many where there is no noise.
    """
    found = {}
    for name, error in errors.items():
        needed = probes[name] * (error / noises[name]) ** 2 if noises[name] else float(most[name])
        found[name] = min(max(1, ceil(round(needed, 6))), most[name])
    return found


def suggest_share(added: Mapping[str, float], floors: Mapping[str, float]) -> float:
    """Return the share of the inputs' numbers at which all sketches together add what is there anyway [D].

    At a share s of its numbers a convolution's sketch adds `added` / s to the squared error. 1 and more: no sketch is
    good enough.

    Args:
        added: squared error at share 1 by the law of `one_probe_error`, by convolution.
        floors: squared noise of exact gradients.
    """
    noise = sum(floors.values())
    return sum(added.values()) / noise if noise else float("inf")
