"""Runs of 20 steps on made-up data that faults interrupt; shared by the tests of this folder."""

import hashlib
import json
import os
import pathlib
import struct
import subprocess
import time
import uuid

from lockstep_runner import LockstepTest, environment, kill, lockstep, processes_of

# A run that only ends when it is ended: at the recipe's rate the loss would leave float32 after a hundred steps.
ENDLESS = ("--epochs", "4000", "--set", "optim.lr=1e-6")


def state_of(checkpoint):
    """The state in a checkpoint's header (docs/checkpoints.md)."""
    data = pathlib.Path(checkpoint).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["lockstep.state"])


class FaultyRun(LockstepTest):
    def small_data(self, train=160, test=40):
        return super().small_data(train, test)

    def words(self, out, *more):
        return [
            *("train", "--recipe", "tutorial", "--data-dir", self.small_data(), "--out", out, "--threads", "1", "--epochs", "4"),
            *("--set", "train.global_batch=32"),
            *("--set", "optim.momentum=0.9", "--set", "checkpoint.every_steps=2", "--set", "log.every_steps=1", *more),
        ]

    def undisturbed(self, *more, ranks=0):
        """The weights that a run without faults ends with; its folder is `undisturbed`. Tests that want the same run share it."""
        run = self.folder / "undisturbed"
        words = [str(word) for word in self.words(run, *more)]
        told = " ".join(words).replace(str(self.folder), "") + f" on {ranks}"
        self.made_once(f"run-{hashlib.sha256(told.encode()).hexdigest()[:16]}", run, lambda folder: self.done(*self.words(folder, *more), ranks=ranks))
        return (run / "final.pth").read_bytes()

    def faulty(self, run, fault, *more, ranks=0, **how):
        result = lockstep(*self.words(run, *more), ranks=ranks, env={"LOCKSTEP_FAULT": fault}, **how)
        self.assertEqual(result.left_over, [], str(result))
        return result

    def resumed(self, run, *more, ranks=0):
        result = self.done(*self.words(run, "--resume", "auto", *more), ranks=ranks)
        steps = [line["step"] for line in self.metrics(run, "train")]
        self.assertEqual(steps, list(range(1, 21)), "steps of the log, each once")
        return result

    def start(self, run, launcher, env=None, stderr=subprocess.DEVNULL):
        """Starts an endless run and waits for its second checkpoint; gives the process, and the mark of its processes."""
        job = uuid.uuid4().hex
        self.addCleanup(lambda: kill(processes_of(job)))
        process = subprocess.Popen(list(map(str, [*launcher, *self.words(run, *ENDLESS)])), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=stderr, env=environment(job, env), start_new_session=True)
        self.wait_for(lambda: len(self.checkpoints(run)) >= 2)
        return process, job

    def wait_for(self, condition, seconds=20):
        until = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), until)
            time.sleep(0.05)

    @staticmethod
    def ranks_of(job):
        def name(pid):
            try:
                return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
            except OSError:  # it has ended
                return ""

        return [pid for pid in processes_of(job) if name(pid) == "lockstep"]

    def assert_stopped_and_goes_on(self, run, ranks):
        """A run that start() started has saved when it was stopped, and goes on to the end that a run without a stop comes to."""
        (end,) = self.metrics(run, "end")
        self.assertEqual(end["reason"], "stopped on request")
        self.assertEqual(int(self.checkpoints(run)[-1][5:12]), end["step"])
        self.assertTrue((run / "final.pth").exists())
        last = end["step"] + 3
        self.done(*self.words(run, *ENDLESS, "--max-steps", last, "--resume", "auto"), ranks=ranks)
        self.done(*self.words(self.folder / "whole", *ENDLESS, "--max-steps", last), ranks=ranks)
        self.assertEqual((run / "final.pth").read_bytes(), (self.folder / "whole/final.pth").read_bytes())

    @staticmethod
    def checkpoints(run):
        return sorted(path.name for path in (run / "checkpoints").glob("step-*.safetensors"))
