"""A line chart as inline SVG. Colours come from the page's CSS (curve0, curve1, grid), so it follows light and dark."""

import html
import math

from gpu_report_pieces import bytes_text

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 80, 15, 30, 45


def round_ticks(low, high, wanted=5):
    """Round numbers that lie from low to high, about as many as wanted."""
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def y_range(values, from_zero):
    low, high = min(values), max(values)
    if from_zero:
        return 0.0, high * 1.05 or 1.0
    margin = (high - low) * 0.05 or abs(high) * 0.01 or 1.0
    return low - margin, high + margin


def chart(title, curves, x_label, y_label, x_bytes=False, x_ticks=None):
    """`curves` is [(name, [[x, y], …]), …] of finite numbers; "" where no curve has two points.

    With x_bytes the x axis counts bytes, by doubling, and the y axis begins at 0. x_ticks: where the x axis has numbers.
    """
    points = [(x, y) for _, curve in curves for x, y in curve if x > 0 or not x_bytes]
    if len({x for x, _ in points}) < 2:
        return ""
    scale = math.log2 if x_bytes else float
    x_low, x_high = (scale(pick(x for x, _ in points)) for pick in (min, max))
    y_low, y_high = y_range([y for _, y in points], from_zero=x_bytes)

    def across(x):
        return LEFT + (scale(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y):
        return TOP + (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    def label(x, y, words, anchor):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'

    parts = []
    for tick in round_ticks(y_low, y_high):
        parts.append(f'<path class="grid" d="M{LEFT} {down(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(label(LEFT - 8, down(tick) + 4, f"{tick:.6g}", "end"))
    if x_ticks is None:
        x_ticks = [2.0**power for power in range(math.ceil(x_low), math.floor(x_high) + 1, 4)] if x_bytes else round_ticks(x_low, x_high, 8)
    for tick in x_ticks:
        parts.append(label(across(tick), HEIGHT - BOTTOM + 18, bytes_text(tick) if x_bytes else f"{tick:g}", "middle"))
    parts.append(label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_label, "middle"))
    parts.append(label(LEFT, TOP - 12, y_label, "end"))
    legend = LEFT + 60
    for i, (name, curve) in enumerate(curves):
        shown = sorted((x, y) for x, y in curve if x > 0 or not x_bytes)
        if not shown:
            continue
        path = "L".join(f"{across(x):.1f} {down(y):.1f}" for x, y in shown)
        parts.append(f'<path class="curve{i}" d="M{path}"/>')
        parts.append(f'<path class="curve{i}" d="M{legend} {TOP - 16}h28"/>')
        parts.append(label(legend + 36, TOP - 12, name, "start"))
        legend += 60 + 9 * len(name)
    name = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">\n' + "\n".join(parts) + "\n</svg>"
