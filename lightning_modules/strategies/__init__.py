"""Placement on devices: the depth-parallel strategy and its parts."""
