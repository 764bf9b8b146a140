"""Bad input: one message from one rank with a hint, the documented exit code, nobody left waiting."""

import os
import shutil
import time
import unittest

from lockstep_runner import RECORD_BYTES, LockstepTest, execute, in_mounted, lockstep

USAGE, DAMAGED, MISSING, LAUNCH, INTERNAL, IO = 64, 65, 66, 69, 70, 74


class BadInputTest(LockstepTest):
    def words(self, *more, data=None, out=None, recipe="tutorial"):
        return [
            *("train", "--recipe", recipe, "--data-dir", data or self.small_data(), "--out", out or self.folder / "run"),
            *("--threads", "1", "--epochs", "1", *more),
        ]

    def assert_train_refused(self, code, said, *more, ranks=(0, 2), leaves=(), **where):
        """`lockstep train` says no, alone and under mpirun, and has written nothing."""
        for count in ranks:
            with self.subTest(ranks=count):
                result = lockstep(*self.words(*more, **where), ranks=count)
                self.assert_refused(result, code, *([said] if isinstance(said, str) else said))
                run = self.folder / "run"
                self.assertEqual(sorted(path.name for path in run.iterdir()) if run.exists() else [], sorted(leaves))

    # Data.

    def test_a_missing_data_folder(self):
        self.assert_train_refused(MISSING, ["nowhere", "lockstep data"], data=self.folder / "nowhere")

    def test_a_data_folder_with_one_file_missing(self):  # ctest: waits
        for name in ("data_batch_3.bin", "test_batch.bin"):
            data = shutil.copytree(self.small_data(), self.folder / f"without {name}")
            (data / name).unlink()
            self.assert_train_refused(MISSING, name, data=data)

    def damaged_data(self, name, change):
        data = shutil.copytree(self.small_data(), self.folder / "damaged")
        whole = (data / name).read_bytes()
        (data / name).write_bytes(change(whole))
        return data

    def test_a_truncated_data_file(self):
        data = self.damaged_data("data_batch_2.bin", lambda whole: whole[:-1])
        self.assert_train_refused(DAMAGED, ["data_batch_2.bin", "truncated"], data=data)

    def test_a_data_file_cut_at_a_whole_record(self):  # ctest: waits
        data = self.damaged_data("test_batch.bin", lambda whole: whole[:-RECORD_BYTES])
        self.assert_train_refused(DAMAGED, ["test_batch.bin", "truncated"], data=data)

    def test_an_oversized_data_file(self):
        data = self.damaged_data("data_batch_5.bin", lambda whole: whole + b"\0" * RECORD_BYTES)
        self.assert_train_refused(DAMAGED, "data_batch_5.bin", data=data)

    def test_an_empty_data_file(self):  # ctest: waits
        data = self.damaged_data("data_batch_1.bin", lambda whole: b"")
        self.assert_train_refused(DAMAGED, ["data_batch_1.bin", "empty"], data=data)

    def test_a_label_above_9(self):
        at = 3 * RECORD_BYTES
        data = self.damaged_data("data_batch_4.bin", lambda whole: whole[:at] + b"\x0a" + whole[at + 1 :])
        self.assert_train_refused(DAMAGED, ["data_batch_4.bin", "record 3", "label 10"], data=data)

    def test_a_damaged_real_data_file(self):
        real = self.real_data()
        if not self.is_real(real):
            self.skip("there is no real CIFAR-10 to damage")
        data = self.folder / "real"
        data.mkdir()
        for path in real.glob("*.bin"):
            (data / path.name).symlink_to(path)
        (data / "data_batch_5.bin").unlink()
        with open(real / "data_batch_5.bin", "rb") as source:
            (data / "data_batch_5.bin").write_bytes(source.read(9_999 * RECORD_BYTES))
        self.assert_train_refused(DAMAGED, ["data_batch_5.bin", "30,730,000"], data=data, ranks=(0,))

    # Words and settings.

    def test_an_unknown_command_names_the_nearest(self):
        for ranks in (0, 2):
            self.assert_refused(lockstep("trian", ranks=ranks), USAGE, "trian", "'train'")

    def test_an_unknown_flag_names_the_nearest(self):  # ctest: waits
        self.assert_train_refused(USAGE, ["--epoch", "--epochs"], "--epoch", "3")
        self.assert_train_refused(USAGE, ["--max-stesp", "--max-steps"], "--max-stesp=3", ranks=(0,))
        self.assert_refused(lockstep("evaluate", "run", "--jsno"), USAGE, "--jsno", "--json")

    def test_a_flag_of_another_program_is_answered_with_what_it_means(self):  # ctest: waits
        for words, said in (
            (["-lr", "0.1"], "write --set optim.lr=0.1;"),
            (["lr=0.1"], "write --set optim.lr=0.1;"),
            (["--gpu", "0"], "write --device cuda: each rank takes one GPU"),
            (["--set", "learning_rate=1"], "did you mean 'optim.lr'?"),
        ):
            self.assert_refused(lockstep(*self.words(*words)), USAGE, said)
        self.assert_refused(lockstep("evaluate", "run", "--batch-size", "3"), USAGE, "write --batch 3;")
        self.assertFalse((self.folder / "run").exists())

    def test_an_unknown_recipe_names_the_nearest(self):  # ctest: waits
        self.assert_train_refused(USAGE, ["tutorail", "'tutorial'"], recipe="tutorail")

    def test_an_unknown_setting_names_the_nearest(self):
        self.assert_train_refused(USAGE, ["optim.momentun", "'optim.momentum'"], "--set", "optim.momentun=0.9")
        self.assert_train_refused(USAGE, ["'lr'", "'optim.lr'"], "--set", "lr=0.1", ranks=(0,))

    def test_a_value_out_of_range(self):  # ctest: waits
        self.assert_train_refused(USAGE, ["optim.momentum", "1.5"], "--set", "optim.momentum=1.5")
        for setting, value in {
            "train.epochs": "-1",
            "train.global_batch": "0",
            "optim.lr": "nan",
            "ddp.bucket_bytes": "0",
            "log.every_steps": "99999999999999999999",
        }.items():
            self.assert_train_refused(USAGE, [setting, value], "--set", f"{setting}={value}", ranks=(0,))
        self.assert_train_refused(USAGE, "--threads", "--threads", "-2", ranks=(0,))
        self.assert_train_refused(USAGE, "--batch-per-rank", "--batch-per-rank", "0", "--lr-scale", "none", ranks=(0,))

    def test_a_malformed_value(self):  # ctest: waits
        self.assert_train_refused(USAGE, ["train.global_batch", "sixty"], "--set", "train.global_batch=sixty")
        for flags in (
            ["--set", "train.global_batch=64x"],
            ["--set", "data.shuffle=perhaps"],
            ["--set", "model.name=sjnett"],
            ["--set", "optim.lr"],
            ["--device", "tpu"],
            ["--lr-scale", "linear"],
            ["--batch-per-rank", "32"],
            ["--set", "optim.nesterov=true"],
            ["--epochs"],
            ["leftover"],
        ):
            with self.subTest(flags=flags):
                self.assert_train_refused(USAGE, [], *flags, ranks=(0,))

    def test_a_malformed_value_is_told_with_its_flag(self):
        self.assert_train_refused(USAGE, ["'two'", "--threads"], "--threads", "two", ranks=(0,))
        self.assert_train_refused(USAGE, ["'3.5'", "--batch-per-rank"], "--batch-per-rank=3.5", ranks=(0,))

    def test_a_bad_recipe_file(self):  # ctest: waits
        recipe = self.folder / "mine.toml"
        for text, code, said in (
            ("[train\nepochs = 1\n", USAGE, ["mine.toml"]),
            ("[train]\nepochs = 1\n\n[optim]\nmomentun = 0.9\n", USAGE, ["mine.toml:5", "'optim.momentum'"]),
            ("[train]\nglobal_batch = 0\n", USAGE, ["mine.toml:2", "train.global_batch"]),
            ("[train]\nglobal_batch = 'x'\n", USAGE, ["mine.toml:2", "train.global_batch"]),
            ("epochs = 3\n", USAGE, ["mine.toml:1", "epochs"]),
            (None, MISSING, ["mine.toml"]),
        ):
            with self.subTest(text=text):
                recipe.unlink(missing_ok=True)
                if text is not None:
                    recipe.write_text(text)
                self.assert_train_refused(code, said, recipe=recipe, ranks=(0,))
        self.assert_train_refused(MISSING, "mine.toml", recipe=recipe, ranks=(2,))

    # Launch.

    def test_fewer_images_a_step_than_ranks(self):
        self.assert_train_refused(LAUNCH, ["3 ranks", "2 images a step"], "--set", "train.global_batch=2", ranks=(3,))

    def test_virtual_ranks_that_cannot_be_dealt(self):  # ctest: waits
        for ranks, number in ((3, 4), (2, 6), (4, 2)):
            with self.subTest(ranks=ranks, number=number):
                said = [f"train.virtual_ranks = {number}", f"{ranks} ranks", "powers of two"]
                self.assert_train_refused(LAUNCH, said, "--set", f"train.virtual_ranks={number}", ranks=(ranks,))

    def test_more_passes_than_images(self):
        said = ["train.accumulate = 33", "32"]
        self.assert_train_refused(USAGE, said, "--set", "train.accumulate=33", ranks=(2,))

    def test_virtual_ranks_with_rounded_gradients(self):
        said = ["train.virtual_ranks", "ddp.wire=bf16"]
        self.assert_train_refused(USAGE, said, "--set", "train.virtual_ranks=4", "--set", "ddp.wire=bf16")

    def test_ranks_with_different_settings(self):
        # Rank 1 is started with another rate: mpirun takes several programs with their own words.
        words = self.words()
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "1", os.environ["LOCKSTEP"], *words,
                   ":", "-n", "1", os.environ["LOCKSTEP"], *words, "--set", "optim.lr=0.5"]
        self.assert_refused(execute(command), LAUNCH, "rank 1", "optim.lr = 0.5", "optim.lr = 0.01")

    def test_steps_to_trace_that_are_no_range(self):
        for steps in ("20:11", "0:3", "5", "a:b", "1:2x"):
            with self.subTest(steps=steps):
                self.assert_train_refused(USAGE, ["--trace-steps"], "--trace=t.json", f"--trace-steps={steps}", ranks=(0,))

    def test_more_ranks_than_images(self):
        data = self.small_data(5, 5)
        self.assert_train_refused(LAUNCH, ["6 ranks", "5 training images"], data=data, ranks=(6,))

    # The run folder.

    def test_a_folder_below_a_file(self):
        (self.folder / "file").write_text("")
        self.assert_train_refused(IO, "file/run", out=self.folder / "file" / "run")

    def test_an_unwritable_folder(self):
        folder = self.folder / "sealed"
        folder.mkdir(mode=0o555)
        before = ()
        if os.geteuid() == 0:
            before = in_mounted(folder, "ro")
            if before is None:
                self.skip("root may write anywhere, and this machine does not let it mount a read-only folder")
        for ranks in (0, 2):
            result = lockstep(*self.words(out=folder / "run"), ranks=ranks, before=before)
            self.assert_refused(result, IO, str(folder / "run"))

    def test_a_full_disk_at_the_start(self):
        folder = self.folder / "disk"
        folder.mkdir()
        before = in_mounted(folder, "size=8k", first="head -c 8192 /dev/zero > ballast 2> /dev/null")
        if before is None:
            self.skip("this machine does not let a test mount a small disk")
        for ranks in (0, 2):
            result = lockstep(*self.words(out=folder), ranks=ranks, before=before)
            self.assert_refused(result, IO, str(folder), "space")

    def test_a_disk_that_fills_in_mid_run(self):
        # Room for the log, not for the 583 kB of weights after the first epoch: training goes on without them, and the last ones
        # must be there.
        folder = self.folder / "disk"
        folder.mkdir()
        before = in_mounted(folder, "size=256k")
        if before is None:
            self.skip("this machine does not let a test mount a small disk")
        for ranks in (0, 2):
            result = lockstep(*self.words(out=folder), ranks=ranks, before=before)
            self.assert_refused(result, IO, "final.pth", "space")
            warnings = [line for line in result.stderr.splitlines() if line.startswith("lockstep: warning: ")]
            self.assertIn("sjnet_0.pth", warnings[0])
            self.assertTrue(any("no checkpoint of step 5" in line for line in warnings), result.stderr)
            self.assertIn("test loss", result.stdout, "the run got as far as its first weights")

    # A rank that fails alone.

    def assert_thrown(self, ranks, rank, step):
        start = time.monotonic()
        fault = {"LOCKSTEP_FAULT": f"throw@{rank}:{step}"}
        result = lockstep(*self.words("--set", "log.every_steps=1"), ranks=ranks, env=fault)
        self.assert_refused(result, INTERNAL, f"step {step}", within_s=10)
        if ranks > 1:
            self.assertIn(f"rank {rank} on {os.uname().nodename}", result.stderr)
        self.assertEqual([line["step"] for line in self.metrics(self.folder / "run", "train")], list(range(1, step)))
        print(f"ended {time.monotonic() - start:.1f} s after the start")

    def test_a_step_that_throws_without_mpirun(self):
        self.assert_thrown(ranks=0, rank=0, step=3)

    def test_rank_0_of_2_throws_in_mid_step(self):  # ctest: processors=2
        self.assert_thrown(ranks=2, rank=0, step=3)

    def test_rank_1_of_2_throws_in_mid_step(self):  # ctest: processors=2
        self.assert_thrown(ranks=2, rank=1, step=3)

    def test_rank_3_of_4_throws_in_the_first_step(self):  # ctest: processors=2
        self.assert_thrown(ranks=4, rank=3, step=1)

    def test_a_malformed_fault_is_refused(self):
        result = lockstep(*self.words(), env={"LOCKSTEP_FAULT": "throw@first"})
        self.assert_refused(result, USAGE, "LOCKSTEP_FAULT")

    # Weights.

    def test_weights_that_are_not_there(self):  # ctest: waits
        for ranks in (0, 2):
            result = lockstep("evaluate", self.folder / "none", "--data-dir", self.small_data(), ranks=ranks)
            self.assert_refused(result, MISSING, "none")
        (self.folder / "empty").mkdir()
        self.assert_refused(lockstep("evaluate", self.folder / "empty", "--data-dir", self.small_data()), MISSING, "empty")
        self.assert_refused(lockstep("info", self.folder / "none"), MISSING, "none")

    def test_weights_that_are_something_else(self):
        path = self.folder / "text.pth"
        path.write_text("not weights\n" * 1000)
        for ranks in (0, 2):
            result = lockstep("evaluate", path, "--data-dir", self.small_data(), ranks=ranks)
            self.assert_refused(result, DAMAGED, "text.pth")
        self.assert_refused(lockstep("info", path), DAMAGED, "text.pth")

    def test_weights_to_resume_from_are_no_checkpoint(self):
        run = self.folder / "run"
        self.train(run, "--epochs", "1")
        alone = shutil.copy(run / "final.pth", self.folder / "alone.pth")
        for path, hint in ((run / "final.pth", f"--resume '{run}'"), (alone, "lockstep evaluate")):
            result = lockstep("train", "--resume", path, "--data-dir", self.small_data(), "--out", self.folder / "other")
            self.assert_refused(result, USAGE, path.name if path != alone else "alone.pth", "no checkpoint", hint)
            self.assertFalse((self.folder / "other").exists())

    # What is no regular file: to open it, or to read it, could wait for ever.

    def test_a_fifo_or_device_in_place_of_a_file_is_refused_at_once(self):
        data = shutil.copytree(self.small_data(), self.folder / "data")
        run = self.folder / "done"
        self.train(run, "--epochs", "1")
        fifo = self.folder / "fifo.toml"
        os.mkfifo(fifo)
        for words in (
            ("evaluate", fifo, "--data-dir", data),
            ("info", fifo),
            self.words("--resume", fifo, data=data),
            self.words(recipe=fifo, data=data),
            self.words(recipe="/dev/zero", data=data),
            ("evaluate", "/dev/zero", "--data-dir", data),
        ):
            with self.subTest(words=words):
                self.assert_refused(lockstep(*words, timeout_s=20), IO, "not a regular file")
        (run / "checkpoints" / "step-0000009.safetensors").symlink_to(fifo)  # passed over, as a damaged one is
        (run / "metrics.jsonl").unlink()
        os.mkfifo(run / "metrics.jsonl")
        self.assertNotIn("last test", self.done("info", run, timeout_s=20).stdout)
        result = lockstep("train", "--resume", run, "--epochs", "2", "--data-dir", data, timeout_s=20)
        self.assert_refused(result, IO, "metrics.jsonl", "FIFO")
        (data / "data_batch_3.bin").unlink()
        os.mkfifo(data / "data_batch_3.bin")
        self.assert_refused(lockstep(*self.words(data=data), timeout_s=20), IO, "data_batch_3.bin", "FIFO")

    def test_more_bytes_than_the_host_has_memory_for(self):
        path = self.folder / "huge.safetensors"
        with open(path, "wb") as file:
            file.truncate(1 << 40)
        before = ("prlimit", f"--as={64 << 30}")
        if shutil.which("prlimit") is None:
            self.skip("there is no prlimit")
        result = lockstep("evaluate", path, "--data-dir", self.small_data(), before=before)
        self.assert_refused(result, USAGE, "not enough memory", "ulimit -v")

    # Making data.

    def test_data_that_cannot_be_made(self):
        for flags in (["--train-images", "0"], ["--train-images", "7"], ["--test-images", "-1"], ["--train-images", "many"]):
            with self.subTest(flags=flags):
                self.assert_refused(lockstep("data", "synthesize", "--out", self.folder / "new", *flags), USAGE)
                self.assertFalse((self.folder / "new").exists())
        words = ["data", "synthesize", "--out", self.small_data(), "--train-images", "10", "--test-images", "10"]
        self.assert_refused(lockstep(*words), USAGE, "already")


if __name__ == "__main__":
    unittest.main()
