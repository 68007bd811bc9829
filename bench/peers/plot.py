"""Bars on a logarithmic scale, as SVG: rates of queues lie four powers of ten apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP, ROW, BAR = 860, 330, 90, 34, 22, 14
OURS, THEIRS, MACHINE = "#c2410c", "#64748b", "#cbd5e1"


class Bar(NamedTuple):
    """A median and the range of the runs; `color` is one of the three above."""

    label: str
    value: float
    low: float
    high: float
    color: str


def plot(title: str, bars: Sequence[Bar]) -> str:
    """Return a picture of some positive values."""
    first, last = _decades([bar.low for bar in bars], [bar.high for bar in bars])
    height = TOP + ROW * len(bars) + 30

    def x(value: float) -> float:
        share = (math.log10(value) - first) / (last - first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="8" y="20" font-size="14" font-weight="bold">{escape(title)}</text>',
    ]
    for decade in range(first, last + 1):
        at, bottom = x(10.0**decade), height - 24
        parts.append(f'<path d="M{at} {TOP}V{bottom}" stroke="#e2e8f0"/>')
        tick = f'text-anchor="middle">{_short(10.0**decade)}</text>'
        parts.append(f'<text x="{at}" y="{height - 8}" {tick}')
    for index, bar in enumerate(bars):
        parts += _row(bar, TOP + ROW * index, x)
    return "\n".join([*parts, "</svg>"]) + "\n"


def number(value: float) -> str:
    """Return a value as people write it."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _short(value: float) -> str:
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _row(bar: Bar, top: float, x: Callable[[float], float]) -> list[str]:
    middle, end = top + ROW / 2, x(bar.value)
    return [
        f'<text x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect x="{LEFT}" y="{middle - BAR / 2}" width="{round(end - LEFT, 1)}" height="{BAR}" '
        f'fill="{bar.color}"/>',
        f'<path d="M{x(bar.low)} {middle}H{x(bar.high)}" stroke="#0f172a"/>',
        f'<text x="{max(end, x(bar.high)) + 6}" y="{middle + 4}">{number(bar.value)}</text>',
    ]


def _decades(lows: Sequence[float], highs: Sequence[float]) -> tuple[int, int]:
    first, last = math.floor(math.log10(min(lows))), math.ceil(math.log10(max(highs)))
    return first - (first == math.log10(min(lows))), max(last, first + 1)
