"""Ranks that stand still or are asked to stop."""

import os
import signal
import time
import unittest

from faulty_run import FaultyRun
from lockstep_runner import mpirun, outliving, stand_still


class StopTest(FaultyRun):
    def assert_named(self, fault, rank, *said, within_s):
        run = self.folder / fault.replace(":", "-")
        result = self.faulty(run, fault, "--set", "watch.deadline_s=2", ranks=3, clock_from=stand_still)
        self.assert_refused(result, 75, f"rank {rank} on {os.uname().nodename}", "no answer", *said, within_s=within_s)
        self.assertTrue((run / "flight-rank-0.json").exists() or rank == 0)
        self.assertTrue((run / "flight-rank-1.json").exists() or rank == 1)

    def test_a_rank_that_is_stopped_is_named_with_operation_and_step(self):  # ctest: waits
        self.assert_named("stop@1:7", 1, "all-reduce", "step 7", within_s=2 + 5)
        self.assert_named("stop@0:evaluation", 0, "in evaluation of step 5", within_s=2 + 5)

    def test_a_slow_rank_is_not_ended_below_the_deadline(self):  # ctest: processors=2
        run = self.folder / "run"
        result = self.faulty(run, "slow=1@1:6", "--set", "watch.deadline_s=3", ranks=2)
        self.assertEqual(result.rc, 0, str(result))

    def test_a_rank_that_hangs_alone_ends_at_the_deadline(self):
        result = self.faulty(self.folder / "run", "slow=60@0:6", "--set", "watch.deadline_s=1")
        self.assert_refused(result, 75, "forward of step 6", within_s=1 + 5)

    def assert_stops(self, send):
        run = self.folder / "run"
        process, job = self.start(run, [*mpirun(2), os.environ["LOCKSTEP"]])
        send(process, job)
        self.assertEqual(process.wait(15), 85)
        self.assert_stopped_and_goes_on(run, ranks=2)

    def test_usr1_to_mpirun_saves_and_stops(self):  # ctest: processors=2
        self.assert_stops(lambda process, job: process.send_signal(signal.SIGUSR1))

    def test_usr1_and_term_at_once_on_two_ranks(self):  # ctest: processors=2
        def send(process, job):
            for pid, number in zip(self.ranks_of(job), (signal.SIGUSR1, signal.SIGTERM)):
                os.kill(pid, number)

        self.assert_stops(send)

    def test_a_second_signal_ends_at_once(self):  # ctest: processors=2
        run = self.folder / "run"
        process, job = self.start(run, [*mpirun(2), os.environ["LOCKSTEP"]])
        rank = self.ranks_of(job)[0]
        os.kill(self.ranks_of(job)[1], signal.SIGSTOP)  # so that nobody can agree on a stop
        os.kill(rank, signal.SIGUSR1)
        time.sleep(0.7)
        os.kill(rank, signal.SIGTERM)
        start = time.monotonic()
        self.assertNotIn(process.wait(15), (0, 85))
        self.assertLess(time.monotonic() - start, 5)
        self.assertEqual(outliving(job), [])


if __name__ == "__main__":
    unittest.main()
