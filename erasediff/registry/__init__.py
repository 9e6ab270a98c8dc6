"""Versions, aliases, lineage: the model registry."""
