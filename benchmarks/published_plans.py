"""NVIDIA's published training plans against this planner's: is each legal here, and what is predicted for both.

    python -m benchmarks.published_plans FILE.json [--legal] [--limit N] [--json]

FILE.json holds the recipes of the megatron-bridge wheel (degrees, batch and recompute per model, accelerator and number
of devices); what it leaves out is in benchmarks/published_facts.json. A recipe whose expert ranks do not divide the
devices of a stage cannot run on the devices that it names, and is compared on the fewest times as many that can. With
--legal nothing is searched.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks.measurements.cells import UnusableError
from benchmarks.published_recipes import Recipe, imported, legal, topology_for
from shardwright import models
from shardwright.planner.errors import ShardwrightError
from shardwright.planner.plan.training import TrainingPlan
from shardwright.planner.training import estimate_training, plan_training
from shardwright.planner.workload.training import TrainingJob
from shardwright.topologies import Topology

SAME = 1e-9


@dataclass(frozen=True)
class Outcome:
    """A recipe's fate: `reason` it cannot be compared or is not legal, or both predictions."""

    recipe: str
    reason: str = ""
    theirs: str = ""
    ours: str = ""
    their_s: float | None = None
    our_s: float | None = None
    why: str = ""


@lru_cache(maxsize=512)
def our_plan(model: str, topology: Topology, job: bytes) -> TrainingPlan:
    """The plan found for a job, once for all recipes that share it."""
    return plan_training(models.model(model), topology, msgspec.json.decode(job, type=TrainingJob))


def their_plan(recipe: Recipe, topology: Topology) -> TrainingPlan:
    """The published plan as it is predicted here."""
    return estimate_training(models.model(recipe.model), topology, recipe.job, recipe.strategy)


def compare(entry: dict[str, Any]) -> Outcome:
    """Both plans' predictions and where they differ."""
    try:
        recipe = imported(entry)
        topology = topology_for(recipe.gpu, recipe.devices)
        theirs = their_plan(recipe, topology)
        ours = our_plan(recipe.model, topology, msgspec.json.encode(recipe.job))
    except (ShardwrightError, UnusableError) as error:
        return Outcome(entry["recipe"], str(error))
    note = next((each for each in theirs.assumptions if each.startswith("does not fit")), "")
    return Outcome(
        recipe=recipe.name,
        theirs=theirs.strategy.label() + devices_note(recipe),
        ours=ours.strategy.label(),
        their_s=theirs.prediction.step_s,
        our_s=ours.prediction.step_s,
        why=note or difference(theirs, ours),
    )


def devices_note(recipe: Recipe) -> str:
    """Where the devices named cannot do, the arithmetic and the devices compared on."""
    if recipe.devices == recipe.named:
        return ""
    strategy = recipe.strategy
    return (
        f" (pp {strategy.pp} × ep {strategy.ep} × etp {strategy.etp} = {strategy.pp * strategy.ep * strategy.etp} does "
        f"not divide the {recipe.named} devices named; compared on {recipe.devices})"
    )


def difference(theirs: TrainingPlan, ours: TrainingPlan) -> str:
    """The terms in which the published plan takes longest beyond ours, and shortest."""
    changes = sorted((a.value - b.value, a.name) for a, b in zip(theirs.breakdown, ours.breakdown, strict=True))
    shown = (*reversed(changes[-2:]), changes[0])
    return ", ".join(f"{name} {change:+.3g} s" for change, name in shown if change)


def summary(outcomes: list[Outcome]) -> str:
    """How many are compared, fit, and are predicted slower or faster than the plan found, as Markdown."""
    compared = [each for each in outcomes if each.their_s is not None and each.our_s is not None]
    fitting = [each for each in compared if not each.why.startswith("does not fit")]
    ratios = [(each.their_s or 0.0) / (each.our_s or 1.0) for each in fitting]
    faster, slower = (sum(sign * (ratio - 1) > SAME for ratio in ratios) for sign in (1, -1))
    rows = {
        "predicted and compared": len(compared),
        "– predicted to fit in memory": len(fitting),
        "– – the plan found here is predicted as fast": len(fitting) - faster - slower,
        f"– – the plan found here is predicted faster (median over all that fit: {100 * median(ratios) - 100:.1f} %)": (
            faster
        ),
        "– – the published plan is predicted faster": slower,
        "– predicted not to fit with 5 % of memory free, some for want of the recipe's offload": (
            len(compared) - len(fitting)
        ),
        "of those compared: on more devices than named": sum("does not divide" in each.theirs for each in compared),
    }
    for reason, count in Counter(each.reason for each in outcomes if each.their_s is None).items():
        rows[reason] = count
    return "\n".join(["| what | recipes |", "|---|---:|", *(f"| {name} | {count} |" for name, count in rows.items())])


def table(outcomes: list[Outcome]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| recipe | published | predicted s | found here | predicted s | published minus found |",
        "|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        if each.their_s is None or each.our_s is None:
            lines.append(f"| {each.recipe} | {each.reason} | | | | |")
        else:
            lines.append(
                f"| {each.recipe} | {each.theirs} | {each.their_s:.3f} | {each.ours} | {each.our_s:.3f} | {each.why} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--legal", action="store_true")
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    entries = json.loads(Path(options.file).read_text(encoding="utf-8"))["recipes"][: options.limit]
    if options.legal:
        counts = Counter(legal(entry) or "legal" for entry in entries)
        print(json.dumps(dict(counts.most_common()), indent=2))
        return 0
    outcomes = []
    for number, entry in enumerate(entries):
        outcomes.append(compare(entry))
        print(f"{number + 1}/{len(entries)} {entry['recipe']}", file=sys.stderr)
    if options.json:
        print(json.dumps([each.__dict__ for each in outcomes], indent=2))
    else:
        print(f"{summary(outcomes)}\n\n{table(outcomes)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
