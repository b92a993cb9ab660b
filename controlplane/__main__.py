"""`python -m controlplane`: the `trimtab` command, for trees that are not installed."""

from controlplane.main import main

main()
