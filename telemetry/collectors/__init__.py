"""Collectors: each reads one kind of source into samples (series name -> number). They never write to a source."""
