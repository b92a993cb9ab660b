"""Floor, services and roof: the words and facts, the doors to the outside, the loops and the faces.

`model` and `catalog` are the floor that every room stands on; `kube`, `store` and `bus` are services reached
through ports; everything else here is roof and may import the rooms. Rooms never import the roof.
"""
