"""Data files that are cut short, deleted or replaced while a run reads them, and disks that fail then."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import unittest

from faulty_run import ENDLESS, FaultyRun
from lockstep_runner import mpirun, outliving

PROCESS_MADVISE, MADV_PAGEOUT = 440, 21  # Linux, asm-generic/unistd.h and mman-common.h


def page_out(pid, part_of_path):
    """Takes the pages of a process's mapped files out of memory: it reads them again from the disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(pid)
    for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
        if part_of_path not in line:
            continue
        first, end = (int(address, 16) for address in line.split()[0].split("-"))
        piece = (ctypes.c_size_t * 2)(first, end - first)  # struct iovec
        if libc.syscall(PROCESS_MADVISE, handle, piece, ctypes.c_size_t(1), MADV_PAGEOUT, 0) < 0:
            raise OSError(ctypes.get_errno(), "process_madvise")
    os.close(handle)


class LostDataTest(FaultyRun):
    def lose(self, ranks, name):
        """Cuts a file of the data short under a run, which must end; gives what the run said."""
        run = self.folder / f"run-{ranks}-{name}"
        file = self.small_data() / name
        whole = file.read_bytes()
        said = self.folder / "said"
        with said.open("wb") as stderr:
            process, job = self.start(run, [*(mpirun(ranks) if ranks else []), os.environ["LOCKSTEP"]], stderr=stderr)
            os.truncate(file, 5_000)
            code = process.wait(15)
        text = said.read_text()
        self.assertEqual(outliving(job), [], text)
        self.assertEqual(code, 65, text)
        self.assertEqual(text.count("lockstep: error: "), 1, text)
        self.assertEqual(text.count("hint: "), 1, text)
        self.assertIn(f"{file} was cut short while it was in use: 5000 bytes, {len(whole)} when it was opened", text)
        file.write_bytes(whole)
        return run, text

    def test_a_file_that_is_cut_short_ends_the_run_which_can_go_on(self):  # ctest: waits
        for ranks, place in ((0, "error: /"), (2, f"on {os.uname().nodename}: /")):
            run, text = self.lose(ranks, "data_batch_3.bin")
            self.assertIn(place, text)
            last = int(self.checkpoints(run)[-1][5:12]) + 3
            self.done(*self.words(run, *ENDLESS, "--max-steps", last, "--resume", "auto"), ranks=ranks)
            whole = self.folder / f"whole-{ranks}"
            self.done(*self.words(whole, *ENDLESS, "--max-steps", last), ranks=ranks)
            self.assertEqual((run / "final.pth").read_bytes(), (whole / "final.pth").read_bytes())

    def test_in_an_evaluation_too(self):
        self.lose(0, "test_batch.bin")

    def test_a_disk_that_fails_ends_the_run(self):
        data, disk = self.small_data(), self.folder / "disk"
        if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
            self.skip("only root, with mkfs.ext4, can mount a disk that lies in a file")
        subprocess.run(["mkfs.ext4", "-q", "-d", data, disk, "4M"], check=True)
        mount = ["unshare", "--mount", "sh", "-c", 'mount -o loop,ro "$0" "$1" && shift && exec "$@"', disk, data]
        if subprocess.run([*mount, "true"], capture_output=True, check=False).returncode != 0:
            self.skip("this machine does not let a test mount a disk that lies in a file")
        run, said = self.folder / "run", self.folder / "said"
        with said.open("wb") as stderr:
            process, job = self.start(run, [*mount, os.environ["LOCKSTEP"]], stderr=stderr)
            os.truncate(disk, 0)
            page_out(self.ranks_of(job)[0], "data_batch_")
            code = process.wait(15)
        text = said.read_text()
        self.assertEqual(outliving(job), [], text)
        self.assertEqual(code, 74, text)
        self.assertEqual(text.count("lockstep: error: "), 1, text)
        self.assertRegex(text, r"cannot read \S*/data_batch_\d.bin at byte \d+ any more\nhint: check the disk")
        self.assertIn((run / "checkpoints/latest").read_text().strip(), self.checkpoints(run)[-2:])

    def test_files_that_are_deleted_or_replaced_change_nothing(self):
        undisturbed = self.undisturbed()
        run = self.folder / "run"
        script = (f'(until [ -e {run}/checkpoints/latest ]; do sleep 0.05; done; cd {self.small_data()}; rm data_batch_1.bin; '
                  'echo > new; mv new data_batch_2.bin) & "$@"')
        result = self.faulty(run, "slow=1@0:5", before=["bash", "-c", script, "bash"])
        self.assertEqual(result.rc, 0, str(result))
        self.assertFalse((self.small_data() / "data_batch_1.bin").exists())
        self.assertEqual((run / "final.pth").read_bytes(), undisturbed)


if __name__ == "__main__":
    unittest.main()
