"""Ranks that leave the job while others wait for them, and programs that use MPI in a way that cannot work: named in seconds, whatever the deadline."""

import os
import pathlib
import unittest

from lockstep_runner import LockstepTest, execute, mpirun

RANK_LOST, INTERNAL, LAUNCH = 75, 70, 69


class LeavingTest(LockstepTest):
    def leaving(self, way, env=None):
        return execute([*mpirun(2), pathlib.Path(os.environ["TEST_PROGRAMS"], "leaving"), way], env=env, timeout_s=50)

    def test_a_rank_that_ends_early_is_named_with_its_last_step(self):  # ctest: waits
        for env in ({}, {"LOCKSTEP_SHARED_MEMORY": "off"}):
            self.assert_refused(self.leaving("early", env), INTERNAL, f"rank 1 on {os.uname().nodename} left the job in order after step 3",
                                "rank 0: all-reduce ", "(sum of 1000 float32, 4000 bytes) in training of step 4", "equally many batches", within_s=20)

    def test_a_rank_that_catches_its_error_and_returns_is_named(self):  # ctest: waits
        self.assert_refused(self.leaving("caught"), INTERNAL, "rank 1 on", "left the job in order", "all-reduce", within_s=20)

    def test_a_rank_whose_world_an_exception_ends_is_named(self):  # ctest: waits
        self.assert_refused(self.leaving("unwound"), RANK_LOST, f"rank 1 on {os.uname().nodename} left the job after an error",
                            "this rank waits in all-reduce", within_s=20)

    def test_a_rank_that_leaves_without_sending_is_named(self):  # ctest: waits
        self.assert_refused(self.leaving("message"), INTERNAL, "rank 1 on", "left the job in order", "receive", within_s=20)

    def test_a_receive_that_nobody_answers_does_not_hold_up_the_end(self):  # ctest: waits
        result = self.leaving("open")
        self.assertNotEqual(result.rc, 0, str(result))
        self.assertIn("at the end of the job a receive", result.stderr, str(result))
        self.assertLess(result.seconds, 25, str(result))

    def test_collectives_that_nobody_waited_for_are_waited_for_at_the_end(self):  # ctest: waits
        result = self.leaving("forgotten")
        self.assertEqual(result.rc, 0, str(result))
        self.assertEqual(result.stderr.count("nobody had waited for all-reduce"), 1, str(result))

    def test_unequal_lengths_are_named(self):  # ctest: waits
        result = self.leaving("lengths")
        self.assertEqual(result.rc, INTERNAL, str(result))
        for text in ("World::sum", "2 float64, 16 bytes", "3 float64, 24 bytes"):
            self.assertIn(text, result.stderr, str(result))

    def test_mpi_that_is_initialised_already_is_refused(self):  # ctest: waits
        result = self.leaving("initialised")
        self.assertEqual(result.rc, LAUNCH, str(result))
        self.assertIn("MPI is initialised already", result.stderr, str(result))
        self.assertNotIn("An error occurred in MPI", result.stderr, str(result))


if __name__ == "__main__":
    unittest.main()
