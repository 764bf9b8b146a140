"""A chart of horizontal bars as an SVG file: each the median of some values, with a line from the least to the greatest."""

import html
import statistics

ROW, LEFT, RIGHT, TOP, BOTTOM, WIDTH = 24, 360, 70, 40, 30, 900
STYLE = """
svg { font: 13px sans-serif; background: #fff } text { fill: #222 } .axis { stroke: #ccc } .spread { stroke: #222; stroke-width: 1.5 }
.bar0 { fill: #9aa5b1 } .bar1 { fill: #6f8faf } .bar2 { fill: #b59f6b } .bar3 { fill: #2a7f62 }
@media (prefers-color-scheme: dark) { svg { background: #16181b } text { fill: #ddd } .axis { stroke: #444 } .spread { stroke: #ddd } }
"""


def nice_step(high, wanted=6):
    power = 10 ** (len(str(int(high / wanted))) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if high / (factor * power) <= wanted)


def bars(title, rows, unit):
    """`rows` is [(name, values, colour from 0 to 3), …]; values are at least 1 somewhere."""
    high = max(max(values) for _, values, _ in rows)
    bottom = TOP + ROW * len(rows)

    def across(value):
        return LEFT + value / high * (WIDTH - LEFT - RIGHT)

    def text(x, y, words, anchor):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(words)}</text>'

    parts = [text(10, 22, title, "start")]
    step = nice_step(high)
    for i in range(int(high / step) + 1):
        parts.append(f'<path class="axis" d="M{across(i * step):.1f} {TOP}V{bottom}"/>')
        parts.append(text(across(i * step), bottom + 18, f"{i * step:,}", "middle"))
    parts.append(text(WIDTH - 10, bottom + 18, unit, "end"))
    for i, (name, values, colour) in enumerate(rows):
        middle = TOP + ROW * (i + 0.5)
        end = across(statistics.median(values))
        parts.append(text(LEFT - 8, middle + 4, name, "end"))
        parts.append(f'<rect class="bar{colour}" x="{LEFT}" y="{middle - 8}" width="{end - LEFT:.1f}" height="16"/>')
        parts.append(f'<path class="spread" d="M{across(min(values)):.1f} {middle}H{across(max(values)):.1f}"/>')
        parts.append(text(max(end, across(max(values))) + 6, middle + 4, f"{statistics.median(values):,.0f}", "start"))
    size = f'viewBox="0 0 {WIDTH} {bottom + BOTTOM}" width="{WIDTH}" height="{bottom + BOTTOM}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
