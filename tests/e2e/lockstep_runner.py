"""Starts the command `lockstep`, alone or under mpirun, and collects what it says; shared by all Python tests.

Environment (CTest sets it): LOCKSTEP the executable, TEST_DATA the folder of the real CIFAR-10 or its parent, TEST_PROGRAMS the
folder of the tests' own programs.
"""

import atexit
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import uuid

RECORD_BYTES = 1 + 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished command left."""

    command: list
    rc: int
    stdout: str
    stderr: str
    seconds: float
    left_over: list  # ids of processes that outlived the command (they have been killed)

    def __str__(self):
        return (
            f"$ {' '.join(self.command)}\nexit code {self.rc} after {self.seconds:.1f} s\n"
            f"--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"
        )


def processes_of(job):
    """Ids of the living processes whose environment carries the mark of this job."""
    mark = f"LOCKSTEP_TEST_JOB={job}".encode()
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = pathlib.Path(entry.path, "environ").read_bytes()
            state = pathlib.Path(entry.path, "stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, IndexError):
            continue
        if mark in environment.split(b"\0") and state not in "ZX":
            found.append(int(entry.name))
    return found


def outliving(job, patience_s=5):
    """Those that are there still some seconds after the job's launcher has ended: mpirun kills what is left of a job and
    goes without waiting for the kernel to be done with it, while a rank that waits for another would do so for minutes."""
    deadline = time.monotonic() + patience_s
    while (pids := processes_of(job)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return pids


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


@functools.cache
def session_folder():
    folder = tempfile.mkdtemp(prefix="ompi-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def mpirun(ranks):
    """mpirun and its flags for any machine: more ranks than cores are fine, no rank is tied to one core."""
    return ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)]


def environment(job, extra=None):
    env = {key: value for key, value in os.environ.items() if not key.startswith("LOCKSTEP")}
    env["LOCKSTEP_TEST_JOB"] = job
    # Open MPI's jobs make and remove one folder in common, and now and then one removes it under another's feet.
    env["OMPI_MCA_orte_tmpdir_base"] = str(session_folder())
    if os.geteuid() == 0:
        env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    env.update(extra or {})
    return env


def stand_still(pids):
    """Whether one of the processes is stopped (SIGSTOP)."""
    for pid in pids:
        try:
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return True
        except OSError:  # it has ended
            pass
    return False


def execute(command, env=None, timeout_s=60, cwd=None, clock_from=None):
    """Runs a command to its end. Raises AssertionError, with what was printed, when it takes longer than timeout_s.

    The seconds of the Result count from the start, or from when clock_from(ids of its processes) was first true.
    """
    job = uuid.uuid4().hex
    command = [str(word) for word in command]
    # Files and not pipes: a process left behind must not keep us waiting for the end of its output.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment(job, env), cwd=cwd, start_new_session=True
        )
        try:
            while clock_from and process.poll() is None and time.monotonic() - start < timeout_s:
                if clock_from(processes_of(job)):
                    start, clock_from = time.monotonic(), None
                time.sleep(0.05)
            rc = process.wait(timeout_s)
            seconds = time.monotonic() - start
            left_over = outliving(job)
        except subprocess.TimeoutExpired:
            rc, seconds, left_over = None, time.monotonic() - start, []
        finally:
            kill(processes_of(job))
            process.wait()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    result = Result(command, rc, *texts, seconds, left_over)
    if rc is None:
        raise AssertionError(f"not done within {timeout_s} s\n{result}")
    return result


def lockstep(*words, ranks=0, before=(), **how):
    """Runs `lockstep words…` on `ranks` ranks of mpirun; 0: without mpirun. `before` is put in front of it all."""
    launcher = mpirun(ranks) if ranks else []
    return execute([*before, *launcher, os.environ["LOCKSTEP"], *words], **how)


def in_mounted(folder, options, first="true"):
    """Words to put before a command that is to see a tmpfs with these mount options at `folder`, or None where that is
    not allowed. Only the command sees the file system, and it goes when the command ends. `first` is run before it."""
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    script = f'mount -t tmpfs -o "$1" none "$2" && cd "$2" && {first}; shift 2; exec "$@"'
    words = [*namespace, "sh", "-c", script, "sh", options, str(folder)]
    if shutil.which("unshare") is None:
        return None
    trial = [*namespace, "sh", "-c", 'mount -t tmpfs -o size=64k none "$1"', "sh", str(folder)]
    return words if subprocess.run(trial, capture_output=True).returncode == 0 else None


class LockstepTest(unittest.TestCase):
    """A test case with a folder of its own and the questions that tests of the command ask."""

    maxDiff = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="lockstep-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def skip(self, reason):
        print(f"SKIPPED: {reason}", flush=True)
        self.skipTest(reason)

    def done(self, *words, **how):
        """Runs lockstep, which must succeed."""
        result = lockstep(*words, **how)
        self.assertEqual(result.rc, 0, str(result))
        return result

    def train(self, out, *words, data=None, **how):
        """Trains by the tutorial's recipe with one thread a rank; gives the Result."""
        return self.done(
            "train", "--recipe", "tutorial", "--data-dir", data or self.small_data(), "--out", out, "--threads", "1", *words, **how
        )

    def small_data(self, train=320, test=100):
        """A folder of synthetic images of this test's own."""
        folder = self.folder / f"data-{train}-{test}"
        words = ("data", "synthesize", "--train-images", train, "--test-images", test, "--out")
        if not folder.exists():
            self.made_once(folder.name, folder, lambda new: self.done(*words, new))
        return folder

    @staticmethod
    def made_once(name, folder, make):
        """Fills `folder`: by a copy of what an earlier test of this build has made under this name, else by make(new folder)."""
        program = pathlib.Path(os.environ["LOCKSTEP"]).stat().st_mtime_ns
        made = pathlib.Path(os.environ["TEST_PROGRAMS"], "made-by-tests", f"{program}-{name}")
        if not made.exists():
            for old in made.parent.glob("*"):
                if not old.name.startswith(f"{program}-"):
                    shutil.rmtree(old, ignore_errors=True)
            copy = made.with_name(f"{made.name}.{os.getpid()}")
            make(copy)
            try:
                copy.rename(made)
            except OSError:  # another test was first
                shutil.rmtree(copy)
        shutil.copytree(made, folder)

    def real_data(self):
        """The real CIFAR-10, or, where there is none, as many synthetic images, saying so."""
        root = pathlib.Path(os.environ.get("TEST_DATA", ""))
        for folder in (root, root / "cifar-10-batches-bin"):
            if (folder / "test_batch.bin").exists():
                return folder
        print(f"NOTE: no real CIFAR-10 in {root}: this test runs on synthetic images instead", flush=True)
        return self.small_data(50_000, 10_000)

    @staticmethod
    def is_real(folder):
        return "data-" not in folder.name

    def metrics(self, run, event):
        """The lines of a run's metrics.jsonl that record this event."""
        lines = pathlib.Path(run, "metrics.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"] == event]

    def assert_refused(self, result, code, *said, within_s=30):
        """One message from one rank with what must be said in it, a hint, the exit code, and nothing left behind."""
        everything = str(result)
        errors = [line for line in result.stderr.splitlines() if line.startswith("lockstep: error: ")]
        hints = [line for line in result.stderr.splitlines() if line.startswith("hint: ")]
        self.assertEqual(result.rc, code, everything)
        self.assertEqual(len(errors), 1, everything)
        self.assertEqual(len([line for line in everything.splitlines() if "error:" in line]), 1, everything)
        self.assertEqual(len(hints), 1, everything)
        self.assertGreater(len(hints[0]), len("hint: ") + 5, everything)
        for text in said:
            self.assertIn(text, errors[0] + "\n" + hints[0], everything)
        self.assertEqual(result.left_over, [], everything)
        self.assertLess(result.seconds, within_s, everything)
