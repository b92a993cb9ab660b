"""Pools of accelerators: facts read from nodes, the inventory of what is free, the `GPUPool` controller.

Belongs here: everything between the API's nodes, pods and ResourceSlices and the fleet that placement searches.
Does not belong here: where a gang goes (`operators.placement`), pods of a deployment (`operators.serving`).
"""
