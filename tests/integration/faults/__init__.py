"""What must hold when parts fail: operator, API server, nodes, engines, and the network between them.

Operators run as local processes against the real cluster, where killing and freezing them is easy; an installed one is
scaled away meanwhile. Other tests of the real cluster are beside this folder.
"""
