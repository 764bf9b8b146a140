"""Data files that are cut short, deleted or replaced while a run reads them."""

import os
import unittest

from faulty_run import ENDLESS, FaultyRun
from lockstep_runner import mpirun, processes_of


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
        self.assertEqual(processes_of(job), [], text)
        self.assertEqual(code, 65, text)
        self.assertEqual(text.count("lockstep: error: "), 1, text)
        self.assertEqual(text.count("hint: "), 1, text)
        self.assertIn(f"{file} was cut short while it was in use: 5000 bytes, {len(whole)} when it was opened", text)
        file.write_bytes(whole)
        return run, text

    def test_a_file_that_is_cut_short_ends_the_run_which_can_go_on(self):  # ctest: processors=2
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
