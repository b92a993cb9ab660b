"""Commands of `trimtab`: options and environment in, a process out.

Belongs here: one module per subcommand, imported when it is called. Does not belong here: what the process does
(`controlplane.operator_process`, `controlplane.api`).
"""
