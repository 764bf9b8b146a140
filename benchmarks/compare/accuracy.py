"""Seconds from exec until a test accuracy stands in the output, evaluation and start-up included."""

import re
import time

from contenders import json_lines, lockstep_command, python_command, python_environment
from jobs import Job
from machine import cores
from needs import USAGE, fail

DEFAULT = ["tutorial@15:56.7", "tuned:56.7,75", "tuned+train.precision=bf16:56.7,75"]
HOURS = 3600


def wishes(words):
    """[(recipe, [settings], epochs or None for the recipe's own, [accuracies])] of RECIPE[+SETTING=VALUE][@EPOCHS]:PERCENT[,PERCENT] words."""
    found = []
    for word in words or DEFAULT:
        match = re.fullmatch(r"([^@:+]+)((?:\+[^@:+]+=[^@:+]+)*)(?:@(\d+))?:(\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)*)", word)
        if not match:
            fail(USAGE, f"--accuracy '{word}' is not RECIPE[+SETTING=VALUE][@EPOCHS]:PERCENT", "for instance tutorial@15:56.7")
        found.append((match[1], match[2].split("+")[1:], match[3], sorted(float(percent) / 100 for percent in match[4].split(","))))
    return found


def watch(command, folder, env, tests_in, targets):
    """Runs a command until its last target is reached or it ends; tests_in(job) gives the accuracies said so far."""
    reached, tests = {}, []
    with Job(command, folder, env) as job:
        deadline = time.monotonic() + 6 * HOURS
        while len(reached) < len(targets) and time.monotonic() < deadline:
            ended = job.process.poll() is not None
            seconds = time.time() - job.started
            for accuracy in tests_in(job)[len(tests) :]:
                tests.append({"seconds": seconds, "accuracy": accuracy})
                for target in targets:
                    if accuracy >= target:
                        reached.setdefault(f"{100 * target:g}", seconds)
            if ended:
                break
            time.sleep(0.05)
        code = job.process.poll()
        problem = f"exit code {code}: {job.last_words()}" if code else ""
    return {"reached_s": reached, "tests": tests, "problem": problem}


def report(title, targets, outcome):
    print(f"\n{title}: {outcome['problem'] and 'skipped: ' + outcome['problem']}")
    for target in targets:
        seconds = outcome["reached_s"].get(f"{100 * target:g}")
        best = max((test["accuracy"] for test in outcome["tests"]), default=0)
        if not outcome["problem"]:
            print(f"  {100 * target:g} %: " + (f"{seconds:.1f} s" if seconds else f"not reached; the best was {100 * best:.2f} %"), flush=True)
    return {"title": title, **outcome}


def time_to_accuracy(options, wanted, temporary):
    threads = len(cores())
    outcomes = []
    for number, (recipe, settings, epochs, targets) in enumerate(wanted):
        if recipe == "tutorial":
            words = python_command(options, "tutorial", "fp32", 1, threads) + ["--evaluate", epochs or 10]
            env = python_environment(options, temporary, "tutorial", threads)

            def said(job):
                return [line["accuracy"] for line in json_lines(job.out) if line["event"] == "test"]

            outcome = watch(words, temporary / "python", env, said, targets)
            outcomes.append(report(f"PyTorch, the tutorial's script, 1 process, {threads} threads", targets, outcome))
        run = temporary / f"run-{number}"
        sets = [word for setting in ("data.shuffle=true", *settings) for word in ("--set", setting)]
        words = ["--recipe", recipe, *sets, *(["--epochs", epochs] if epochs else [])]

        def logged(_, run=run):
            return [line["test_accuracy"] for line in json_lines(run / "metrics.jsonl") if line["event"] == "test"]

        outcome = watch(lockstep_command(options, options.ranks, 1, run, *words), temporary / "lockstep", {}, logged, targets)
        outcomes.append(report(f"Lockstep, recipe {' with '.join([recipe, *settings])}, {options.ranks} ranks", targets, outcome))
    return outcomes
