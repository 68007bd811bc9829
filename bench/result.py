"""What a workload measured, as one line of JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass
class Figure:
    """A measured value. `floor` is what it must reach: at least, or at most when `lower`
    is better; None when nothing was promised."""

    value: float
    unit: str
    floor: float | None = None
    lower: bool = False
    name: str = ""

    @property
    def met(self) -> bool | None:
        if self.floor is None:
            return None
        return self.value <= self.floor if self.lower else self.value >= self.floor

    def members(self) -> dict[str, Any]:
        found: dict[str, Any] = {"value": rounded(self.value), "unit": self.unit}
        if self.floor is not None:
            found |= {"floor": self.floor, "better": "lower" if self.lower else "higher"}
            found["met"] = self.met
        return {"name": self.name} | found if self.name else found


@dataclass
class Limit:
    """What the machine does when nothing but the unavoidable is done, in the unit of the
    figure that it bounds."""

    value: float
    what: str


@dataclass
class Result:
    """One workload: its main figure, from `samples`, the limits of the machine, and what
    else was seen. A job needs all that the limits do, so the tightest of them binds."""

    workload: str
    main: Figure
    limits: list[Limit]
    samples: list[float]
    also: list[Figure] = field(default_factory=list)

    @property
    def limit(self) -> Limit:
        choose = max if self.main.lower else min
        return choose(self.limits, key=lambda limit: limit.value)

    @property
    def ratio(self) -> float:
        """How much of the limit was reached; 1 is all of it, whichever way is better."""
        if self.main.lower:
            return self.limit.value / self.main.value if self.main.value else 1.0
        return self.main.value / self.limit.value

    def line(self) -> dict[str, Any]:
        named = {each.name: rounded(each.value) for each in self.also if each.name.endswith("_ms")}
        found: dict[str, Any] = {"workload": self.workload} | self.main.members() | named
        found |= {
            "limit": rounded(self.limit.value),
            "limit_is": self.limit.what,
            "ratio": rounded(self.ratio),
            "runs": len(self.samples),
            "low": rounded(min(self.samples)),
            "high": rounded(max(self.samples)),
        }
        found["limits"] = [
            {"value": rounded(limit.value), "is": limit.what} for limit in self.limits
        ]
        found["also"] = [each.members() for each in self.also]
        floors = [each.met for each in (self.main, *self.also) if each.met is not None]
        return found | {"met": all(floors)}


def of_runs(samples: list[float], unit: str, floor: float | None, *, lower: bool = False) -> Figure:
    """Return the median of some runs."""
    return Figure(median(samples), unit, floor, lower)


def rounded(value: float) -> float:
    """Return a value with the three or four digits that a benchmark can honestly have."""
    if abs(value) >= 1000:
        return int(float(f"{value:.4g}"))
    return float(f"{value:.3g}")


def percentile(values: list[float], percent: float) -> float:
    """Return the value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def encode(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False)
