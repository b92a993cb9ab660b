"""Whose question the planner hears next: one at a time, urgent ones first, and nobody passed over for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

# Urgent questions that may go before a waiting one: a first plan is worth more than weighing again what runs.
PASSED_MAX = 4


@dataclass(slots=True, eq=False)
class _Ticket:
    urgent: bool
    called: asyncio.Future[None]
    passed: int = 0


class Turns:
    """First come, first served among the urgent and among the others. Each holds its turn for as long as its question
    takes, which the planning service bounds."""

    def __init__(self) -> None:
        self._line: list[_Ticket] = []
        self._busy = False

    @property
    def waiting(self) -> int:
        """Questions in the line."""
        return len(self._line)

    @asynccontextmanager
    async def turn(self, urgent: bool) -> AsyncIterator[None]:
        """Waits for its turn and holds it."""
        if self._busy:
            ticket = _Ticket(urgent, asyncio.get_running_loop().create_future())
            self._line.append(ticket)
            try:
                await ticket.called
            except asyncio.CancelledError:
                if ticket in self._line:
                    self._line.remove(ticket)
                else:
                    self._next()  # called and cancelled at once: the turn goes on to the next
                raise
        self._busy = True
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        # Who was cancelled a moment ago still stands in the line, until its task hears of it.
        line = [ticket for ticket in self._line if not ticket.called.done()]
        if not line:
            self._busy = False
            return
        first = line[0]
        chosen = first
        if not first.urgent and first.passed < PASSED_MAX:
            chosen = next((ticket for ticket in line if ticket.urgent), first)
        for ticket in line[: line.index(chosen)]:
            ticket.passed += 1
        self._line.remove(chosen)
        chosen.called.set_result(None)
