"""Layers with a state or a backward pass of their own: the vector quantiser."""

from lightning_modules.layers.vector_quantiser import Packed, VectorQuantiser

__all__ = ["Packed", "VectorQuantiser"]
