"""Plans over several pools: stages on unlike accelerators behind unlike NICs, with layers per stage as they fit.

Belongs here: the space over pools, its bounds and its search. Does not belong here: what a plan costs (`staged.py`,
`memory.py`), one pool of equal nodes (`planner/search.py`).
"""
