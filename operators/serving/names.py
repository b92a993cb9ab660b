"""Names of the objects derived from a ServingDeployment, and the longest name that leaves room for them."""

from controlplane.model.resource import LABEL_VALUE_MAX

REVISION_DIGITS = 10
SLOT_DIGITS = 4
RANK_DIGITS = 3
GANG_SUFFIX = "-gang"
MPI_SECRET_SUFFIX = "-mpi-ssh"  # noqa: S105 - the name of a Secret, not its content

# A pod name is also the pod's host name (a DNS label) and the longest one is {name}-{revision}-{slot}-{rank}.
NAME_MAX = LABEL_VALUE_MAX - (1 + REVISION_DIGITS) - (1 + SLOT_DIGITS) - (1 + RANK_DIGITS)


def pod_name(deployment: str, revision: str, slot: int, rank: int) -> str:
    """The one name a replica's pod can have, so that a repeated create collides instead of duplicating."""
    return f"{deployment}-{revision}-{slot}-{rank}"


def gang_service_name(deployment: str) -> str:
    """Headless Service that gives the pods of a gang their host names."""
    return deployment + GANG_SUFFIX


def mpi_secret_name(deployment: str) -> str:
    """Secret of type kubernetes.io/ssh-auth that an MPI launcher reaches its worker pods with."""
    return deployment + MPI_SECRET_SUFFIX
