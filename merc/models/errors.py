"""What is wrong with a model."""


class ModelError(ValueError):
    """A folder is no model, was tampered with, or cannot do what is asked; the message says what and what to do."""
