"""Spaces that come with the engines: what is searched when a job names none."""
