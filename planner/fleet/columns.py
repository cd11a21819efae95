"""Replicas from the cost model, made only where they can matter.

Without caps the relaxation is closed: a class costs π_i = min_j c_j / T_ji per unit of rate, c_j the price of replica j
over what it is worth, and every fleet costs at least Σ_i r_i π_i. One unit of another replica that may carry T̂_i
instead adds at least its rent less what it earns at those prices, filled with the classes that earn most first (see
binpacking.narrowing), and so cannot be part of a fleet that beats the best one known when the sum is dearer. T̂ comes
from the ideal machine of as many GPUs (see machines), one for all layouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shardwright.models import ModelGraph
from shardwright.solvers.binpacking.narrowing import earned
from shardwright.solvers.binpacking.problem import Floats

from ..costs.serving.communication import fabric
from ..errors import InputError
from ..plan.fleet import ReplicaPool, RequestClass
from ..serving.deployments import Link
from ..serving.pools import Phase
from ..serving.replica import Bucket, Copies
from ..serving.space import layouts
from ..workload.fleet import FleetJob, ServedModel
from ..workload.serving import Load, ServingJob
from ..workload.serving_layout import Layout, LayoutConstraints
from .candidates import Candidate, covered_by_tables, offered_types
from .machines import ideal, machine_topology
from .offers import prices_of

MOST_DEVICES = 16
BATCH = 4
SURE = 1e-9


@dataclass(frozen=True, slots=True)
class Group:
    """The layouts of a model in one format on as many GPUs of one type; `best[c]` is more than any of them carries.

    `rents` and `worths` are what one unit costs per hour (dollars, or kilowatts where energy is minimized) and the
    replicas it is worth, offer by offer.
    """

    served: ServedModel
    gpu: str
    format: str
    layouts: tuple[Layout, ...]
    best: Floats
    rents: Floats
    worths: Floats

    def added(self, demand: Floats, prices: Floats) -> float:
        """The least that one unit adds to the bound at given prices of the classes and so much of each, per hour."""
        return float((self.rents - earned(self.best, demand, prices, self.worths)).min())

    def promise(self, prices: Floats) -> float:
        """What a dollar spent on it saves at most; above 1 it can lower the bound."""
        return float((self.worths / np.maximum(self.rents, 1e-12)).max() * _worth(self.best, prices))


@dataclass(frozen=True, slots=True)
class Known:
    """The best fleet known: its value an hour, the hours, the sum of the multiples of the rates over them, and the most
    that a better fleet may carry at once."""

    value: float
    hours: int = 1
    multiples: float = 1.0
    most: float = 1.0

    def beaten(self, bound: float, added: Floats | float) -> NDArray[np.bool_]:
        """Where fleets may be better that cost so much more than a bound on the rates alone."""
        cost = bound * self.multiples + np.maximum(added, 0.0)
        return np.asarray(cost < self.value * self.hours * (1 - SURE))

    def covers(self, other: Known) -> bool:
        """Whether whatever may be better than another fleet may be better than this one, which was known."""
        return (
            bool(np.isfinite(self.value))
            and self.value * self.hours >= other.value * other.hours
            and self.multiples <= other.multiples
            and self.most >= other.most
        )


ValueOf = Callable[[list[Candidate]], Known]


@dataclass
class Columns:
    """The replicas made so far and the groups not yet looked into; prices follow from what was made."""

    job: FleetJob
    classes: tuple[RequestClass, ...]
    models: dict[str, ModelGraph]
    made: list[Candidate]
    left: list[Group] = field(default_factory=list)
    layouts_made: int = 0
    layouts_all: int = 0
    copies: dict[tuple[ServedModel, str, str], Copies] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _least: dict[tuple[tuple[str, int], ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tables = covered_by_tables(self.job)
        gpus = offered_types(self.job)
        for served in self.job.models:
            for gpu in gpus:
                if (served.model, gpu) in tables:
                    continue
                self.notes.append(machine_topology(gpu)[1])
                for format_ in served.formats:
                    self.left += self._groups(served, gpu, format_)
        self.notes = list(dict.fromkeys(self.notes))
        self.layouts_all = sum(len(group.layouts) for group in self.left)

    def prices(self) -> Floats:
        """Dollars per request of every class, an hour long, at the cheapest replica made; infinite where none is."""
        best = np.full(len(self.classes), np.inf)
        for candidate in self.made:
            with np.errstate(divide="ignore"):
                best = np.minimum(best, self.least(candidate.gpus) / candidate.rates)
        return best

    def least(self, gpus: tuple[tuple[str, int], ...]) -> float:
        """The lowest price of a replica of such pools."""
        if gpus not in self._least:
            units = prices_of(self.job, gpus)
            self._least[gpus] = min((unit.cost / unit.capacity for unit in units), default=np.inf)
        return self._least[gpus]

    def serve_all(self) -> None:
        """Make replicas, most promising first, until every class is served and none can lower the bound."""
        while True:
            prices = self.prices()
            missing = np.isinf(prices)
            if missing.any():
                able = [group for group in self.left if (group.best[missing] > 0).any()]
                able.sort(key=lambda group: -group.promise(np.where(missing, 1.0, 0.0)))
            else:
                able = [group for group in self.left if group.promise(prices) > 1 + SURE]
                able.sort(key=lambda group: -group.promise(prices))
            if not able:
                return
            self._make(able[:BATCH])

    def too_large(self, reached: Floats) -> str | None:
        """A sentence for the first model, of those with classes that nothing serves, whose weights no type holds."""
        for served in self.job.models:
            mine = [rate for rate, each in zip(reached, self.classes, strict=True) if each.model == served.model]
            if served.model not in self.models or all(rate > 0 for rate in mine):
                continue
            held = []
            for gpu in offered_types(self.job):
                most = min(MOST_DEVICES, machine_topology(gpu)[0].n_devices)
                for format_ in served.formats:
                    machine = ideal(self.models[served.model], gpu, format_, served)
                    room = most * machine.usable_bytes
                    held.append((room / machine.weight_bytes, most, gpu, machine.weight_bytes, room))
            fullest, most, gpu, weights, room = max(held)
            if fullest < 1:
                return (
                    f"fleet: {served.model} fits on no GPU type offered: its weights take {weights / 1e9:.4g} GB, but "
                    f"{most} {gpu} hold {room / 1e9:.4g} GB; offer a larger type, or formats with fewer bits"
                )
        return None

    @property
    def rates(self) -> Floats:
        """Requests per second of every class."""
        return np.array([each.rate_per_s for each in self.classes])

    def refine(self, known: Known, most: Floats | None = None) -> None:
        """Make replicas until none left can be part of a better fleet than the one known, classes costing at `most`."""
        while True:
            prices = self.prices() if most is None else np.minimum(self.prices(), most)
            bound = float(self.rates @ prices)
            able = [each for each in self.left if known.beaten(bound, each.added(self.rates * known.most, prices))]
            if not able:
                return
            self._make(able)

    def one_each(self) -> None:
        """Make the most promising replicas of every GPU type that has none, for the fleets of one type alone."""
        ready = {gpu for candidate in self.made for gpu, _ in candidate.gpus}
        prices = self.prices()
        for gpu in dict.fromkeys(group.gpu for group in self.left):
            if gpu not in ready:
                mine = [group for group in self.left if group.gpu == gpu]
                self._make([max(mine, key=lambda group: float((group.best * prices).sum() / group.rents.min()))])

    def _groups(self, served: ServedModel, gpu: str, format_: str) -> list[Group]:
        topology, _ = machine_topology(gpu)
        model = self.models[served.model]
        on = fabric(topology)
        most = min(MOST_DEVICES, topology.n_devices)
        longest = max(each.isl for each in served.lengths)
        by_size: dict[int, list[Layout]] = {}
        for layout in layouts(model, on, most, longest, LayoutConstraints()):
            by_size.setdefault(layout.devices, []).append(layout)
        every = [layout for same in by_size.values() for layout in same]
        job = serving_job(served, format_, self.job.seed)
        self.copies[served, gpu, format_] = Copies(model, topology, job, every)
        machine = ideal(model, gpu, format_, served)
        mine = np.array([each.model == served.model for each in self.classes])
        found = []
        for devices, same in sorted(by_size.items()):
            best = np.zeros(len(self.classes))
            best[mine] = machine.rates(
                tuple(each for each in self.classes if each.model == served.model), served, devices
            )
            units = prices_of(self.job, ((gpu, devices),))
            if best.any():
                rents = np.array([price.cost for price in units])
                worths = np.array([price.capacity for price in units])
                found.append(Group(served, gpu, format_, tuple(same), best, rents, worths))
        return found

    def _make(self, groups: list[Group]) -> None:
        for group in groups:
            self.left.remove(group)
            self.layouts_made += len(group.layouts)
            kept: list[Candidate] = []
            for layout in group.layouts:
                made = self.candidate(group.served, group.gpu, group.format, layout)
                if made.rates.any() and not any((other.rates >= made.rates).all() for other in kept):
                    kept = [other for other in kept if not (made.rates >= other.rates).all()]
                    kept.append(made)
            self.made += kept

    def candidate(
        self, served: ServedModel, gpu: str, format_: str, layout: Layout, *, exact: bool = False
    ) -> Candidate:
        """One replica and what it carries."""
        rates = self.phase_rates(served, (gpu, format_, layout), exact=exact)[0]
        pool = ReplicaPool(phase="aggregated", gpu=gpu, gpus=layout.devices, degrees=layout)
        label = layout.label() + (f" {format_}" if format_ != "bf16" else "")
        source = "simulation" if exact else "cost model"
        return Candidate(served.model, (pool,), label, rates, source, format_, served.engine)

    def phase_rates(
        self,
        served: ServedModel,
        worker: tuple[str, str, Layout],
        phase: Phase = "aggregated",
        links: Sequence[Link | None] = (None,),
        *,
        exact: bool = False,
    ) -> Floats:
        """What one worker (GPU type, format, layout) carries of every class in a phase, a row for each of the links."""
        gpu, format_, layout = worker
        copies = self.copies.get((served, gpu, format_))
        if copies is None:
            job = serving_job(served, format_, self.job.seed)
            copies = Copies(self.models[served.model], machine_topology(gpu)[0], job, (layout,))
        mine = [at for at, each in enumerate(self.classes) if each.model == served.model]
        sizes = [(self.classes[at].isl or 1, self.classes[at].osl or 1) for at in mine]
        buckets = [Bucket(isl, osl, link) for link in links for isl, osl in sizes]
        rates = np.zeros((len(links), len(self.classes)))
        carried = copies.rates(layout, buckets, phase=phase, exact=exact)
        rates[:, mine] = carried.reshape(len(links), len(mine))
        return rates


def serving_job(served: ServedModel, format_: str, seed: int) -> ServingJob:
    """The serving job whose targets and engine a replica answers for; its load is replaced bucket by bucket."""
    first = served.lengths[0]
    return ServingJob(
        load=Load(isl=first.isl, osl=first.osl, rate_per_s=1.0),
        targets=served.targets,
        engine=served.engine,
        quantization=format_,
        seed=seed,
    )


def check_context(served: ServedModel, model: ModelGraph) -> None:
    """Raise InputError when a request is longer than the model's context."""
    most = model.max_positions
    for each in served.lengths:
        if most is not None and each.isl + each.osl > most:
            raise InputError(
                f"models: {each.isl} prompt and {each.osl} output tokens are more than the {most} of the context of "
                f"{served.model}"
            )


def _worth(best: Floats, prices: Floats) -> float:
    """The largest value of one replica's time at given prices of the classes."""
    able = best > 0
    return float((best[able] * prices[able]).max(initial=0.0))
