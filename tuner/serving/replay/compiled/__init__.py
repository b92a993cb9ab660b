"""The compiled event loop of the replay.

Belongs here: functions that numba compiles, and the record layouts they share. Importing any module here but `layout`
imports numba, so callers import them inside functions (`tuner.serving.replay.load`). Does not belong here: anything a
user sees; the meaning of every rule is written out in plain Python in `tuner.serving.replay.reference`.
"""
