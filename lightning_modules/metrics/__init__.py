"""Measurements: gradient health, memory and latency."""
