"""Closed loops that join rooms and services: each a pure decision and a thin run around it."""
