"""kill -9 anywhere: the job ends in seconds, and the run that goes on ends with the bits of one that was never interrupted."""

import os
import random
import shutil
import subprocess
import tempfile
import time
import unittest
import unittest.mock
import uuid

from faulty_run import FaultyRun, state_of
from lockstep_runner import environment, kill, mpirun, outliving, processes_of


class KillTest(FaultyRun):
    def assert_survives(self, *cases):
        undisturbed = self.undisturbed(ranks=2)
        # Open MPI's segments in a folder of this test's own: other jobs have theirs meanwhile.
        segments = tempfile.mkdtemp(prefix="lockstep-test-", dir="/dev/shm")
        self.addCleanup(shutil.rmtree, segments, ignore_errors=True)
        told = unittest.mock.patch.dict(os.environ, OMPI_MCA_btl_vader_backing_directory=segments)
        told.start()
        self.addCleanup(told.stop)
        shared_memory = self.shared_memory()
        for case in cases:
            with self.subTest(case=case):
                run = self.folder / case.replace(":", "-")
                result = self.faulty(run, case, ranks=2)
                self.assertNotEqual(result.rc, 0, str(result))
                self.assertLess(result.seconds, 10, str(result))
                self.resumed(run, ranks=2)
                self.assertEqual((run / "final.pth").read_bytes(), undisturbed)
                self.assertEqual([path.name for path in (run / "checkpoints").iterdir() if ".tmp-" in path.name], [])
                self.assertEqual(os.listdir(segments), [])
        self.assertEqual(self.shared_memory() - shared_memory, set())

    @staticmethod
    def shared_memory():
        others = ("vader_segment.", "lockstep-test-", "lockstep tést ")  # of tests that run at this moment
        return {name for name in os.listdir("/dev/shm") if not name.startswith(others)}

    def test_kill_at_the_start_and_in_a_step(self):  # ctest: waits timeout=180
        self.assert_survives("kill@0:init", "kill@1:init", "kill@0:13", "kill@1:13")

    def test_kill_in_evaluation_and_at_the_finish(self):  # ctest: waits timeout=180
        self.assert_survives("kill@0:evaluation", "kill@1:evaluation", "kill@0:finish", "kill@1:finish")

    def test_kill_while_a_checkpoint_is_written(self):  # ctest: waits timeout=180
        self.assert_survives("kill@0:checkpoint", "kill@1:checkpoint", "kill@0:commit", "exit@1:7")

    def assert_random_kills(self, rounds, ranks, words):
        undisturbed = self.undisturbed(*words, ranks=ranks)
        run = self.folder / "run"
        choose = random.Random(7)
        newest = 0
        ended = 0
        for _ in range(rounds):
            job = uuid.uuid4().hex
            command = [*(mpirun(ranks) if ranks else []), os.environ["LOCKSTEP"], *self.words(run, *words, "--resume", "auto")]
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, env=environment(job), start_new_session=True)
            time.sleep(choose.uniform(0.2, 1.0) + (0.6 if ranks else 0))
            self.wait_for(lambda: self.ranks_of(job) or process.poll() is not None)  # a busy machine may not have started one yet
            ranks_now = self.ranks_of(job)
            if ranks_now:
                kill([choose.choice(ranks_now)])
            process.wait(10)
            self.assertEqual(outliving(job), [])
            kill(processes_of(job))
            ended += process.returncode == 0
            names = self.checkpoints(run) if (run / "checkpoints").exists() else []
            if not names:
                continue
            step = state_of(run / "checkpoints" / names[-1])["step"]
            self.assertGreaterEqual(step, newest, "the newest checkpoint went back")
            newest = step
            steps = [line["step"] for line in self.metrics_so_far(run)]
            self.assertEqual(steps, sorted(set(steps)))
            # Two intervals of two steps: one, and what was trained while a checkpoint was on its way to the disk.
            self.assertLessEqual((steps or [0])[-1] - newest, 4)
        self.done(*self.words(run, *words, "--resume", "auto"), ranks=ranks)
        self.assertEqual((run / "final.pth").read_bytes(), undisturbed)
        self.assertLess(ended, rounds / 4, "the run is too short to be killed so often")
        print(f"{rounds} rounds, {ended} of them ended before the kill; {newest} steps were saved then")

    def metrics_so_far(self, run):
        path = run / "metrics.jsonl"
        whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
        return [line for line in map(__import__("json").loads, whole.splitlines()) if line["event"] == "train"]

    def test_80_kills_at_random_moments_of_one_rank(self):  # ctest: long timeout=240
        self.assert_random_kills(80, 0, ["--epochs", "100", "--set", "optim.lr=0.001"])

    def test_20_kills_at_random_moments_of_a_rank_of_two(self):  # ctest: waits long timeout=240
        self.assert_random_kills(20, 2, ["--epochs", "100", "--set", "optim.lr=0.001"])


if __name__ == "__main__":
    unittest.main()
