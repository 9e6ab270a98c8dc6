"""Measuring a model, gates, and the report."""
