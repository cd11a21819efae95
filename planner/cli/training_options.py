"""Options that `train` and `estimate` share, and the job they describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..workload.training import TrainingJob

Model = Annotated[str, typer.Argument(help="Catalog name, config.json, or a directory with one.")]
Cluster = Annotated[str, typer.Option(help="Catalog name such as dgx-h100:8, or a topology file.")]
Measured = Annotated[str | None, typer.Option(help="mpiGraph JSON whose matrix overrides nominal links.")]
Gbs = Annotated[int | None, typer.Option(help="Global batch, in sequences.")]
Seq = Annotated[int | None, typer.Option(help="Sequence length, in tokens.")]
JobFile = Annotated[str | None, typer.Option("--job", help="Training job file (YAML or JSON); options override it.")]
Precision = Annotated[str | None, typer.Option(help="fp32, fp16, bf16, fp8 or fp4. [default: bf16]")]
Optimizer = Annotated[str | None, typer.Option(help="adam, sgd, sgd-momentum, … [default: adam]")]
Margin = Annotated[float | None, typer.Option(help="Share of device memory that stays free. [default: 0.05]")]
Json = Annotated[bool, typer.Option("--json", help="Only the plan as JSON on stdout.")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Write the plan to this file.")]


def build_job(job_file: str | None, constraints: dict[str, Any], **fields: Any) -> TrainingJob:
    """The job of a file, if any, with the given fields and constraints put over it; None leaves a field alone.

    Raises InputError naming the option or field that is wrong or missing.
    """
    import msgspec

    from ..inputs import load_job
    from ..strategy import Constraints
    from ..workload.training import TrainingJob

    given = {name: value for name, value in fields.items() if value is not None}
    held = {name: value for name, value in constraints.items() if value not in (None, ())}
    base: dict[str, Any] = {"constraints": msgspec.to_builtins(Constraints())}
    if job_file is not None:
        base = msgspec.to_builtins(load_job(job_file))
    base["constraints"] = base["constraints"] | held
    merged = base | given
    for name, option in (("gbs", "--gbs"), ("sequence_length", "--seq")):
        if name not in merged:
            raise InputError(f"{option} is missing: give it, or a --job file with {name}")
    try:
        return msgspec.convert(merged, TrainingJob)
    except msgspec.ValidationError as error:
        raise InputError(f"training job: {error}") from error


def integers(text: str | None, option: str) -> tuple[int, ...]:
    """`4` or `2,4,8` as counts of at least 1 (0 for --zero). Raises InputError naming the option."""
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} must be a count or a list such as 2,4,8 but got {text!r}") from None


def words(text: str | None) -> tuple[str, ...]:
    """`none,full` as a tuple."""
    return () if text is None else tuple(part.strip() for part in text.split(","))
