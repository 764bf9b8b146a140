"""Going on: with other ranks, other settings, damaged checkpoints, another owner."""

import json
import os
import shutil
import subprocess
import time
import unittest
import uuid

from faulty_run import FaultyRun
from lockstep_runner import environment, kill, lockstep, processes_of


class ResumeTest(FaultyRun):
    def test_four_ranks_go_on_as_two_and_as_one(self):  # ctest: waits timeout=180
        virtual = ["--set", "train.virtual_ranks=4"]
        undisturbed = self.undisturbed(*virtual, ranks=4)
        for ranks in (2, 0):
            run = self.folder / f"run-{ranks}"
            self.faulty(run, "kill@3:13", *virtual, ranks=4)
            result = self.resumed(run, *virtual, ranks=ranks)
            self.assertIn("ranks before", result.stdout)
            self.assertEqual((run / "final.pth").read_bytes(), undisturbed)

    def test_three_ranks_have_the_same_bits(self):  # ctest: waits
        undisturbed = self.undisturbed(ranks=3)
        run = self.folder / "run"
        self.faulty(run, "kill@2:12", ranks=3)
        self.resumed(run, ranks=3)
        self.assertEqual((run / "final.pth").read_bytes(), undisturbed)

    def assert_goes_on_with_the_same_bits(self, *words):
        undisturbed = self.undisturbed(*words)
        run = self.folder / "run"
        self.done(*self.words(run, "--max-steps", "7", *words))
        self.resumed(run, *words)
        self.assertEqual((run / "final.pth").read_bytes(), undisturbed)
        lines = [self.metrics(folder, "train") for folder in (run, self.folder / "undisturbed")]
        self.assertEqual(*[[line["lr"] for line in of] for of in lines])

    def test_a_stopped_run_goes_on_with_its_schedule(self):
        self.assert_goes_on_with_the_same_bits("--set", "optim.schedule=triangular")

    def test_airbench94_with_muon_goes_on_with_the_same_bits(self):
        sets = {"model.name": "airbench94", "optim.name": "muon", "optim.lr": 0.2, "optim.bias_lr": 3.0, "optim.head_lr": 40.0,
                "optim.schedule": "linear", "optim.whiten_epochs": 2, "optim.ema": 0.5, "train.micro_batch": 32}
        self.assert_goes_on_with_the_same_bits(*(word for name, value in sets.items() for word in ("--set", f"{name}={value}")))

    def test_logs_go_on_without_a_gap_or_a_repeat(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        run = self.folder / "run"
        self.faulty(run, "kill@0:14")
        self.resumed(run)
        self.undisturbed()
        for name in ("train_loss", "test_loss"):
            told = [EventAccumulator(str(folder)).Reload().Scalars(name) for folder in (run, self.folder / "undisturbed")]
            self.assertEqual(*[[(event.step, event.value) for event in events] for events in told])
        self.assertEqual([line["epoch"] for line in self.metrics(run, "test")], [0, 1, 2, 3])

    def test_other_settings_are_refused(self):
        run = self.folder / "run"
        self.faulty(run, "kill@0:13")
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for ranks in (0, 2):
            result = lockstep(*self.words(run, "--resume", "auto", "--seed", "1", "--set", "optim.lr=0.5"), ranks=ranks)
            self.assert_refused(result, 78, "train.seed: 0 in the checkpoint, 1 now", "optim.lr: 0.01 in the checkpoint, 0.5 now")
        self.assertEqual({path: path.read_bytes() for path in run.rglob("*") if path.is_file()}, before)

    def test_a_run_gives_its_own_settings(self):
        run = self.folder / "run"
        self.done(*self.words(run, "--max-steps", "7"))
        self.done("train", "--resume", run, "--threads", "1", "--max-steps", "0")
        self.undisturbed()
        self.assertEqual((run / "final.pth").read_bytes(), (self.folder / "undisturbed/final.pth").read_bytes())

    def test_damaged_checkpoints_are_passed_over(self):
        run = self.folder / "run"
        undisturbed = self.undisturbed()
        self.faulty(run, "kill@0:15")
        newest = run / "checkpoints" / self.checkpoints(run)[-1]
        whole = newest.read_bytes()
        for damage in (whole[:-512], whole[:1000], b"", whole[:200_000] + bytes([whole[200_000] ^ 1]) + whole[200_001:]):
            copy = self.folder / f"copy-{uuid.uuid4().hex}"
            shutil.copytree(run, copy)
            (copy / "checkpoints" / newest.name).write_bytes(damage)
            result = self.resumed(copy)
            self.assertIn(f"passed over {newest.name}", result.stderr)
            self.assertEqual((copy / "final.pth").read_bytes(), undisturbed)

    def test_when_none_verifies_nothing_is_begun_anew(self):
        run = self.folder / "run"
        self.faulty(run, "kill@0:13")
        for path in (run / "checkpoints").glob("step-*"):
            path.write_bytes(b"torn")
        self.assert_refused(lockstep(*self.words(run, "--resume", "auto")), 65, "checkpoints")

    def test_an_older_checkpoint_must_be_wanted(self):
        run = self.folder / "run"
        self.done(*self.words(run))
        last = (run / "final.pth").read_bytes()
        oldest = run / "checkpoints" / self.checkpoints(run)[0]
        words = self.words(run, "--resume", oldest)
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        self.assert_refused(lockstep(*words), 64, "step-0000020.safetensors", "--overwrite")
        self.assertEqual({path: path.read_bytes() for path in run.rglob("*") if path.is_file()}, before, "its owner too")
        self.done(*words, "--overwrite")
        self.assertEqual((run / "final.pth").read_bytes(), last)

    def test_evaluate_and_info_read_checkpoints_and_python_s_safetensors(self):
        import safetensors.torch
        import torch

        run = self.folder / "run"
        self.done(*self.words(run))
        for path in (run / "checkpoints").glob("step-*"):
            self.assertTrue(safetensors.torch.load_file(path))
        weights = torch.load(run / "final.pth", weights_only=True)
        safetensors.torch.save_file(weights, self.folder / "python.safetensors")
        said = []
        for file in (run / "final.pth", run / "checkpoints" / self.checkpoints(run)[-1], self.folder / "python.safetensors"):
            self.done("info", file)
            result = self.done("evaluate", file, "--data-dir", self.small_data(), "--threads", "1")
            said.append([line for line in result.stdout.splitlines() if line.startswith("test_")])
        self.assertEqual(said[0], said[1])
        self.assertEqual(said[0], said[2])

    def test_who_comes_later_owns_the_run(self):  # ctest: waits
        run = self.folder / "run"
        job = uuid.uuid4().hex
        self.addCleanup(lambda: kill(processes_of(job)))
        words = [str(word) for word in [os.environ["LOCKSTEP"], *self.words(run)]]
        with open(self.folder / "err", "w+", encoding="utf-8") as err:
            first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=err,
                                     env=environment(job, {"LOCKSTEP_FAULT": "slow=4@0:9"}))
            until = time.monotonic() + 20
            while "step-0000008.safetensors" not in (self.checkpoints(run) if (run / "checkpoints").exists() else []):
                self.assertLess(time.monotonic(), until)
                time.sleep(0.05)
            self.resumed(run)
            last = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
            self.assertEqual(first.wait(20), 69)
            err.seek(0)
            self.assertIn("taken over", err.read())
        self.assertEqual({path: path.read_bytes() for path in run.rglob("*") if path.is_file()}, last)


if __name__ == "__main__":
    unittest.main()
