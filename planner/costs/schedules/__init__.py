"""Pipeline schedules: orders of operations, their exact event walk, and closed forms for equal stages."""

from .activations import held, peak_activation_bytes
from .bounds import lower_bound_s
from .closed_forms import EqualTimes, chunks_in_flight, makespan_bound_s, makespan_s
from .orders import Kind, Op, Order, check_shape, chunks_per_rank, rank_orders, stage_of
from .walk import BoundaryTimes, Program, StageTimes, Timeline, compile_schedule, walk

__all__ = [
    "BoundaryTimes",
    "EqualTimes",
    "Kind",
    "Op",
    "Order",
    "Program",
    "StageTimes",
    "Timeline",
    "check_shape",
    "chunks_in_flight",
    "chunks_per_rank",
    "compile_schedule",
    "held",
    "lower_bound_s",
    "makespan_bound_s",
    "makespan_s",
    "peak_activation_bytes",
    "rank_orders",
    "stage_of",
    "walk",
]
