"""What to measure next: search spaces, samplers with learned feasibility, and the choice of the winner.

Pure: a sampler is rebuilt from a study's trials and proposes the same configuration in any process. Nothing here starts
an engine or touches a database.
"""
