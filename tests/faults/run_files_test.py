"""What a run may touch: its own files and no others; and what it says if its data or its folder are not what they were."""

import os
import shutil
import subprocess
import unittest

from faulty_run import FaultyRun, state_of
from lockstep_runner import RECORD_BYTES, lockstep

OTHERS = {"events.out.tfevents.1700000000.elsewhere.77.0": b"another writer's", "resnet_18.pth": b"mine", "notes.txt": b"mine too",
          "checkpoints/notes.txt": b"and this", "sjnet_7.pth": b"kept from an earlier run"}


class RunFilesTest(FaultyRun):
    def put_others(self, run):
        for name, content in OTHERS.items():
            (run / name).write_bytes(content)

    def assert_others_are_there(self, run):
        for name, content in OTHERS.items():
            self.assertEqual((run / name).read_bytes(), content, name)

    def listed(self, run):
        return [line for line in (run / "files.txt").read_text().splitlines() if not line.startswith("#")]

    def events(self, run):
        return {path.name for path in run.glob("events.*")} - set(OTHERS)

    def test_the_list_names_every_file_of_the_run(self):  # ctest: waits
        run = self.folder / "run"
        self.done(*self.words(run))
        files = {path.name for path in run.iterdir()} - {"files.txt", "checkpoints"}
        self.assertEqual(set(self.listed(run)), files | {"checkpoints/", "flight-rank-0.json"})

    def test_a_run_that_goes_on_leaves_the_files_of_others(self):  # ctest: waits
        run = self.folder / "run"
        undisturbed = self.undisturbed()
        for listed in (True, False):  # with the list, and as versions without it left the folder
            self.faulty(run, "kill@0:13")
            self.put_others(run)
            if not listed:
                (run / "files.txt").unlink()
            before = self.events(run)
            result = self.resumed(run)
            self.assert_others_are_there(run)
            self.assertEqual((run / "final.pth").read_bytes(), undisturbed)
            self.assertEqual(len(before | self.events(run)), 2, "one file of each start")
            self.assertEqual("elsewhere.77" in result.stderr, not listed, result.stderr)
            # Of three starts, the second file is later than the checkpoint.
            newest = max((run / "checkpoints").glob("step-*"))
            self.assertEqual(set(state_of(newest)["events"]), self.events(run))
            shutil.rmtree(run)

    def test_a_start_that_left_no_checkpoint_leaves_no_events_to_the_next(self):  # ctest: waits
        run = self.folder / "run"
        self.faulty(run, "kill@0:13")
        kept = self.events(run)
        newest = max((run / "checkpoints").glob("step-*"))  # the last one may not have been finished
        self.faulty(run, f"kill@0:{state_of(newest)['step'] + 1}", "--resume", "auto")
        for listed in (True, False):
            copy = shutil.copytree(run, self.folder / f"copy-{listed}")
            if not listed:
                (copy / "files.txt").unlink()
            self.resumed(copy)
            self.assertEqual(len(self.events(copy)), 2)
            self.assertLess(kept, self.events(copy))

    def test_overwrite_removes_the_run_and_nothing_else(self):  # ctest: waits
        run = self.folder / "run"
        for listed in (True, False):
            self.done(*self.words(run))
            self.put_others(run)
            if not listed:
                (run / "files.txt").unlink()
            self.assert_refused(lockstep(*self.words(run)), 64, "already holds a run")
            before = self.events(run)
            result = self.done(*self.words(run, "--overwrite", "--max-steps", "3"))
            self.assert_others_are_there(run)
            for name in OTHERS:
                self.assertIn(name, result.stderr)
            self.assertEqual(sorted(path.name for path in run.glob("*.pth")), ["final.pth", "resnet_18.pth", "sjnet_7.pth"])
            self.assertEqual(self.checkpoints(run), ["step-0000002.safetensors", "step-0000003.safetensors"])
            self.assertFalse(before & self.events(run))
            shutil.rmtree(run)

    def test_files_of_others_make_no_run(self):  # ctest: waits
        run = self.folder / "run"
        (run / "checkpoints").mkdir(parents=True)
        self.put_others(run)
        self.done(*self.words(run, "--max-steps", "3"))
        self.assert_others_are_there(run)

    def test_a_file_that_the_run_would_replace_is_in_the_way(self):  # ctest: waits
        run = self.folder / "run"
        for name, more in (("final.pth", []), ("sjnet_2.pth", ["--overwrite"]), ("files.txt", ["--resume", "auto"])):
            run.mkdir()
            (run / name).write_bytes(b"mine")
            self.assert_refused(lockstep(*self.words(run, *more)), 64, f"{run / name} is not a file of this run")
            self.assertEqual({path.name: path.read_bytes() for path in run.iterdir()}, {name: b"mine"})
            shutil.rmtree(run)

    def test_weights_are_looked_for_among_the_run_s_own(self):
        run = self.folder / "run"
        self.done(*self.words(run, "--set", "checkpoint.every_steps=0", "--set", "checkpoint.every_epochs=0"))
        (run / "final.pth").unlink()
        (run / "resnet_18.pth").write_bytes(b"mine")
        self.assertIn("sjnet_3.pth", self.done("info", run).stdout)

    # Data.

    def test_one_other_pixel_is_other_data(self):  # ctest: waits
        run = self.folder / "run"
        self.faulty(run, "kill@0:13")
        for name, said in (("data_batch_3.bin", "the training images: 160 images"), ("test_batch.bin", "the test images: 40 images")):
            file = self.small_data() / name
            whole = file.read_bytes()
            at = 4 * RECORD_BYTES + 1000  # of the 64 images that older checkpoints know, this one is none
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            os.utime(file, ns=(1, 1))
            self.assert_refused(lockstep(*self.words(run, "--resume", "auto")), 78, said)
            file.write_bytes(whole)
        self.resumed(run)

    # The folder.

    def test_a_folder_that_goes_in_mid_run_is_said_to_be_gone(self):  # ctest: waits
        for change in ("mv {0} {0}-elsewhere", "mv {0} {0}-elsewhere; mkdir {0}", "rm {0}/owner"):
            run = self.folder / f"run-{len(change)}"
            with open(self.folder / "said", "w+", encoding="utf-8") as said:
                process, _ = self.start(run, [os.environ["LOCKSTEP"]], stderr=said)
                subprocess.run(change.format(run), shell=True, check=True)
                self.assertEqual(process.wait(20), 69)
                said.seek(0)
                text = said.read()
            self.assertIn("owner is gone" if "owner" in change else f"the run folder {run} is gone", text)
            self.assertIn("--resume", text)
            self.assertNotIn("the other one", text)
            if change.startswith("mv"):
                self.assertEqual(list(run.rglob("*")), [], "nothing is made where the folder was")


if __name__ == "__main__":
    unittest.main()
