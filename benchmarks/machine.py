"""The machine that a benchmark runs on."""

import os
import pathlib
import subprocess


def cores():
    """The CPUs of each core that this process may use, as taskset takes them: hyper-threads of one core are one entry."""
    mine = os.sched_getaffinity(0)
    found = {}
    try:
        lines = subprocess.run(["lscpu", "--parse=CPU,CORE,SOCKET"], capture_output=True, text=True, check=True).stdout.splitlines()
        for line in lines:
            if not line.startswith("#") and int(line.split(",")[0]) in mine:
                found.setdefault(tuple(line.split(",")[1:]), []).append(line.split(",")[0])
    except (OSError, subprocess.CalledProcessError):
        return [str(cpu) for cpu in sorted(mine)]
    return [",".join(cpus) for cpus in found.values()]


def cpu_model():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def gpus():
    """The names of the GPUs that nvidia-smi lists; none without a driver."""
    try:
        listed = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return listed.stdout.splitlines() if listed.returncode == 0 else []


def mpirun(ranks):
    """mpirun for ranks with a core each; where there are fewer, or only a part of the machine, which it would not respect, the scheduler places them."""
    if ranks <= len(cores()) and len(os.sched_getaffinity(0)) == os.cpu_count():
        return ["mpirun", "-n", ranks, "--bind-to", "core", "--map-by", "core"]
    more = ["--mca", "mpi_yield_when_idle", "1"] if ranks > len(cores()) else []
    return ["mpirun", "-n", ranks, "--bind-to", "none", "--oversubscribe", *more]
