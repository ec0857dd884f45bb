"""The medians as an SVG written by hand: a panel for each quantity, a bar for each engine, min..max as a line."""

from __future__ import annotations

from html import escape

from bench.endtoend.measurements import QUANTITIES, title
from bench.endtoend.report import BARE, MOLEHILL, Results

PANELS = (
    ("tcp1", "gbits"), ("tcp1", "cpu_gb"), ("plain-tcp1", "gbits"), ("plain-tcp1", "cpu_gb"), ("udp-small", "kpps"),
    ("udp-small", "cpu_packet"), ("ping", "ping_us"), ("ping-loaded", "ping_us"),
)  # fmt: skip
_WIDTH, _BAR, _GAP, _NAMES, _HEADING = 460, 16, 6, 150, 34
_COLOURS = {BARE: "#9a9a9a", MOLEHILL: "#1f6f5c"}
_OTHER, _OURS = "#c27a2c", "#6fae9f"


def _panel(results: Results, measurement: str, quantity: str, x: float, y: float) -> str:
    """One panel with its upper left corner at (x, y)."""
    q = QUANTITIES[quantity]
    shown = [
        (engine, results.get(engine, measurement, quantity))
        for engine in results.values
        if results.get(engine, measurement, quantity) and not (engine == BARE and "cpu" in quantity)
    ]
    most = max(max(values) for _, values in shown) or 1
    room = _WIDTH - _NAMES - 70
    better = "more is better" if q.more_is_better else "less is better"
    parts = [
        f'<text x="{x}" y="{y + 14}" class="t">{escape(title(measurement))}</text>',
        f'<text x="{x}" y="{y + 28}" class="s">{escape(q.title)}, {q.unit}; {better}</text>',
    ]
    for row, (engine, values) in enumerate(shown):
        top = y + _HEADING + row * (_BAR + _GAP)
        middle = results.median(engine, measurement, quantity) or 0.0
        left, scale = x + _NAMES, room / most
        colour = _COLOURS.get(engine, _OURS if engine.startswith(MOLEHILL) else _OTHER)
        line = top + _BAR / 2
        parts += [
            f'<text x="{left - 6}" y="{top + 12}" class="n">{escape(engine)}</text>',
            f'<rect x="{left}" y="{top}" width="{middle * scale:.1f}" height="{_BAR}" fill="{colour}"/>',
            f'<path d="M{left + min(values) * scale:.1f} {line}H{left + max(values) * scale:.1f}" stroke="#222"/>',
            f'<text x="{left + max(values) * scale + 5:.1f}" y="{top + 12}" class="v">{middle:.{q.digits}f}</text>',
        ]
    return "\n".join(parts)


def chart(results: Results) -> str:
    """The whole picture, two panels in a row; only what was measured."""
    panels = [
        (measurement, quantity)
        for measurement, quantity in PANELS
        if any(results.get(engine, measurement, quantity) for engine in results.values if engine != BARE)
    ]
    height = _HEADING + len(results.values) * (_BAR + _GAP) + 14
    rows = -(-len(panels) // 2)
    body = [
        _panel(results, *panel, x=12 + number % 2 * _WIDTH, y=10 + number // 2 * height)
        for number, panel in enumerate(panels)
    ]
    style = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold}.s{fill:#666;font-size:11px}.n{text-anchor:end}"
    size = f'width="{2 * _WIDTH + 24}" height="{rows * height + 20}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(body) + "\n</svg>\n"
    )
