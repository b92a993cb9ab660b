"""Published tables of training runs, one module per family: CSV in, cases with measurements out, drops listed."""
