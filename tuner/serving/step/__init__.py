"""Step times: how long one iteration of an engine takes.

Belongs here: the table every replay reads (`table.py`), its sources (measured tables, roofline), the ladder that picks
among them, the store on disk. Does not belong here: scheduling, queueing, corrections fitted to whole runs.
"""
