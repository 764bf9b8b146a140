"""Starts commands of several processes (mpirun, torchrun) and leaves none of them behind, however it ends."""

import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

MARK = "LOCKSTEP_BENCHMARK_JOB"


class Job:
    """A running command; `with Job(command, folder) as job: job.wait(60)`. Its output goes to files in `folder`.

    Launchers put ranks in sessions of their own, so its processes are found by a mark in their environment.
    """

    def __init__(self, command, folder, env=None):
        self.mark = uuid.uuid4().hex
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "stdout", folder / "stderr"
        env = {**os.environ, **(env or {}), MARK: self.mark}
        if os.geteuid() == 0:
            env["OMPI_ALLOW_RUN_AS_ROOT"] = env["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.started = time.time()
            self.process = subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait(self, timeout_s):
        """The exit code; None when it takes longer."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.wait(5)
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def processes(self):
        """Ids of those that live."""
        mark = f"{MARK}={self.mark}".encode()
        found = []
        for entry in os.scandir("/proc"):
            try:
                if entry.name.isdigit() and mark in pathlib.Path(entry.path, "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    def last_words(self):
        """What the command said when it failed: the line that names an error, else its last one."""
        lines = [line for line in self.err.read_text(errors="replace").splitlines() if line.strip(" -")]
        named = [line for line in lines if "rror: " in line and "ChildFailedError" not in line]
        return (named or lines or ["it said nothing"])[-1].strip()


def end_on_signals():
    """SIGTERM and SIGHUP end this program as Ctrl-C does: jobs are stopped on the way out."""

    def raise_exit(number, _):
        for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(name, signal.SIG_IGN)  # the clearing up is under way
        print(f"{os.path.basename(sys.argv[0])}: stopped by {signal.Signals(number).name}", file=sys.stderr)
        sys.exit(128 + number)

    for name in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(name, raise_exit)
