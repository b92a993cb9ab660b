"""Options that several commands share, as one decorator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
Options = Sequence[Callable[[Any], Any]]  # what `click.option` makes


def option_group(options: Options) -> Callable[[F], F]:
    """A decorator that adds the options to a command, in order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def names_of(options: Options) -> frozenset[str]:
    """The parameters that a command gets by them."""

    @click.command()
    @option_group(options)
    def nothing(**_: Any) -> None:
        """Only to be looked at."""

    return frozenset(parameter.name for parameter in nothing.params if parameter.name is not None)
