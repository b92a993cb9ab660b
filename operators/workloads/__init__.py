"""Pods as the operator sees them: the projected pod, quantities, and (later) backends that own pods.

Belongs here: what every controller that reads or owns pods shares. Does not belong here: placement decisions
(`operators.placement`), node facts (`operators.pools`), anything about one custom resource.
"""
