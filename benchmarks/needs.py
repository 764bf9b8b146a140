"""What a benchmark needs, and how it says what is missing."""

import os
import pathlib
import shutil
import sys

USAGE, MISSING, LAUNCH, FAILED = 64, 66, 69, 70


def fail(code, message, hint):
    print(f"{pathlib.Path(sys.argv[0]).name}: error: {message}\nhint: {hint}", file=sys.stderr)
    sys.exit(code)


def need_programs(binary, *others):
    """others: a program and what brings it, each."""
    for program, hint in ((binary, "launch/build"), *others, ("mpirun", "launch/setup")):
        if shutil.which(program) is None:
            fail(LAUNCH, f"{program} is not there", f"run {hint} first")


def holds_cifar10(data_dir):
    return any(pathlib.Path(data_dir, part, "data_batch_1.bin").exists() for part in ("", "cifar-10-batches-bin"))


def data_folder():
    """Where the data is when nobody says: the places where the command looks."""
    return os.environ.get("LOCKSTEP_DATA") or next(filter(holds_cifar10, ("data", "../shared/data")), "data")


def need_cifar10(data_dir):
    if not holds_cifar10(data_dir):
        fail(MISSING, f"no data_batch_1.bin in {data_dir}", "lockstep data fetch brings CIFAR-10")
