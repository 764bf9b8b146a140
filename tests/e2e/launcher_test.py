"""Launchers that are not MPI's: their processes are told apart from the ranks of one job, before anything is written."""

import os
import pathlib
import sys
import unittest

from lockstep_runner import LockstepTest, execute, lockstep

LAUNCH = 69
TORCHRUN = pathlib.Path(sys.executable).with_name("torchrun")


class LauncherTest(LockstepTest):
    def words(self):
        return ["train", "--recipe", "tutorial", "--data-dir", self.folder / "none", "--out", self.folder / "run"]

    def test_processes_of_torchrun_are_refused_with_the_command_that_joins_them(self):  # ctest: processors=2
        if not TORCHRUN.exists():
            self.skip(f"no {TORCHRUN}")
        run = ["--standalone", "--no-python", "--nproc-per-node", "2", os.environ["LOCKSTEP"]]
        result = execute([TORCHRUN, *run, *self.words()])
        errors = [line for line in result.stderr.splitlines() if line.startswith("lockstep: error: ")]
        self.assertEqual(len(errors), 1, str(result))
        self.assertIn("torchrun started 2 processes", errors[0])
        self.assertIn("mpirun -n 2", result.stderr)
        self.assertIn(f"exitcode  : {LAUNCH}", result.stderr)
        self.assertFalse((self.folder / "run").exists())

    def test_processes_of_other_launchers_are_refused_once(self):
        for variables, said in (
            ({"PMI_SIZE": "2", "PMI_RANK": "{}", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "{}"}, "another MPI (PMI_SIZE) started 2"),
            ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "{}", "SLURM_STEP_ID": "0"}, "srun started 2"),
            ({"WORLD_SIZE": "2", "RANK": "{}", "LOCAL_RANK": "{}", "MASTER_ADDR": "localhost"}, "PyTorch (WORLD_SIZE, RANK) started 2"),
        ):
            with self.subTest(said=said):
                first, second = (lockstep(*self.words(), env={name: value.format(rank) for name, value in variables.items()}) for rank in (0, 1))
                self.assert_refused(first, LAUNCH, said)
                self.assertEqual((second.rc, second.stderr, second.stdout), (LAUNCH, "", ""))
        self.assertFalse((self.folder / "run").exists())

    def test_variables_that_were_only_inherited_change_nothing(self):
        for variables in (
            {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_RUN_ID": "none"},
            {"WORLD_SIZE": "2", "PMI_SIZE": "1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},
            {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_JOBID": "1", "SLURM_NODELIST": "n1"},
        ):
            self.assert_refused(lockstep(*self.words(), env=variables), 66, "CIFAR-10")
        self.assert_refused(lockstep(*self.words(), env={"PMI_SIZE": "2", "PMI_RANK": "0", "SLURM_STEP_NUM_TASKS": "2"}, ranks=2), 66, "CIFAR-10")


if __name__ == "__main__":
    unittest.main()
