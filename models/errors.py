"""The one exception of this folder."""


class ModelError(ValueError):
    """A model description or routing file is refused; the text names the field and what would be right."""
