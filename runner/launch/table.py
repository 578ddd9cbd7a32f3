"""The offers of a plan as a person reads them: a table, and what it comes to in four lines."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from runner import columns, cost
from runner.config import CloudConfig, LaunchConfig
from runner.cost import usd
from runner.launch.choose import SPOT, Candidate, Decision
from runner.launch.estimate import about
from runner.units import several

MAX_ROWS = 12
HEADERS = ("cloud", "GPU", "instance", "region", "$/h", "spot $/h", "billed", "bill", "")
INSTANCE = HEADERS.index("instance")
NARROW = 110  # columns; a narrower terminal has no room for the names of instances
RIGHT, WRAPPED = {"$/h", "spot $/h", "bill"}, {"instance", "billed", ""}
CHOSEN, FALLBACK = "chosen", "fallback"
STYLES = {CHOSEN: "bold green", FALLBACK: "cyan", "": ""}
"""How a note's rows look on a terminal; every other note says why a row can't be chosen, and is dimmed."""


@dataclass(frozen=True)
class Row:
    """One line of the table: an instance, on demand and as spot instance, in all the regions where it costs the same."""

    cloud: str
    accelerator: str
    instance: str
    regions: tuple[str, ...]
    usd_per_hour: float | None
    spot_usd_per_hour: float | None
    billed: str
    bill_usd: float
    note: str

    def cells(self) -> tuple[str, ...]:
        """Return the line as text, one for each of HEADERS."""
        region = self.regions[0] if self.regions else ""
        more = f" +{len(self.regions) - 1}" if len(self.regions) > 1 else ""
        return (
            self.cloud, self.accelerator, self.instance, region + more, _price(self.usd_per_hour), _price(self.spot_usd_per_hour),
            self.billed, usd(self.bill_usd), self.note,
        )  # fmt: skip


def rows(candidates: Sequence[Candidate], clouds: Mapping[str, CloudConfig], decision: Decision | None = None) -> list[Row]:
    """Return the lines of the table in the order of the candidates.

    On-demand and spot offers of one instance are one line, with the bill of the one that may be taken; regions in which it costs
    the same are one line, too.
    """
    merged: dict[tuple[object, ...], Row] = {}
    for pair in _pairs(candidates):
        row = _row(pair, clouds, decision)
        key = (*row.cells()[:3], row.usd_per_hour, row.spot_usd_per_hour, "" if row.note.startswith(CHOSEN) else row.note)
        known = merged.get(key)
        if known is None:
            merged[key] = row
        elif row.regions[:1] != known.regions[:1]:
            merged[key] = replace(known, regions=(*known.regions, *(one for one in row.regions if one not in known.regions)))
    return list(merged.values())


def lines(found: Sequence[Row], terminal: TextIO | None = None) -> list[str]:
    """Return the table as lines of text, with colours for a `terminal`; of many rows the best, and the best of each cloud."""
    if not found:
        return []
    kept = _kept(found)
    left = len(found) - len(kept)
    more = [f"and {several(left, 'offer')} more"] if left else []
    cells = [row.cells() for row in kept]
    if terminal is None:
        return columns.aligned(HEADERS, cells, RIGHT) + more
    styles = [STYLES.get(row.note.partition(",")[0], "dim") for row in kept]
    drawn = columns.drawn(HEADERS, cells, styles, terminal, right=RIGHT, wrapped=WRAPPED, optional=[INSTANCE], narrow=NARROW)
    return drawn + more


def summary(
    candidates: Sequence[Candidate], clouds: Mapping[str, CloudConfig], launch: LaunchConfig, decision: Decision | None = None
) -> list[str]:
    """Return the estimate, the bill, the limit on it and the choice, a line each; without a decision, those of the best offer."""
    one = decision.chosen if decision else next((one for one in candidates if one.excluded != SPOT), None)
    if one is None:
        return []
    known, offer = one.estimate, one.offer
    found = [
        f"estimate   {about(known.total_s)}: {about(known.setup_s)} to set up, {about(known.measure_s)} to measure "
        f"({known.source}); at most {about(known.at_most_s)}",
        f"bill       {usd(one.bill_usd)} on {one}, at most {usd(one.worst_bill_usd)}",
    ]
    if offer.snapshot:
        found.append("price      of {}: {}".format(*offer.snapshot.split(", ", 1)))
    if decision is None:
        return found
    if launch.max_usd is not None and one.worst_bill_usd > launch.max_usd:
        cloud = clouds.get(offer.cloud)
        longest = cost.longest_s(launch.max_usd, offer.usd_per_hour, cloud.billing if cloud else None)
        limit = f"launch.max_usd={launch.max_usd:g}: the run is ended before its bill passes that"
        found.append(f"limit      {limit}" + (f", after {about(longest)}" if math.isfinite(longest) else ""))
    return [*found, f"chosen     {one}: {decision.why}"]


def _pairs(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """Put the on-demand and the spot offer of the same instance in the same region together, in the order of the first."""
    found: dict[tuple[object, ...], list[Candidate]] = {}
    for one in candidates:
        offer = one.offer
        key = (offer.gpu, offer.cloud, offer.accelerator, offer.instance_type, offer.region, offer.snapshot)
        found.setdefault(key, []).append(one)
    return list(found.values())


def _row(pair: Sequence[Candidate], clouds: Mapping[str, CloudConfig], decision: Decision | None) -> Row:
    """Make one line of an instance's offers; the one that may be taken gives bill and note, else the one on demand."""
    shown = next((one for one in pair if decision and one == decision.chosen), None)
    shown = shown or next((one for one in pair if one.excluded is None), None) or min(pair, key=lambda one: one.offer.spot)
    prices = {one.offer.spot: one.offer.usd_per_hour for one in pair}
    offer, cloud = shown.offer, clouds.get(shown.offer.cloud)
    note = shown.excluded or ""
    if decision and shown == decision.chosen:
        note = CHOSEN + (", as spot instance" if offer.spot else "")
    elif decision and not note and offer.gpu != decision.chosen.offer.gpu:
        note = FALLBACK
    return Row(
        cloud=offer.cloud,
        accelerator=offer.accelerator,
        instance=offer.instance_type or "",
        regions=(offer.region,) if offer.region else (),
        usd_per_hour=prices.get(False),
        spot_usd_per_hour=prices.get(True),
        billed=cost.rule(cloud.billing if cloud else None),
        bill_usd=shown.bill_usd,
        note=note,
    )


def _kept(found: Sequence[Row]) -> list[Row]:
    """Return the rows that are shown: the best of each cloud and GPU, and from the top what there is room for."""
    if len(found) <= MAX_ROWS:
        return list(found)
    first: dict[tuple[str, str], int] = {}
    for index, row in enumerate(found):
        first.setdefault((row.cloud, row.accelerator), index)
    wanted = [*(index for index, row in enumerate(found) if row.note.startswith(CHOSEN)), *first.values(), *range(len(found))]
    return [found[index] for index in sorted(list(dict.fromkeys(wanted))[:MAX_ROWS])]


def _price(amount: float | None) -> str:
    return "" if amount is None else usd(amount)[1:]
