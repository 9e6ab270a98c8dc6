"""Prefect flows: order, one run a checkout, aliases. They compute nothing."""
