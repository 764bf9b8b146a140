"""Who takes part: the same network, images, batch a rank and steps, in Python and by Lockstep."""

import dataclasses
import json
import pathlib
import time

from machine import cores, mpirun

TOP = pathlib.Path(__file__).resolve().parents[2]
TRAINING = TOP / "benchmarks" / "compare" / "pytorch_training.py"

# As lockstep/memory.h has it. Freed memory that stays with the process is half of what makes tensors in memory fast.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(2047 << 20), "MALLOC_TOP_PAD_": str(64 << 20)}


@dataclasses.dataclass(frozen=True)
class Contender:
    key: str
    title: str
    ranks: int
    threads: int  # of each rank
    group: str  # tutorial, tuned, compiled, graphed or lockstep
    precision: str = "fp32"
    settings: tuple = ()  # Lockstep's
    optional: bool = False  # it may fail: what it needs is not on every machine
    deterministic: bool = False  # of PyTorch on GPUs; Lockstep always is


def contenders(ranks, all_threads):
    found = []

    def python(group, key, title, precision="fp32", threads=all_threads):
        found.append(Contender(f"{key}-{threads}t", f"{title}, 1 process, {threads} thread{'s'[: threads > 1]}", 1, threads, group, precision, (), group == "compiled"))

    def torchrun(group, key, title, precision="fp32"):
        found.append(Contender(f"{key}-ddp", f"{title}, DDP, {ranks} processes", ranks, 1, group, precision, (), group == "compiled"))

    for threads in sorted({1, all_threads}):
        python("tutorial", "tutorial", "PyTorch, the tutorial's loop", threads=threads)
    torchrun("tutorial", "tutorial", "PyTorch, the tutorial's loop")
    for group in ("tuned", "compiled"):
        for precision in ("fp32", "bf16"):
            name = f"PyTorch, {group}, {precision}"
            python(group, f"{group}-{precision}", name, precision)
            torchrun(group, f"{group}-{precision}", name, precision)
    last = ("train.memory_format=channels_last",)
    for key, title, precision, settings in (
        ("tutorial", "Lockstep, tutorial's settings", "fp32", ()),
        ("fp32", "Lockstep, channels_last, fp32", "fp32", last),
        ("bf16", "Lockstep, channels_last, bf16", "bf16", (*last, "train.precision=bf16")),
    ):
        found.append(Contender(f"lockstep-{key}-ranks", f"{title}, {ranks} ranks", ranks, 1, "lockstep", precision, settings))
        found.append(Contender(f"lockstep-{key}-{all_threads}t", f"{title}, 1 rank, {all_threads} threads", 1, all_threads, "lockstep", precision, settings))
    return found


def gpu_contenders(gpus, threads):
    """A rank for each GPU. What PyTorch has more of, on one GPU, is a whole step as a graph."""
    found = []
    where = "1 GPU" if gpus == 1 else f"{gpus} GPUs"

    def add(group, key, title, precision="fp32", settings=(), optional=False, deterministic=False):
        found.append(Contender(f"{key}-gpu", f"{title}, {where}", gpus, threads, group, precision, settings, optional, deterministic))

    add("tutorial", "tutorial", "PyTorch, the tutorial's loop")
    for precision in ("fp32", "bf16"):
        add("tuned", f"tuned-{precision}", f"PyTorch, tuned, {precision}", precision)
        add("compiled", f"compiled-{precision}", f"PyTorch, compiled, {precision}", precision, optional=True)
        if gpus == 1:
            add("graphed", f"graphed-{precision}", f"PyTorch, graphed, {precision}", precision)
            add("graphed", f"graphed-{precision}-deterministic", f"PyTorch, graphed, deterministic, {precision}", precision, deterministic=True)
    add("lockstep", "lockstep-tutorial", "Lockstep, tutorial's settings, fp32")
    add("lockstep", "lockstep-bf16", "Lockstep, channels_last, bf16", "bf16", ("train.memory_format=channels_last", "train.precision=bf16"))
    return found


def python_command(options, group, precision, ranks, threads, deterministic=False):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks] if ranks > 1 else []
    words = [options.python, *launcher, TRAINING, "--data-dir", options.data_dir, "--loop", group, "--precision", precision]
    words += ["--threads", threads, "--batch", options.batch, "--device", options.device]
    if deterministic:
        words.append("--deterministic")
    if group == "tutorial":
        words += ["--workers", options.workers]
    elif options.device == "cpu" and 1 < ranks <= len(cores()):
        words += ["--core", *cores()[:ranks]]
    return words


def python_environment(options, temporary, group, threads):
    """Everything that PyTorch might leave goes into a temporary folder."""
    env = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo", "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {name: str(temporary) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCH_HOME")}
    env["TORCHINDUCTOR_CACHE_DIR"] = str(temporary / "inductor")
    if options.device == "cpu":
        env["CUDA_VISIBLE_DEVICES"] = ""
    if group != "tutorial":
        env |= KEEP_MEMORY
        env |= dict(word.split("=", 1) for word in options.torch_env)
    return env


def lockstep_command(options, ranks, threads, run, *words):
    launcher = mpirun(ranks) if ranks > 1 else []
    train = [options.binary, "train", "--data-dir", options.data_dir, "--out", run, "--threads", threads, "--device", options.device, "--quiet"]
    return [*launcher, *train, *words]


def command(options, contender, temporary, run):
    """The words and the environment of its process."""
    if contender.group != "lockstep":
        words = python_command(options, contender.group, contender.precision, contender.ranks, contender.threads, contender.deterministic)
        words += ["--warm-up", options.interval, "--steps", 3 * options.interval]
        return words, python_environment(options, temporary, contender.group, contender.threads)
    settings = ["data.shuffle=true", f"train.global_batch={options.batch * contender.ranks}", "train.epochs=1000000"]
    settings += [f"train.max_steps={4 * options.interval}", f"log.every_steps={options.interval}"]
    settings += ["eval.every_epochs=0", "checkpoint.every_epochs=0", *contender.settings]
    words = [word for setting in settings for word in ("--set", setting)]
    return lockstep_command(options, contender.ranks, contender.threads, run, "--recipe", "tutorial", *words), {}


def json_lines(path):
    """The lines that are there whole; a writer may be at work."""
    lines = []
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return lines
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            pass
    return [line for line in lines if isinstance(line, dict)]


def first_step_time(contender, job, run):
    """When the first step had ended, in seconds since 1970; None while it has not. Lockstep's line is taken as it appears."""
    lines = json_lines(run / "metrics.jsonl" if contender.group == "lockstep" else job.out)
    ended = next((line for line in lines if line.get("event") == "first_step"), None)
    return ended and ended.get("time", time.time())


def images_per_s(contender, job, run):
    """Without the warm-up."""
    if contender.group != "lockstep":
        return next(line["images_per_s"] for line in json_lines(job.out) if line["event"] == "speed")
    speeds = [line["images_per_s"] for line in json_lines(run / "metrics.jsonl") if line["event"] == "train"][1:]
    # Intervals of equal images: their harmonic mean is all images over all seconds.
    return len(speeds) / sum(1 / speed for speed in speeds)
