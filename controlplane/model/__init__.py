"""The floor's words: custom resources, facts about nodes, actions, errors, ports.

Types only: no I/O, no clocks, no third-party clients. What crosses a room boundary is defined here.
Imports the standard library, pydantic and numpy, nothing of ours except this package.
"""
