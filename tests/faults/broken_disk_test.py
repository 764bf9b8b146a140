"""Disks that fail (EIO) in a write, an fsync or a rename: training goes on, what was saved stays, and what comes later is saved again."""

import os
import pathlib
import re
import unittest

from faulty_run import FaultyRun
from lockstep_runner import lockstep

LIBRARY = pathlib.Path(os.environ["TEST_PROGRAMS"], "libfailing_calls.so")


class BrokenDiskTest(FaultyRun):
    def train_with(self, run, failing, rc=0, ranks=0):
        """A run in which these calls fail (see failing_calls.cpp)."""
        # A preloaded library comes before AddressSanitizer's, in builds that have it.
        env = {"LD_PRELOAD": str(LIBRARY), "FAILING_CALLS": failing, "ASAN_OPTIONS": "verify_asan_link_order=0:detect_leaks=0"}
        result = lockstep(*self.words(run), ranks=ranks, env=env)
        self.assertEqual(result.rc, rc, str(result))
        self.assertEqual(result.left_over, [], str(result))
        call, number, _ = failing.split()
        self.assertIn(f"failing_calls: {call} {number.rstrip('-')} ", result.stderr, "the call has failed")
        return result

    def latest(self, run):
        return (run / "checkpoints/latest").read_text().strip()

    def warnings(self, result):
        return [line for line in result.stderr.splitlines() if line.startswith("lockstep: warning: no checkpoint of step")]

    def assert_checkpoints_survive(self, *stages):
        """Each stage: a call, its number in the second checkpoint, the path; the file that the warning names."""
        undisturbed = self.undisturbed()
        for call, number, path, named in stages:
            with self.subTest(call=call, number=number, path=path):
                once = self.folder / f"once-{call}-{number}-{named}"
                result = self.train_with(once, f"{call} {number} {path}")
                warnings = self.warnings(result)
                self.assertEqual(len(warnings), 1, str(result))
                self.assertIn(f"/checkpoints/{named}", warnings[0])
                self.assertIn("Input/output error; training goes on, and ", warnings[0])
                saved = [line["step"] for line in self.metrics(once, "checkpoint")]
                self.assertNotIn(int(warnings[0].partition("no checkpoint of step ")[2].partition(":")[0]), saved)
                self.assertEqual(saved[-1], 20)
                self.assertEqual(self.latest(once), "step-0000020.safetensors")
                self.assertEqual((once / "final.pth").read_bytes(), undisturbed)

                ever = self.folder / f"ever-{call}-{number}-{named}"
                result = self.train_with(ever, f"{call} {number}- {path}")
                (first,) = [line["step"] for line in self.metrics(ever, "checkpoint")]
                for warning in self.warnings(result):  # it names the newest file that is good, a checkpoint or weights
                    self.assertTrue(pathlib.Path(re.search(r"training goes on, and (\S+) stays", warning)[1]).exists(), warning)
                self.assertEqual((ever / "final.pth").read_bytes(), undisturbed)
                files = os.listdir(ever / "checkpoints")
                self.assertEqual([name for name in files if ".tmp-" in name], [])
                self.assertIn(f"step-{first:07}.safetensors", files)
                if len(files) > 2:  # else the resume tells as much
                    self.done("info", ever / "checkpoints" / self.latest(ever))
                (ever / "final.pth").unlink()
                self.assertNotIn("passed over", self.resumed(ever).stderr)
                self.assertEqual((ever / "final.pth").read_bytes(), undisturbed)

    def test_write(self):  # ctest: timeout=180
        self.assert_checkpoints_survive(("write", 3, "*/checkpoints/step-*.tmp-*", "step-"),
                                        ("write", 4, "*/checkpoints/step-*.tmp-*", "step-"),
                                        ("write", 3, "*/checkpoints/latest.tmp-*", "latest"),
                                        ("write", 4, "*/checkpoints/latest.tmp-*", "latest"))

    def test_fsync_of_files(self):  # ctest: timeout=180
        self.assert_checkpoints_survive(("fsync", 2, "*/checkpoints/step-*.tmp-*", "step-"),
                                        ("fsync", 2, "*/checkpoints/latest.tmp-*", "latest"))

    def test_fsync_of_the_folder(self):  # ctest: timeout=180
        self.assert_checkpoints_survive(("fsync", 3, "*/checkpoints", "step-"), ("fsync", 4, "*/checkpoints", "latest"))

    def test_rename(self):  # ctest: timeout=180
        self.assert_checkpoints_survive(("rename", 2, "*/checkpoints/step-*", "step-"), ("rename", 2, "*/checkpoints/latest", "latest"))

    def test_without_final_pth_the_code_is_74(self):  # ctest: waits
        undisturbed = self.undisturbed()
        for call, number, path, ranks in (("write", 1, "final.pth.tmp-*", 0), ("write", 2, "final.pth.tmp-*", 0),
                                          ("fsync", 1, "final.pth.tmp-*", 0), ("rename", 1, "final.pth", 2)):
            with self.subTest(call=call, number=number):
                run = self.folder / f"{call}-{number}"
                result = self.train_with(run, f"{call} {number} */{path}", rc=74, ranks=ranks)
                self.assert_refused(result, 74, "final.pth", "Input/output error")
                self.assertFalse((run / "final.pth").exists())
                self.assertEqual(self.latest(run), "step-0000020.safetensors")
                if ranks == 0:
                    self.resumed(run)
                    self.assertEqual((run / "final.pth").read_bytes(), undisturbed)

    def test_lines_of_the_log_are_kept_until_they_can_be_written(self):
        run = self.folder / "once"
        self.assertIn("metrics.jsonl", self.train_with(run, "write 5 */metrics.jsonl").stderr)
        self.assertEqual([line["step"] for line in self.metrics(run, "train")], list(range(1, 21)))
        result = self.train_with(self.folder / "ever", "write 5- */metrics.jsonl", rc=74)
        (error,) = [line for line in result.stderr.splitlines() if line.startswith("lockstep: error: ")]
        self.assertIn("metrics.jsonl: Input/output error", error)
        result = self.train_with(self.folder / "fsync", "fsync 2 */metrics.jsonl")
        self.assertEqual(len([line for line in self.warnings(result) if "metrics.jsonl: Input/output error" in line]), 1, str(result))

    def test_weights_of_an_epoch_are_told_and_left_out(self):
        run = self.folder / "run"
        result = self.train_with(run, "rename 1 */sjnet_1.pth")
        self.assertIn("sjnet_1.pth: Input/output error; training goes on without this file", result.stderr)
        self.assertEqual(sorted(path.name for path in run.glob("*.pth")), ["final.pth", "sjnet_0.pth", "sjnet_2.pth", "sjnet_3.pth"])


if __name__ == "__main__":
    unittest.main()
