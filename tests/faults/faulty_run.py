"""Runs of 20 steps on made-up data that faults interrupt; shared by the tests of this folder."""

import json
import pathlib
import struct

from lockstep_runner import LockstepTest, lockstep


def state_of(checkpoint):
    """The state in a checkpoint's header (docs/checkpoints.md)."""
    data = pathlib.Path(checkpoint).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["lockstep.state"])


class FaultyRun(LockstepTest):
    def words(self, out, *more):
        return [
            *("train", "--recipe", "tutorial", "--data-dir", self.small_data(), "--out", out, "--threads", "1", "--epochs", "4"),
            *("--set", "optim.momentum=0.9", "--set", "checkpoint.every_steps=2", "--set", "log.every_steps=1", *more),
        ]

    def undisturbed(self, *more, ranks=0):
        run = self.folder / "undisturbed"
        self.done(*self.words(run, *more), ranks=ranks)
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

    @staticmethod
    def checkpoints(run):
        return sorted(path.name for path in (run / "checkpoints").glob("step-*.safetensors"))
