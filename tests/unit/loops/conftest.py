"""A store on each database there is; files that need another setup define their own."""

from tests.stores import database, server

__all__ = ["database", "server"]
