"""The one exception of this folder."""


class TopologyError(ValueError):
    """A topology description is refused; the text names the place and what would be right."""
