"""Tuning on a cluster: trials as pods, and the `TuningJob` resource.

Belongs here: what trial pods look like and where they may run, what a TuningJob's controller decides. Does not belong
here: what is measured and searched (`tuner`), the database (`controlplane.store`).
"""
