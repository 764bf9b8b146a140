"""launch/slurm/train.sbatch with stand-ins for Slurm's commands: what goes back into the queue."""

import os
import pathlib
import shutil
import unittest

from lockstep_runner import LockstepTest, execute

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "launch/slurm/train.sbatch"


class SlurmScriptTest(LockstepTest):
    def stand_in(self, name, text):
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def job(self, code):
        """A job whose ranks end with this code; gives the Result, what srun was told, and whether the job was put back."""
        told, queued = self.folder / "told", self.folder / "queued"
        queued.unlink(missing_ok=True)
        # The code of a task that a signal has killed is srun's own.
        self.stand_in("srun", f"""[ "$1" != --mpi=list ] || {{ echo pmix; exit; }}\necho "$@" >'{told}'\nexit {code}""")
        self.stand_in("scontrol", f"touch '{queued}'")
        project = self.folder / "project"
        program = project / "build/release/lockstep"
        if not program.exists():
            program.parent.mkdir(parents=True)
            program.symlink_to(shutil.which("true"))
            shutil.copytree(self.small_data(), project / "data")
        env = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(project),
               "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "n1", "LOCKSTEP": "", "OUT": "", "DATA": "", "RECIPE": ""}
        result = execute(["bash", SCRIPT, "--epochs", "1"], env=env)
        self.assertEqual(result.rc, code, str(result))
        return told.read_text(), queued.exists()

    def test_a_job_that_lost_a_rank_or_was_stopped_goes_back_into_the_queue(self):
        # 138: a task was asked to stop by USR1 at a moment when nothing could hold it.
        for code, again in ((75, True), (85, True), (138, True), (137, True), (139, True), (143, True),
                            (0, False), (1, False), (69, False), (76, False), (78, False), (126, False)):
            with self.subTest(code=code):
                told, queued = self.job(code)
                self.assertEqual(queued, again)
        self.assertIn("env --block-signal=USR1,TERM", told)
        self.assertIn(f"--data-dir {self.folder / 'project/data'}", told)


if __name__ == "__main__":
    unittest.main()
