"""launch/resilient: a run goes on by itself where that can help, and ends where it cannot."""

import os
import pathlib
import signal
import subprocess
import time
import unittest
import uuid

from faulty_run import FaultyRun
from lockstep_runner import environment, execute, kill, processes_of

RESILIENT = pathlib.Path(__file__).parents[2] / "launch/resilient"


class ResilientTest(FaultyRun):
    def command(self, run, *flags, more=()):
        return [RESILIENT, "--binary", os.environ["LOCKSTEP"], "--backoff", "0", *flags, "--", *self.words(run, *more)]

    def resilient(self, run, faults, *flags, more=()):
        result = execute(self.command(run, *flags, more=more), env={"LOCKSTEP_FAULT": faults}, timeout_s=100)
        self.assertEqual(result.left_over, [], str(result))
        return result

    def test_three_crashes_are_ridden_out(self):  # ctest: processors=2
        run = self.folder / "a run"
        result = self.resilient(run, "kill@1:6,kill@0:checkpoint,exit@1:13", "-n", "2")
        self.assertEqual(result.rc, 0, str(result))
        self.assertEqual((run / "final.pth").read_bytes(), self.undisturbed(ranks=2))
        self.assertEqual(str(result).count("resilient: ended with code"), 3, str(result))
        self.assertEqual([line["step"] for line in self.metrics(run, "train")], list(range(1, 21)))

    def test_what_a_restart_cannot_mend_ends_at_once(self):  # ctest: processors=2
        for faults, code in (("nan@1:5", 76), ("throw@0:5", 70)):
            result = self.resilient(self.folder / faults.replace(":", "-"), faults, "-n", "2")
            self.assertEqual(result.rc, code, str(result))
            self.assertNotIn("restart 1 of", str(result))
        for flags, more in ((["--max-restarts", "x"], []), ([], ["--resume", "auto"]), (["--elastic", "3:2"], []), ([], ["--overwrite"])):
            result = execute(self.command(self.folder / "none", *flags, more=more))
            self.assertEqual(result.rc, 64, str(result))
            self.assertIn("hint: ", result.stderr)

    def test_it_gives_up(self):
        result = self.resilient(self.folder / "run", "kill@0:init,kill@0:init,kill@0:init", "-n", "1", "--max-restarts", "1")
        self.assertEqual(result.rc, 137, str(result))
        self.assertIn("after 1 restarts", result.stderr)

    def test_fewer_ranks_where_allowed(self):  # ctest: processors=2
        run = self.folder / "run"
        virtual = ["--set", "train.virtual_ranks=2"]
        result = self.resilient(run, "kill@1:init,kill@1:init,kill@1:init,kill@1:init", "--elastic", "1:2", more=virtual)
        self.assertEqual(result.rc, 0, str(result))
        self.assertIn("going on with 1 rank", str(result))
        self.assertEqual((run / "final.pth").read_bytes(), self.undisturbed(*virtual, ranks=2))

    def test_a_signal_saves_and_is_no_crash(self):  # ctest: processors=2
        run = self.folder / "run"
        job = uuid.uuid4().hex
        self.addCleanup(lambda: kill(processes_of(job)))
        process = subprocess.Popen([str(word) for word in self.command(run, "-n", "2", more=["--epochs", "4000"])],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(job), start_new_session=True)
        until = time.monotonic() + 20
        while len(self.checkpoints(run)) < 2:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(20), 85)
        self.assertEqual(self.metrics(run, "end")[0]["reason"], "stopped on request")
        self.assertEqual(processes_of(job), [])


if __name__ == "__main__":
    unittest.main()
