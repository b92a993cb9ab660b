"""The room that alone changes the cluster: controller runtime, controllers, pure placement.

Imports the floor (`controlplane.model`, `controlplane.catalog`) and, in `runtime` only, `controlplane.kube`.
"""
