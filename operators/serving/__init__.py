"""The ServingDeployment controller: from an object to engine replicas that answer.

Here belong: validation that CEL cannot do (`validate`), the pure rendering of pods, Services and budgets (`shape`,
`launch`, `overlay`, `render`), the pure decision (`plan` and its steps `replicas`, `repair`, `placing`, `rollout`,
`better`, `status`) and the thin controller that reads a snapshot (`controller`) and carries out the actions (`executor`).

Here does not belong: which node a replica gets (`operators.placement`), facts about engines and hardware
(`controlplane.catalog`), how objects are watched and written (`operators.runtime`).
"""
