"""Line charts as SVG text, so that a report is one file that needs nothing."""

from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["line_chart"]

_COLOURS = ("#1f6feb", "#d9480f", "#2b8a3e", "#862e9c", "#495057")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 380, 240, 46, 34, 26, 10

Points = Sequence[tuple[float, float]]


def line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    levels: Mapping[str, float] | None = None,
    x_label: str,
    marks: bool = False,
) -> str:
    """One chart: lines (or ``marks`` alone) by name, and dashed horizontal ``levels``."""
    levels = levels or {}
    xs = [x for points in series.values() for x, _ in points] or [0.0]
    ys = [y for points in series.values() for _, y in points] + list(levels.values()) or [0.0]
    low_x, high_x, low_y, high_y = min(xs), max(xs), min(ys), max(ys)
    wide, high = (high_x - low_x) or 1.0, (high_y - low_y) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (x - low_x) / wide * (_WIDTH - _LEFT - _RIGHT),
            _TOP + (high_y - y) / high * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">',
        f'<text x="{_LEFT}" y="15" font-weight="bold">{escape(title)}</text>',
    ]
    for y in (low_y, (low_y + high_y) / 2, high_y):
        x0, place = at(low_x, y)
        parts.append(f'<path d="M{x0:.1f} {place:.1f}H{_WIDTH - _RIGHT}" stroke="#e0e0e0"/>')
        parts.append(f'<text x="{_LEFT - 4}" y="{place + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    for x in (low_x, high_x):
        place, _ = at(x, low_y)
        anchor = "start" if x == low_x else "end"
        parts.append(
            f'<text x="{place:.1f}" y="{_HEIGHT - 18}" text-anchor="{anchor}">{x:g}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for name, level in levels.items():
        x0, place = at(low_x, level)
        parts.append(
            f'<path d="M{x0:.1f} {place:.1f}H{_WIDTH - _RIGHT}" stroke="#888" '
            f'stroke-dasharray="4 3"/><text x="{_WIDTH - _RIGHT}" y="{place - 3:.1f}" '
            f'text-anchor="end" fill="#666">{escape(name)}</text>'
        )
    for (name, points), colour in zip(series.items(), _COLOURS * 8, strict=False):
        places = [at(x, y) for x, y in points]
        if marks:
            for (x, y), _ in zip(places, points, strict=True):
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
                parts.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}">{escape(name)}</text>')
        else:
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            )
    return "".join(parts) + _legend([] if marks else list(series)) + "</svg>"


def _legend(names: Sequence[str]) -> str:
    parts, x = [], float(_LEFT + 6)
    for name, colour in zip(names, _COLOURS * 8, strict=False):
        parts.append(
            f'<rect x="{x:.0f}" y="{_HEIGHT - 30}" width="10" height="3" fill="{colour}"/>'
        )
        parts.append(
            f'<text x="{x + 13:.0f}" y="{_HEIGHT - 26}" fill="{colour}">{escape(name)}</text>'
        )
        x += 24 + 6.2 * len(name)
    return "".join(parts)
