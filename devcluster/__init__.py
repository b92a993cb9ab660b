"""A real Kubernetes cluster on one Debian machine: what `make up` and `make down` drive.

Belongs here: building the cluster's programs and images, its network namespace, its processes, its real and simulated
nodes, and the steps that install Trimtab into it. Does not belong here: anything Trimtab itself needs at run time. No
import root depends on this package, and it depends on none of them: the standard library of Python 3.11 is enough, so
that a fresh machine can run it before anything is installed.
"""
