"""The parts of `skip-sideways compare`: a grid of rows x folds x seeds, run, resumed, summarised and reported.

spec -> grid -> estimate -> pool of workers -> store (results.json) -> statistics -> summary -> report (results.md)
"""
