"""Pipelines: what runs after what, what is finished, and finished runs applied to new conversations."""
