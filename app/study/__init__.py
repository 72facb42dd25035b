"""The parts of `skip-sideways sweep`: a space whose trials Optuna chooses, run, resumed, summarised and reported.

space -> plan -> team of workers -> trial_run -> Optuna's storage -> summary -> report.md, sweep.json, best.yaml
"""
