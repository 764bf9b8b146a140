"""Ranks that read different files, or were told different things: one message at the start, and nothing is written."""

import os
import shutil
import unittest

from lockstep_runner import RECORD_BYTES, LockstepTest, execute

LAUNCH = 69


class RanksAgreeTest(LockstepTest):
    def two(self, first, second):
        """A job of two ranks that are started with different words."""
        one, other = ([os.environ["LOCKSTEP"], *words] for words in (first, second))
        return execute(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "1", *one, ":", "-n", "1", *other])

    def assert_not_the_same(self, first, second, *said):
        self.assert_refused(self.two(first, second), LAUNCH, f"rank 1 (host {os.uname().nodename})", *said, within_s=20)
        self.assertFalse((self.folder / "run").exists(), "nothing is written")

    def words(self, *more, data=None, recipe="tutorial"):
        return ["train", "--recipe", recipe, "--data-dir", data or self.small_data(), "--out", self.folder / "run", "--threads", "1",
                "--epochs", "1", *more]

    def changed(self, name):
        """The data with another pixel in one file."""
        folder = shutil.copytree(self.small_data(), self.folder / f"changed {name}")
        content = bytearray((folder / name).read_bytes())
        content[3 * RECORD_BYTES - 1] ^= 1
        (folder / name).write_bytes(content)
        return folder

    def test_data_of_another_size(self):  # ctest: processors=2
        self.assert_not_the_same(self.words(), self.words(data=self.small_data(160, 40)), "data_batch_1.bin", "--data-dir")

    def test_data_of_the_same_size_with_another_pixel(self):  # ctest: processors=2
        for name in ("data_batch_4.bin", "test_batch.bin"):
            other = self.changed(name)
            self.assert_not_the_same(self.words(), self.words(data=other), f"{other / name} (", f"{self.small_data() / name} (")

    def test_copies_of_the_data_are_the_same_data(self):  # ctest: processors=2
        copy = shutil.copytree(self.small_data(), self.folder / "copy")
        result = self.two(self.words(), self.words(data=copy))
        self.assertEqual(result.rc, 0, str(result))

    def test_what_to_do(self):  # ctest: processors=2
        recipe = self.folder / "mine.toml"
        recipe.write_text("[data]\nshuffle = true\n")
        for more, said in ((["--seeds", 2], ["--seeds 2", "no --seeds"]), (["--device", "cpu"], ["--device cpu", "--device auto"]),
                           (["--resume", "auto"], ["--resume auto", "no --resume"])):
            with self.subTest(more=more):
                self.assert_not_the_same(self.words(), self.words(*more), *said)
        self.assert_not_the_same(self.words(), self.words(recipe=recipe), "data.shuffle = true")
        self.assert_not_the_same(self.words(), ["evaluate", self.folder / "none"], "lockstep evaluate", "lockstep train")
        self.assert_not_the_same(["bench", "step", "--layers", "2"], ["bench", "step", "--layers", "3"], "--layers 3")

    def test_what_to_evaluate(self):  # ctest: processors=2
        runs = [self.folder / name for name in ("one", "other")]
        for seed, run in enumerate(runs):
            self.train(run, "--epochs", "0", "--seed", seed, "--set", "eval.every_epochs=0")
        first, second = (run / "final.pth" for run in runs)
        data = ["--data-dir", self.small_data()]
        self.assert_not_the_same(["evaluate", first, *data], ["evaluate", second, *data], f"has {second} (", f"rank 0 {first} (")
        other = self.changed("test_batch.bin")
        self.assert_not_the_same(["evaluate", first, *data], ["evaluate", first, "--data-dir", other], "test_batch.bin", str(other))
        self.assert_not_the_same(["evaluate", first, *data], ["evaluate", first, *data, "--batch", 10], "eval.batch = 10")
        copy = shutil.copy(first, self.folder / "copy.pth")
        result = self.two(["evaluate", first, *data], ["evaluate", copy, *data])
        self.assertEqual(result.rc, 0, str(result))


if __name__ == "__main__":
    unittest.main()
