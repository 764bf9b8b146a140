"""What the parts of a GPU check left in its folder, read into plain values: losses, test results, GPUs, figures of benchmarks.

Every reader takes what a failed or killed part leaves: files that are missing, empty or torn.
"""

import csv
import json
import math
import pathlib
import re


def lines_of(path):
    try:
        return pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def finite(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def json_of(path):
    """The object in a JSON file; {} when there is none. bench makes its file before it measures, so an empty one is common."""
    try:
        value = json.loads("\n".join(lines_of(path)))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def read_losses(path):
    """Of a run's metrics.jsonl: ({step: loss}, the device it names or "", whether its data was made up)."""
    losses, device, synthetic = {}, "", False
    for line in lines_of(path):
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # the last line of a run that was killed; a step that is lost by it is told as missing
        if not isinstance(entry, dict):
            continue
        synthetic = synthetic or entry.get("data") == "SYNTHETIC"
        if entry.get("event") == "start":
            device = str(entry.get("device", ""))
        elif entry.get("event") == "train" and isinstance(entry.get("step"), int):
            losses[entry["step"]] = entry.get("train_loss")  # null: the loss was not finite
    return losses, device, synthetic


def problem_of(run, losses, steps):
    """Why a run cannot be compared over steps 1 to `steps`; "" when it can."""
    for step in range(1, steps + 1):
        if step not in losses:
            later = any(other > step for other in losses)
            return f"the {run} run did not log step {step}" if later else f"the {run} run stopped after step {step - 1} of {steps}"
        if not finite(losses[step]):
            return f"the loss of the {run} run at step {step} is not finite"
    return ""


def compare_losses(cpu_path, gpu_path, steps, limit):
    """Compares the train_loss of each step of two runs. The largest relative difference must be below `limit`.

    The differences that are there are given for failed runs too.
    """
    cpu, _, cpu_synthetic = read_losses(cpu_path)
    gpu, device, gpu_synthetic = read_losses(gpu_path)
    largest, at_step = None, None
    for step in sorted(set(cpu) & set(gpu)):
        if step > steps or not finite(cpu[step]) or not finite(gpu[step]):
            continue
        difference = abs(gpu[step] - cpu[step]) / (abs(cpu[step]) or 1.0)
        if largest is None or difference > largest:
            largest, at_step = difference, step
    problem = problem_of("CPU", cpu, steps) or problem_of("GPU", gpu, steps)
    if not problem and device.lower() == "cpu":
        problem = "the run that was to use a GPU ran on the CPU"
    if not problem and not largest < limit:
        problem = f"the losses differ by {largest:.2g} at step {at_step}, allowed is less than {limit:g}"

    def curve(losses):
        return [[step, losses[step] if finite(losses[step]) else None] for step in sorted(losses) if step <= steps]

    return {
        "steps": steps,
        "limit": limit,
        "largest": largest,
        "at_step": at_step,
        "passed": not problem,
        "problem": problem,
        "device": device,
        "synthetic": cpu_synthetic or gpu_synthetic,
        "cpu": curve(cpu),
        "gpu": curve(gpu),
    }


def comparison_words(comparison):
    if comparison["problem"]:
        return comparison["problem"]
    return f"losses of {comparison['steps']} steps differ by at most {comparison['largest']:.2g} (step {comparison['at_step']})"


# CTest's own closing line counts skipped tests as passed; the line of each test tells. A test that could not run failed.
TEST_LINE = re.compile(r"^ *\d+/\d+ Test +#\d+: (\S+) \.*(.*)$")


def read_tests(path):
    """Of CTest's output: a list of {"name", "result": passed, failed or skipped, "seconds"}."""
    tests = []
    for line in lines_of(path):
        match = TEST_LINE.match(line)
        if not match:
            continue
        said = match[2]
        seconds = re.search(r"([0-9.]+) sec", said)
        if re.match(r" *Passed +[0-9.]+ sec", said):
            result = "passed"
        elif re.search(r"\*\*\*(Skipped|Not Run \(Disabled\))", said):
            result = "skipped"
        else:
            result = "failed"
        tests.append({"name": match[1], "result": result, "seconds": float(seconds[1]) if seconds else None})
    return tests


def names_with(tests, result):
    return [test.get("name", "") for test in tests if test.get("result") == result]


def test_words(tests):
    """(whether that will do, words). Where no test passed nothing was shown, whatever CTest says."""
    passed, failed, skipped = (names_with(tests, result) for result in ("passed", "failed", "skipped"))
    words = f"{len(passed)} passed, {len(failed)} failed"
    if skipped:
        words += f", {len(skipped)} skipped"
    if failed:
        words += ": " + ", ".join(failed[:5]) + (", …" if len(failed) > 5 else "")
    return bool(passed) and not failed, words


def read_gpus(path):
    """Of nvidia-smi's name, uuid, memory.total, driver_version."""
    keys = ("name", "uuid", "memory", "driver")
    rows = csv.reader(lines_of(path), skipinitialspace=True)
    return [dict(zip(keys, (word.strip() for word in row))) for row in rows if len(row) >= len(keys)]


def read_parts(path):
    """Of the lines that launch/gpu-check wrote, one for each part."""
    keys = ("name", "result", "seconds", "title", "words")
    parts = []
    for line in lines_of(path):
        words = line.split("\t")
        if len(words) == len(keys):
            part = dict(zip(keys, words))
            part["seconds"] = int(part["seconds"]) if part["seconds"].isdigit() else None
            parts.append(part)
    return parts


def bytes_text(count):
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("k", 1 << 10)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:g}"


def comm_rows(bench):
    rows = bench.get("rows")
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def bench_words(bench):
    """(whether the figures are there, the one that matters)."""
    if bench.get("benchmark") == "comm":
        wrong = sum(row["wrong"] for row in comm_rows(bench) if finite(row.get("wrong")))
        if wrong:
            return False, f"{wrong:g} elements were not the sum"
        best = max((row for row in comm_rows(bench) if finite(row.get("busbw_GBps"))), key=lambda row: row["busbw_GBps"], default=None)
        if best is None:
            return False, "no bus bandwidth in its JSON"
        size = f" at {bytes_text(best['bytes'])}B" if finite(best.get("bytes")) else ""
        return True, f"{best['busbw_GBps']:.4g} GB/s bus bandwidth{size}, all sums right"
    overlapped = bench.get("overlapped_ms")
    median = overlapped.get("p50") if isinstance(overlapped, dict) else None
    if not finite(median):
        return False, "no step time in its JSON"
    words = f"{median:.3g} ms a step"
    # At one rank there is no communication to hide, and the figure is noise.
    if finite(bench.get("hidden_overlapped")) and bench.get("ranks") != 1:
        words += f", {100 * bench['hidden_overlapped']:.0f} % of communication hidden"
    return True, words
