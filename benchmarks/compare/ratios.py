"""What the figures of all rounds say: medians, and ratios taken within rounds with their spread."""

import statistics


def median(record):
    return statistics.median(record["images_per_s"])


def measured(records):
    return [record for record in records if record["images_per_s"]]


def ratio(above, below):
    """Median, least and greatest over the rounds; rounds hit both alike, so a ratio is steadier than its parts."""
    each = [a / b for a, b in zip(above["images_per_s"], below["images_per_s"])]
    return {"median": statistics.median(each), "least": min(each), "greatest": max(each)}


def words(value):
    return f"{value['median']:.2f} ({value['least']:.2f}-{value['greatest']:.2f})"


PYTHON = ("tutorial", "tuned", "compiled", "graphed")


def best(records, groups, precision):
    chosen = [record for record in measured(records) if record["group"] in groups and record["precision"] == precision]
    return max(chosen, key=median, default=None)


def required(records):
    """The ratios that Lockstep is held to: what is compared, which two contenders stand for it, the ratio, and what is wanted."""
    by_key = {record["key"]: record for record in measured(records)}
    pairs = [
        ("Lockstep with the tutorial's settings / torchrun DDP with the tutorial's loop", by_key.get("lockstep-tutorial-ranks"), by_key.get("tutorial-ddp"), 1.9),
        ("Lockstep fp32 channels_last, as many ranks / torchrun DDP with the tutorial's loop", by_key.get("lockstep-fp32-ranks"), by_key.get("tutorial-ddp"), 1.9),
        ("best Lockstep fp32 / best PyTorch fp32", best(records, ["lockstep"], "fp32"), best(records, PYTHON, "fp32"), 1.35),
        ("best Lockstep bf16 / best PyTorch bf16", best(records, ["lockstep"], "bf16"), best(records, PYTHON, "bf16"), 1.35),
    ]
    found = []
    for what, above, below, wanted in pairs:
        entry = {"what": what, "wanted": wanted}
        if above and below:
            entry |= {"above": above["key"], "below": below["key"], **ratio(above, below)}
        found.append(entry)
    return found


def table(records):
    """A line for each contender; the ratios are to torchrun DDP's tutorial loop, and to the best PyTorch of that precision."""
    baselines = {record["key"]: record for record in measured(records)}
    tutorial = baselines.get("tutorial-ddp") or baselines.get("tutorial-gpu")
    lines = [f"{'':<54} {'images/s':>8} {'(least-greatest)':>17} {'start':>7}   {'/ tutorial in Python':<20} / best PyTorch of its precision"]
    for record in records:
        if not record["images_per_s"]:
            lines.append(f"{record['title']:<54} skipped: {record['problem']}")
            continue
        speeds = record["images_per_s"]
        spread = f"({min(speeds):.0f}-{max(speeds):.0f})"
        line = f"{record['title']:<54} {median(record):>8.0f} {spread:>17} {statistics.median(record['startup_s']):>5.1f} s"
        rival = best(records, PYTHON, record["precision"])
        line += f"   {words(ratio(record, tutorial)) if tutorial else '':<20}"
        line += f" {words(ratio(record, rival)) if rival else ''}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def required_lines(records):
    lines = []
    for entry in required(records):
        if "median" not in entry:
            continue
        verdict = "reached" if entry["median"] >= entry["wanted"] else "MISSED"
        lines.append(f"{entry['what']}: {words(entry)}, wanted {entry['wanted']}: {verdict}   [{entry['above']} / {entry['below']}]")
    return "\n".join(lines)
