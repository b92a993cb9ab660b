"""How many pods and accelerators one replica of a choice takes. Pure arithmetic over the catalogue."""

from dataclasses import dataclass

from controlplane.catalog import Accelerator
from controlplane.model.serving import AcceleratorChoice

DEFAULT_CPU_MILLICORES = 1000


@dataclass(frozen=True, slots=True)
class Shape:
    """One replica: `ranks` engine processes' worth of accelerators in `pods` equal pods."""

    ranks: int
    pods: int
    ranks_per_pod: int
    units_per_pod: int  # accelerators; millicores for a CPU

    @property
    def divides(self) -> bool:
        """Whether the ranks fill the pods exactly."""
        return self.pods * self.ranks_per_pod == self.ranks


def ranks_of(choice: AcceleratorChoice) -> int:
    """Accelerators of one replica: tensor x pipeline x data parallel. Experts are spread over ranks that exist."""
    return choice.tensor_parallel * choice.pipeline_parallel * choice.data_parallel


def resolve(choice: AcceleratorChoice, accelerator: Accelerator) -> Shape:
    """Pods of a replica: `acceleratorsPerPod` as written, else the fewest equal pods that fit a full node.

    A CPU, and an accelerator whose node size no document states, takes all ranks in one pod. The result may not
    divide (`divides`); `validate` says so with the numbers.
    """
    ranks = ranks_of(choice)
    per_pod = choice.accelerators_per_pod
    if per_pod is None:
        node = accelerator.accelerators_per_node
        per_pod = ranks if accelerator.kind == "cpu" or node is None else _largest_equal_part(ranks, node)
    per_pod = min(per_pod, ranks)
    units = per_pod
    if accelerator.kind == "cpu":
        units = per_pod * (choice.cpu_millicores or DEFAULT_CPU_MILLICORES)
    return Shape(ranks=ranks, pods=-(-ranks // per_pod), ranks_per_pod=per_pod, units_per_pod=units)


def _largest_equal_part(ranks: int, limit: int) -> int:
    return next(part for part in range(min(ranks, limit), 0, -1) if ranks % part == 0)
