"""Calibration: from predicted and measured to corrected, with an interval.

Belongs here: loaders of measured rows, splits, corrections that hold on unseen groups, intervals, refits from a user's
own measurements, scores. Does not belong here: step tables and the replay themselves.
"""
