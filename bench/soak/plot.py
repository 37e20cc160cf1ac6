"""A picture of a soak: panels below each other, over the same time, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, TOP, GAP = 860, 130, 70, 30, 44


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One line over time."""

    title: str
    values: Sequence[float]
    bands: Sequence[tuple[float, float]] = ()
    """Spans of time to be shaded, in the unit of the times."""


def draw(times: Sequence[float], unit: str, panels: Sequence[Panel]) -> str:
    """Draw the panels over `times`, which are in `unit`."""
    total = TOP + len(panels) * (HEIGHT + GAP)
    last = times[-1] or 1.0
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {total}" role="img" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{total}" fill="#fff"/>'
    ]
    for number, panel in enumerate(panels):
        pieces.append(_panel(times, last, panel, TOP + number * (HEIGHT + GAP)))
    bottom = total - GAP + 18
    for mark in range(7):
        x = _x(last * mark / 6, last)
        pieces.append(f'<text x="{x:.0f}" y="{bottom}" text-anchor="middle" fill="#333">{last * mark / 6:.0f}</text>')
    pieces.append(
        f'<text x="{WIDTH - 10}" y="{bottom + 16}" text-anchor="end" fill="#333">{escape(unit)}</text></svg>\n'
    )
    return "\n".join(pieces)


def _x(at: float, last: float) -> float:
    return LEFT + (WIDTH - LEFT - 20) * at / last


def _panel(times: Sequence[float], last: float, panel: Panel, top: int) -> str:
    most = _round(max(panel.values, default=1.0))
    points = " ".join(
        f"{_x(at, last):.1f},{top + HEIGHT * (1 - value / most):.1f}"
        for at, value in zip(times, panel.values, strict=True)
    )
    right = WIDTH - 20
    pieces = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold" fill="#111">{escape(panel.title)}</text>']
    pieces += [
        f'<rect x="{_x(begin, last):.1f}" y="{top}" width="{max(1.0, _x(end, last) - _x(begin, last)):.1f}" '
        f'height="{HEIGHT}" fill="#f3d9b1"/>'
        for begin, end in panel.bands
    ]
    for share in (0.0, 0.5, 1.0):
        y = top + HEIGHT * (1 - share)
        pieces.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        pieces.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end" fill="#333">{most * share:g}</text>')
    pieces.append(f'<polyline points="{points}" fill="none" stroke="#2563ab" stroke-width="1.5"/>')
    return "\n".join(pieces)


def _round(most: float) -> float:
    """The next number that reads well as the top of a scale."""
    scale = 1.0
    while scale * 10 <= most:
        scale *= 10
    while scale > most and scale > 1e-9:
        scale /= 10
    return next((step * scale for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * scale >= most), most or 1.0)
