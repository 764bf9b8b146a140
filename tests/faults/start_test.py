"""The start of a run: ranks that never come, and requests to stop that come early."""

import os
import pathlib
import signal
import subprocess
import time
import unittest
import uuid

from faulty_run import ENDLESS, FaultyRun
from lockstep_runner import environment, execute, kill, mpirun, outliving, processes_of


def listed(pid, signals, number):
    """Whether the process has this signal among its SigCgt (those with a handler) or SigBlk (those that are held)."""
    try:
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    return any(int(line.split()[1], 16) >> (number - 1) & 1 for line in lines if line.startswith(f"{signals}:"))


class StartTest(FaultyRun):
    def test_a_rank_that_never_comes_to_mpi_ends_the_job_at_the_deadline(self):  # ctest: waits
        recipe = self.folder / "recipe.toml"
        recipe.write_text("[watch]\ndeadline_s = 1\n")
        for more in (["--set", "watch.deadline_s=1"], ["--recipe", recipe]):
            train = [os.environ["LOCKSTEP"], *self.words(self.folder / "run", *more)]
            result = execute([*mpirun(2), *train, ":", "-n", "1", "sleep", "60"], timeout_s=12)
            self.assert_refused(result, 75, f"rank 0 on {os.uname().nodename}: MPI did not start within 4 s", "not all 3 ranks",
                                "watch.deadline_s", within_s=4 + 8)

    def begin(self, words):
        job = uuid.uuid4().hex
        self.addCleanup(lambda: kill(processes_of(job)))
        process = subprocess.Popen(list(map(str, words)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, env=environment(job), start_new_session=True)
        return process, job

    def first_that_listens(self, job):
        """The id of the first rank that has its handler, as soon as it has."""
        until = time.monotonic() + 10
        while True:
            for pid in self.ranks_of(job):
                if listed(pid, "SigCgt", signal.SIGUSR1):
                    return pid
            self.assertLess(time.monotonic(), until, "a rank that honours signals")
            time.sleep(0.002)

    def test_a_request_before_the_first_step_is_kept(self):  # ctest: timeout=180
        for delay in (0, 0.03, 0.1, 0.3):
            with self.subTest(delay=delay):
                run = self.folder / f"run-{delay}"
                process, job = self.begin([os.environ["LOCKSTEP"], *self.words(run, *ENDLESS)])
                pid = self.first_that_listens(job)
                time.sleep(delay)
                os.kill(pid, signal.SIGUSR1)
                self.assertEqual(process.wait(20), 85)
                self.assertLessEqual(self.metrics(run, "end")[0]["step"], 2 if delay == 0 else 99)
        self.assert_stopped_and_goes_on(run, ranks=0)

    def test_a_request_while_the_program_is_loaded_is_held(self):
        # By the program itself from before LibTorch's start, and by `env` from the first moment.
        for before in ([], ["env", "--block-signal=USR1"]):
            with self.subTest(before=before):
                run = self.folder / f"run-{len(before)}"
                process, _ = self.begin([*before, os.environ["LOCKSTEP"], *self.words(run, *ENDLESS)])
                until = time.monotonic() + 10
                while not listed(process.pid, "SigBlk", signal.SIGUSR1):
                    self.assertIsNone(process.poll())
                    self.assertLess(time.monotonic(), until, "the signal is held")
                self.assertFalse(listed(process.pid, "SigCgt", signal.SIGUSR1))
                process.send_signal(signal.SIGUSR1)
                self.assertEqual(process.wait(20), 85)
                self.assertEqual(self.metrics(run, "end")[0]["step"], 2)

    def test_a_signal_held_for_a_command_without_anything_to_save_ends_it(self):
        process, _ = self.begin(["env", "--block-signal=USR1", os.environ["LOCKSTEP"], "info", "/proc/self/fd/0"])
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.wait(20), -signal.SIGUSR1)

    def test_a_request_to_a_rank_that_still_waits_for_another_to_start_is_kept(self):
        run = self.folder / "run"
        go = self.folder / "go"
        train = [os.environ["LOCKSTEP"], *self.words(run, *ENDLESS)]
        late = ["sh", "-c", f'until [ -e {go} ]; do sleep 0.05; done; exec "$@"', "sh", *train]
        process, job = self.begin([*mpirun(1), *train, ":", "-n", "1", *late])
        os.kill(self.first_that_listens(job), signal.SIGUSR1)
        time.sleep(0.3)
        go.touch()
        self.assertEqual(process.wait(20), 85)
        self.assertEqual(outliving(job), [])
        self.assertLessEqual(self.metrics(run, "end")[0]["step"], 2)
        self.assert_stopped_and_goes_on(run, ranks=2)


if __name__ == "__main__":
    unittest.main()
