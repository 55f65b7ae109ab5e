"""The shipped configs, as YAML, and how they are found by name."""
