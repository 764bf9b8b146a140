"""The report of launch/gpu-check, from the pieces that its parts leave in a folder. Needs Python 3.9 or later, and nothing else.

`compare`, `tests` and `figure` print one line each, and end with 1 when what they looked at is not as it should be.
"""

import argparse
import json
import math
import pathlib
import sys

import gpu_report_page
import gpu_report_pieces as pieces


def clean(value):
    """The same without NaN and infinities, which JSON cannot say."""
    if isinstance(value, dict):
        return {str(key): clean(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path, value):
    path.write_text(json.dumps(clean(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def answer(passed, words):
    print(words)
    return 0 if passed else 1


def compare(args):
    comparison = pieces.compare_losses(args.cpu, args.gpu, args.steps, args.limit)
    write_json(args.out, {"title": args.title, "ranks": args.ranks, **comparison})
    return answer(comparison["passed"], pieces.comparison_words(comparison))


def tests(args):
    return answer(*pieces.test_words(pieces.read_tests(args.log)))


def figure(args):
    return answer(*pieces.bench_words(pieces.json_of(args.json)))


def collect(args):
    folder = args.folder
    parts = pieces.read_parts(folder / "parts.tsv")
    losses = [pieces.json_of(folder / f"{part['name']}.json") for part in parts if part["name"].startswith("loss-")]
    losses = [loss for loss in losses if loss]
    # Real data is what no run calls synthetic; without a run nothing is known.
    data = ("SYNTHETIC" if any(loss["synthetic"] for loss in losses) else "CIFAR-10") if losses else ""
    report = {
        "recorded": f"{args.date} by launch/gpu-check",
        "ranks": args.ranks,
        "data": data,
        "commit": args.commit,
        "kernel": args.kernel,
        "versions": [line for line in pieces.lines_of(folder / "versions.txt") if line.strip()],
        "gpus": pieces.read_gpus(folder / "gpus.csv"),
        "parts": parts,
        "tests": pieces.read_tests(folder / "ctest.log"),
        "losses": losses,
        "bench_step": pieces.json_of(folder / "bench-step.json"),
        "bench_comm": pieces.json_of(folder / "bench-comm.json"),
    }
    write_json(folder / "gpu-report.json", report)
    return 0


def page(args):
    args.html.write_text(gpu_report_page.page(pieces.json_of(args.json)), encoding="utf-8")
    return 0


def summary(args):
    report = pieces.json_of(args.json)
    rows = [("part", "result", "")]
    rows += [tuple(str(part.get(key) or "") for key in ("title", "result", "words")) for part in report.get("parts", [])]
    width = max(len(row[0]) for row in rows)
    for title, result, words in rows:
        print(f"{title:<{width}}  {result:<8} {words}".rstrip())
    if report.get("data") == "SYNTHETIC":
        print("The images are SYNTHETIC: made up, not CIFAR-10.")
    return 0


def main(words):
    parser = argparse.ArgumentParser(prog="gpu_report.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function, text, *paths):
        added = commands.add_parser(function.__name__, help=text)
        added.set_defaults(function=function)
        for name in paths:
            added.add_argument(name, type=pathlib.Path)
        return added

    comparing = command(compare, "the losses of two runs, from their metrics.jsonl; also into the file OUT as JSON", "cpu", "gpu", "out")
    comparing.add_argument("--steps", type=int, required=True)
    comparing.add_argument("--limit", type=float, required=True)
    comparing.add_argument("--ranks", type=int, default=1)
    comparing.add_argument("--title", default="")
    command(tests, "counts the tests in CTest's output", "log")
    command(figure, "the number that matters in the JSON of a benchmark", "json")
    collecting = command(collect, "writes FOLDER/gpu-report.json from all pieces in it", "folder")
    collecting.add_argument("--ranks", type=int, required=True)
    for name in ("date", "commit", "kernel"):
        collecting.add_argument("--" + name, default="")
    command(page, "makes the HTML page from gpu-report.json", "json", "html")
    command(summary, "prints gpu-report.json as a table for a terminal", "json")
    args = parser.parse_args(words)
    return args.function(args)


if __name__ == "__main__":
    # A file that cannot be read or written is a message, not a stack of calls.
    try:
        sys.exit(main(sys.argv[1:]))
    except OSError as error:
        sys.exit(f"gpu_report: {error}")
