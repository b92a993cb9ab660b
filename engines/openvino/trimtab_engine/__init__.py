"""Trimtab's embedded engine: OpenVINO GenAI continuous batching behind an OpenAI-compatible HTTP server.

Belongs here: the HTTP server (parent process), the engine process (child), the wire between them, the rules on
scheduler flags, and `make-model`. Does not belong here: anything of the control plane; this distribution and the
`trimtab` distribution never import each other, they talk HTTP.
"""

__version__ = "0.1.0"
