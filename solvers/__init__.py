"""Pure optimization: problems in, solutions with a status and a bound out."""

from .solution import AnyOf, Gap, Progress, Seconds, Solution, Status, Stop, Work, relative_gap

__all__ = ["AnyOf", "Gap", "Progress", "Seconds", "Solution", "Status", "Stop", "Work", "relative_gap"]
