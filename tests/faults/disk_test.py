"""Disks that are full, or take no more: training goes on, and no torn file is taken for a good one."""

import os
import unittest

from faulty_run import FaultyRun
from lockstep_runner import execute, in_mounted, lockstep


class DiskTest(FaultyRun):
    def test_files_may_not_grow_beyond_a_limit(self):
        # 600 to 1,100 KiB: weights fit, checkpoints with their momentum do not.
        run = self.folder / "run"
        result = lockstep(*self.words(run), before=["bash", "-c", 'ulimit -f 800; exec "$@"', "bash"])
        self.assertEqual(result.rc, 0, str(result))
        self.assertIn("no checkpoint of step", result.stderr)
        self.assertEqual(list((run / "checkpoints").iterdir()), [])
        self.assertEqual((run / "final.pth").read_bytes(), self.undisturbed())

    def in_small_disk(self, options, script):
        """A run in a file system of its own, whose files are copied out before it goes."""
        disk = self.folder / "disk"
        disk.mkdir()
        copy = self.folder / "copy"
        before = in_mounted(disk, options)
        if before is None:
            self.skip("this machine does not let a test mount a small disk")
        words = [str(word) for word in lockstep_words(self.words(disk / "run"))]
        result = execute([*before, "bash", "-c", f'{script}; rc=$?; cp -a "$0" {copy}; exit $rc', disk / "run", *words],
                         env={"LOCKSTEP_FAULT": "slow=2@0:9"})
        return result, copy

    def assert_good_to_go_on(self, copy):
        undisturbed = self.undisturbed()
        latest = (copy / "checkpoints/latest").read_text().strip()
        self.done("info", copy / "checkpoints" / latest)
        self.resumed(copy)
        self.assertEqual((copy / "final.pth").read_bytes(), undisturbed)

    def test_a_disk_that_is_full_keeps_its_good_checkpoints(self):  # ctest: waits
        result, copy = self.in_small_disk("size=4m", '"$@"')
        self.assertEqual(result.rc, 74, str(result))
        self.assertIn("No space left", result.stderr)
        self.assert_good_to_go_on(copy)

    def test_a_folder_that_turns_read_only(self):  # ctest: waits
        mount = 'cd "$0"; mount --bind checkpoints checkpoints && mount -o remount,ro,bind checkpoints'
        result, copy = self.in_small_disk("size=64m", f'(sleep 1.7; {mount}) & "$@"')
        self.assertEqual(result.rc, 0, str(result))
        self.assertIn("Read-only", result.stderr)
        self.assertLess(max(self.checkpoints(copy)), "step-0000020.safetensors")
        self.assert_good_to_go_on(copy)


def lockstep_words(words):
    return [os.environ["LOCKSTEP"], *words]


if __name__ == "__main__":
    unittest.main()
