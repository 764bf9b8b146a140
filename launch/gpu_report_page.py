"""The page of a GPU check: one HTML file made from gpu-report.json, which needs no network and no scripts.

Whatever is missing in the JSON is said to be missing; a value that is no finite number is a dash.
"""

import html
import re

from gpu_report_chart import chart
from gpu_report_pieces import bytes_text, comm_rows, finite, names_with

DASH = "–"

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --dim: #5b6670; --paper: #fff; --line: #d6dbe0; --good: #1a7f37; --bad: #c62828;
  --note: #9a6700; --cpu: #5b8def; --gpu: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --dim: #98a3ad; --paper: #14181c; --line: #343c44; --good: #57c173;
  --bad: #ff7b72; --note: #e3b341; --cpu: #79a8ff; --gpu: #ff9e64; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
.dim { color: var(--dim); } .passed { color: var(--good); } .failed { color: var(--bad); } .finding, .skipped { color: var(--note); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; min-width: 50%; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top; }
.number { text-align: right; font-variant-numeric: tabular-nums; } code { font-size: .9em; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { fill: var(--dim); font: 13px system-ui, sans-serif; } .grid { stroke: var(--line); }
.curve0, .curve1 { fill: none; } .curve0 { stroke: var(--cpu); stroke-width: 6; opacity: .5; }
.curve1 { stroke: var(--gpu); stroke-width: 1.8; }
"""


def text(value):
    """Any value as HTML text; control characters, which HTML forbids, become blanks."""
    return html.escape(re.sub(r"[\x00-\x1f\x7f]", " ", "" if value is None else str(value)))


def number(value, form=".4g"):
    if not finite(value):
        return DASH
    return format(round(value) if form == "d" else value, form)


def values_of(value):
    """The objects in what should be a list of objects."""
    return [inner for inner in value if isinstance(inner, dict)] if isinstance(value, list) else []


def object_of(value):
    return value if isinstance(value, dict) else {}


def table(head, rows, numbers_from=None):
    """`head` is plain text, cells are HTML; the columns from numbers_from on are numbers."""

    def cell(tag, index, content):
        kind = ' class="number"' if numbers_from is not None and index >= numbers_from else ""
        return f"<{tag}{kind}>{content}</{tag}>"

    lines = ["<tr>" + "".join(cell("th", i, text(word)) for i, word in enumerate(head)) + "</tr>"]
    lines += ["<tr>" + "".join(cell("td", i, content) for i, content in enumerate(row)) + "</tr>" for row in rows]
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def result(word):
    known = word if word in ("passed", "failed", "finding", "skipped") else "dim"
    return f'<span class="{known}">{text(word) or DASH}</span>'


def missing(report, prefix):
    """Why there is nothing to show of the parts whose names begin so, as far as the report knows."""
    parts = [part for part in values_of(report.get("parts")) if str(part.get("name", "")).startswith(prefix)]
    said = [f"{text(part.get('title'))}: {result(part.get('result'))}, {text(part.get('words'))}." for part in parts]
    return f"<p>{' '.join(said) or 'This part did not run.'}</p>"


def findings(report):
    """What a reader must know before the tables."""
    found = []
    for part in values_of(report.get("parts")):
        if part.get("result") in ("failed", "finding"):
            found.append(f"{result(part['result'])}: {text(part.get('title'))}: {text(part.get('words'))}")
        if part.get("result") == "finding":
            found.append("Several ranks on one GPU is what NVIDIA calls experimental in NCCL; it does not fail the check.")
    if report.get("data") == "SYNTHETIC":
        found.append("The images are SYNTHETIC: made up by <code>lockstep data synthesize</code>, not CIFAR-10.")
    skipped = names_with(values_of(report.get("tests")), "skipped")
    if skipped:
        found.append(f"Tests that were skipped here: {text(', '.join(map(str, skipped)))}.")
    items = "".join(f"<li>{item}</li>" for item in found)
    return f"<h2>Findings</h2>\n<ul>{items}</ul>" if found else ""


def machine(report):
    gpus = [
        [text(i), text(gpu.get("name")), text(gpu.get("memory")), text(gpu.get("driver")), f"<code>{text(gpu.get('uuid'))}</code>"]
        for i, gpu in enumerate(values_of(report.get("gpus")))
    ]
    versions = report.get("versions") if isinstance(report.get("versions"), list) else []
    facts = [
        ["ranks", number(report.get("ranks"), "d") + ", each with a GPU of its own"],
        ["data", text(report.get("data")) or "unknown"],
        ["commit", f"<code>{text(report.get('commit')) or 'unknown'}</code>"],
        ["kernel", text(report.get("kernel")) or "unknown"],
        ["versions", "<br>".join(map(text, versions)) or "unknown"],
    ]
    listed = table(["", "GPU", "memory", "driver", "UUID"], gpus) if gpus else "<p>nvidia-smi named no GPU.</p>"
    return f"<h2>GPUs</h2>\n{listed}\n<h2>Versions</h2>\n{table(['', ''], facts)}"


def tests(report):
    order = {"failed": 0, "skipped": 1}
    all_tests = sorted(values_of(report.get("tests")), key=lambda test: order.get(test.get("result"), 2))
    rows = [
        [f"<code>{text(test.get('name'))}</code>", result(test.get("result")), number(test.get("seconds"), ".2f")] for test in all_tests
    ]
    body = table(["test", "result", "s"], rows, numbers_from=2) if rows else missing(report, "tests")
    return f"<h2>GPU tests</h2>\n{body}"


def curve(value):
    """The points of a curve that are numbers."""
    points = value if isinstance(value, list) else []
    return [point for point in points if isinstance(point, list) and len(point) == 2 and all(map(finite, point))]


def loss(comparison, part):
    curves = [("CPU", curve(comparison.get("cpu"))), ("GPU", curve(comparison.get("gpu")))]
    rows = []
    for name, points in curves:
        first, last = (points[0][1], points[-1][1]) if points else (None, None)
        rows.append([name, number(len(points), "d"), number(first, ".6f"), number(last, ".6f")])
    verdict = result("passed")
    if comparison.get("passed") is not True:
        # What does not fail the check is no red word here either.
        verdict = f"{result('finding' if part.get('result') == 'finding' else 'failed')}: {text(comparison.get('problem'))}"
    largest = f"Largest relative difference {number(comparison.get('largest'), '.2e')} at step {number(comparison.get('at_step'), 'd')}"
    lines = [
        f"<h3>{text(comparison.get('title'))}</h3>",
        f"<p>{verdict}. {largest}; allowed is less than {number(comparison.get('limit'), 'g')}.</p>",
        chart("train loss by step, CPU and GPU", curves, x_label="step", y_label="train loss"),
        table(["", "steps", "first loss", "last loss"], rows, numbers_from=1),
    ]
    return "\n".join(lines)


LOSS_WORDS = """<p class="dim">The same steps of the recipe <code>tutorial</code> in float32, on the CPU and on GPUs. The two add in another
order, so their losses differ in the last digits, and a little more with each step.</p>"""


def losses(report):
    by_title = {part.get("title"): part for part in values_of(report.get("parts"))}
    shown = [loss(comparison, by_title.get(comparison.get("title"), {})) for comparison in values_of(report.get("losses"))]
    body = LOSS_WORDS + "\n" + "\n".join(shown) if shown else missing(report, "loss")
    return f"<h2>Loss on the CPU and on GPUs</h2>\n{body}"


def ranks_on(bench):
    ranks = bench.get("ranks")
    return f"{number(ranks, 'd')} rank{'' if ranks == 1 else 's'} on {text(bench.get('device')) or 'an unnamed device'}"


# Name, key, and the key of what share of the communication is hidden.
PHASES = (
    ("forward", "forward", None),
    ("backward", "backward", None),
    ("optimizer", "optimizer", None),
    ("step that synchronises and sends nothing", "synchronised", None),
    ("step with one blocking all-reduce after backward", "blocking", None),
    ("step with buckets, in the thread of backward", "in_buckets", "hidden_in_buckets"),
    ("step with buckets that travel during backward", "overlapped", "hidden_overlapped"),
)


def step(report):
    bench = object_of(report.get("bench_step"))
    if not any(f"{key}_ms" in bench for _, key, _ in PHASES):
        return "<h2>A step</h2>\n" + missing(report, "bench-step")
    rows = []
    for name, key, hidden in PHASES:
        times, share = object_of(bench.get(f"{key}_ms")), bench.get(hidden)
        # At one rank there is no communication to hide, and the figure is noise.
        percent = number(100 * share, ".0f") + " %" if finite(share) and bench.get("ranks") != 1 else ""
        rows.append([name, number(times.get("p50"), ".3f"), number(times.get("p95"), ".3f"), percent])
    sizes = {key: number(bench.get(key), "d") for key in ("layers", "width", "batch", "gradient_bytes", "steps")}
    form = "{layers} linear layers of width {width}, {batch} rows a rank, {gradient_bytes} bytes of gradients, {steps} steps; "
    words = form.format(**sizes)
    drawn = table(["phase", "p50 ms", "p95 ms", "hidden"], rows, numbers_from=1)
    return f'<h2>A step</h2>\n<p class="dim">{words}{ranks_on(bench)}.</p>\n{drawn}'


def comm(report):
    bench = object_of(report.get("bench_comm"))
    measured = comm_rows(bench)
    if not measured:
        return "<h2>All-reduce</h2>\n" + missing(report, "bench-comm")
    points, rows = [], []
    for row in measured:
        size, bandwidth, us = row.get("bytes"), row.get("busbw_GBps"), object_of(row.get("time_us"))
        if finite(size) and finite(bandwidth):
            points.append([size, bandwidth])
        times = [number(us.get(key), ".2f") for key in ("mean", "p50", "p95", "p99")]
        rows.append([bytes_text(size) if finite(size) else DASH, *times, number(row.get("algbw_GBps"), ".3f"), number(bandwidth, ".3f"),
                     number(row.get("wrong"), "d")])
    # The first curve's colour is the CPU's.
    drawn = chart("bus bandwidth by size", [("", []), ("bus bandwidth", points)], x_label="bytes", y_label="GB/s", x_bytes=True)
    head = ["bytes", "mean µs", "p50 µs", "p95 µs", "p99 µs", "algbw GB/s", "busbw GB/s", "wrong"]
    return (f'<h2>All-reduce</h2>\n<p class="dim">In place, sum of float32; {ranks_on(bench)}.</p>\n{drawn}\n'
            + table(head, rows, numbers_from=0))


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
<p class="dim">Recorded: {recorded}</p>
<p>{verdict}</p>
{parts}
{sections}
</body>
</html>
"""


def page(report):
    parts = values_of(report.get("parts"))
    failed = [text(part.get("title")) for part in parts if part.get("result") == "failed"]
    verdict = result("passed") if parts else "Nothing ran."
    if failed:
        verdict = f"{result('failed')}: {', '.join(failed)}"
    rows = []
    for part in parts:
        rows.append([text(part.get("title")), result(part.get("result")), text(part.get("words")), number(part.get("seconds"), "d")])
    names = sorted({str(gpu["name"]) for gpu in values_of(report.get("gpus")) if gpu.get("name")})
    return PAGE.format(
        title="Lockstep on " + (text(" and ".join(names)) if names else "GPUs"),
        style=STYLE,
        recorded=text(report.get("recorded")) or "unknown",
        verdict=verdict,
        parts=table(["part", "result", "", "s"], rows, numbers_from=3),
        sections="\n".join(make(report) for make in (findings, machine, tests, losses, step, comm)),
    )
