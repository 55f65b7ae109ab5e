"""Corpora: readers that turn what researchers have on disk into conversations and feature tables."""
