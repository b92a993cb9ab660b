"""Label, annotation and taint keys that Trimtab writes or reads on objects it owns."""

from controlplane.model.resource import GROUP

DEPLOYMENT = f"{GROUP}/deployment"  # pods, Services, PodDisruptionBudgets: name of the ServingDeployment
REVISION = f"{GROUP}/revision"  # pods: hash of what the pod is rendered from, placement excluded
REPLICA = f"{GROUP}/replica"  # pods: slot number of the replica
RANK = f"{GROUP}/rank"  # pods: position inside the replica; rank 0 answers requests
LEADER = f"{GROUP}/leader"  # pods: "true" on rank 0, the Service selects it
POOL = f"{GROUP}/pool"  # pods: GPUPool the replica was placed in
ACCELERATOR = f"{GROUP}/accelerator"  # pods: catalogue id
ROLE = f"{GROUP}/role"  # pods of a split deployment: Prefill or Decode
ENGINE = f"{GROUP}/engine"  # pods: catalogue id of the engine
ROUTER = f"{GROUP}/router"  # pods of a router: name of the ServingDeployment it stands in front of
TUNING_JOB = f"{GROUP}/tuning-job"  # pods of trials: id of the tuning job
TRIAL = f"{GROUP}/trial"  # pods of trials: number of the trial. Whatever carries it measures
ATTEMPT = f"{GROUP}/attempt"  # pods of trials: which attempt of the trial it is
INSTALLATION = f"{GROUP}/installation"  # pods of trials: namespace of the release whose workers look after them

UNITS = f"{GROUP}/units"  # pod annotation: accelerators (millicores for a CPU) the pod was placed with
ENGINE_CONFIG = f"{GROUP}/engine-config"  # pod annotation: the engine's configuration file, mounted by the downward API
CHOICE = f"{GROUP}/choice"  # pod annotation: index of the accelerator choice at creation
RENDERED = f"{GROUP}/rendered"  # annotation of routing objects: hash of what was applied

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY_VALUE = "trimtab"

QUARANTINE_TAINT = f"{GROUP}/quarantine"  # node taint: nothing new is placed here
POOL_FINALIZER = f"{GROUP}/pool-in-use"  # GPUPool: deletion waits while replicas are placed in it
