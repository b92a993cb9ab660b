"""Pods on nodes, counted: what is free on how many nodes, and what is left when pods of one size are put there. Pure."""

from collections import Counter


def take(free: Counter[int], size: int, pods: int) -> int:
    """Puts pods of one size onto the nodes, fullest first, and returns how many are left over. `free`: nodes by what is
    free on them; changed in place. Largest size first this is exact where sizes divide each other, as powers of two do."""
    for room in sorted(one for one, nodes in free.items() if one >= size and nodes > 0):
        on_each = room // size
        full = min(free[room], pods // on_each)
        free[room] -= full
        free[room - on_each * size] += full
        pods -= full * on_each
        if 0 < pods < on_each and free[room] > 0:
            free[room] -= 1
            free[room - pods * size] += 1
            pods = 0
        if not pods:
            break
    return pods
