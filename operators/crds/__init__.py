"""Custom resource definitions generated from the floor's types into `helm/files/crds/`.

`python -m operators.crds` writes them, `--check` fails when a file differs. Belongs here: turning types into
structural schemas, the rules that only CEL can say, columns and names. The fields themselves, their limits and their
descriptions are the types' business (`controlplane.model`).
"""
