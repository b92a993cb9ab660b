"""The one error the development cluster shows to a person."""

from __future__ import annotations


class DevclusterError(Exception):
    """Something a person can act on: the message names what is wrong and the way out."""


class CommandError(DevclusterError):
    """A program that was run to completion failed; carries what it printed."""

    def __init__(self, argv: list[str], returncode: int, output: str) -> None:
        self.argv = argv
        self.returncode = returncode
        self.output = output
        tail = "\n".join(output.strip().splitlines()[-15:])
        super().__init__(f"{' '.join(argv[:6])} ended with status {returncode}:\n{tail}")
