"""A training run as a person sees it: what it prints, what it leaves in its folder, and that it can be had again."""

import json
import os
import pty
import re
import select
import subprocess
import time
import tomllib
import unittest

from lockstep_runner import LockstepTest, environment, kill, lockstep, mpirun, processes_of

FILES = ["checkpoints", "config.toml", "files.txt", "final.pth", "metrics.jsonl", "owner", "sjnet_0.pth", "sjnet_1.pth"]
CHECKPOINTS = ["latest", "step-0000005.safetensors", "step-0000010.safetensors"]


class RunTest(LockstepTest):
    def assert_whole_run(self, ranks):
        run = self.folder / "a run in Zürich"
        result = self.train(run, "--epochs", "2", "--set", "log.every_steps=2", ranks=ranks)
        names = sorted(path.name for path in run.iterdir())
        self.assertEqual([name for name in names if not name.startswith("events.out.tfevents.")], FILES)
        self.assertEqual(len(names), len(FILES) + 1, names)
        self.assertEqual(sorted(path.name for path in (run / "checkpoints").iterdir()), CHECKPOINTS)
        # 320 images in batches of 64: five steps an epoch, the settings meaning the same at any rank count.
        train, test = self.metrics(run, "train"), self.metrics(run, "test")
        self.assertEqual([(line["step"], line["epoch"]) for line in train], [(2, 0), (4, 0), (6, 1), (8, 1), (10, 1)])
        self.assertEqual([(line["step"], line["epoch"]) for line in test], [(5, 0), (10, 1)])
        self.assertTrue(all(line["lr"] == 0.01 and line["images_per_s"] > 0 for line in train))
        self.assertTrue(all(0 <= line["test_accuracy"] <= 1 for line in test))
        # Of the two batches of test images, 64 and 36, the tutorial's loss is the sum of means.
        self.assertTrue(all(1.9 < line["test_loss"] / line["test_loss_mean"] < 2.1 for line in test))
        config = tomllib.loads((run / "config.toml").read_text())
        self.assertEqual(config["train"]["epochs"], 2)
        self.assertEqual(config["log"]["every_steps"], 2)

        # Plain lines, for there is no terminal: all that a log must say, and nothing that only a terminal understands.
        self.assertEqual(result.stderr, "")
        for said in ("320", "100", "145,578", "64", "sgd", str(run), "train loss", "test loss", "accuracy", "images/s"):
            self.assertIn(said, result.stdout)
        for control in "\r\x1b\b":
            self.assertNotIn(control, result.stdout)
        self.assertIn(f"{train[-1]['train_loss']:.4f}", result.stdout)
        self.assertIn(f"{100 * test[-1]['test_accuracy']:.2f} %", result.stdout)
        return result

    def test_a_run_without_mpirun_leaves_a_whole_folder(self):
        self.assert_whole_run(ranks=0)

    def test_a_run_on_2_ranks_leaves_a_whole_folder(self):  # ctest: processors=2
        result = self.assert_whole_run(ranks=2)
        self.assertRegex(result.stdout, r"ranks +2 on 1 host")
        self.assertRegex(result.stdout, r"64 images a step, 32 on each rank")

    def test_what_is_printed_fits_80_columns_and_is_short(self):  # ctest: processors=2
        changed = ("--epochs", "2", "--set", "log.every_steps=1", "--set", "optim.momentum=0.9", "--set", "ddp.wire=bf16")
        lines = self.done(
            *("train", "--data-dir", self.small_data(), "--out", "run", "--threads", "1", *changed), ranks=2, cwd=self.folder
        ).stdout.splitlines()
        whole = [line for line in lines if str(self.folder) not in line]  # of which this test chose the length
        self.assertEqual([line for line in whole if len(line) > 80], [])
        first = next(i for i, line in enumerate(lines) if "train loss" in line)
        self.assertLess(first, 20, "lines before the first step:\n" + "\n".join(lines[:first]))
        settings = " ".join(lines[:first]).replace("[SYNTHETIC] ", "")
        for said in ("train.epochs = 2", "optim.momentum = 0.9", "ddp.wire = bf16", "config.toml", "145,578"):
            self.assertIn(said, re.sub(" +", " ", settings))
        self.assertNotIn("eval.batch", settings)
        self.assertIn("epoch 0", lines[first])
        self.assertTrue(any("epoch 1" in line and "test loss" in line for line in lines))

    def test_every_line_on_synthetic_data_says_synthetic(self):
        result = self.train(self.folder / "run", "--epochs", "2", "--set", "log.every_steps=2")
        for line in result.stdout.splitlines():
            if line.strip():
                self.assertIn("SYNTHETIC", line)
        evaluation = self.done("evaluate", self.folder / "run", "--data-dir", self.small_data())
        self.assertIn("SYNTHETIC", evaluation.stdout)
        for event in ("train", "test"):
            for line in self.metrics(self.folder / "run", event):
                self.assertIn("SYNTHETIC", line.values())

    def test_no_line_on_real_data_says_synthetic(self):
        data = self.real_data()
        if not self.is_real(data):
            self.skip("there is no real CIFAR-10 to look at")
        run = self.folder / "run"
        result = self.train(run, "--max-steps", "3", "--set", "log.every_steps=1", "--set", "eval.every_epochs=0", data=data)
        for said in (result.stdout, result.stderr, (run / "metrics.jsonl").read_text(), (run / "config.toml").read_text()):
            self.assertNotIn("synthetic", said.lower())
        for said in ("50,000", "10,000"):
            self.assertIn(said, result.stdout)

    def test_a_terminal_gets_a_progress_bar(self):
        self.assert_progress_bar([])

    def test_a_terminal_gets_a_progress_bar_under_mpirun(self):  # ctest: processors=2
        # mpirun gives each rank a pseudo-terminal, whatever its own output is; a_run_on_2_ranks… looks at the other case.
        self.assert_progress_bar(mpirun(2))

    def assert_progress_bar(self, launcher):
        """On a terminal a bar is drawn again and again, and each time says SYNTHETIC."""
        words = [*launcher, os.environ["LOCKSTEP"], "train", "--recipe", "tutorial", "--data-dir", self.small_data(1600, 10)]
        words += ["--out", self.folder / "run", "--threads", "1", "--epochs", "1"]
        job = "terminal-" + self.folder.name
        ours, theirs = pty.openpty()
        process = subprocess.Popen(list(map(str, words)), stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment(job))
        os.close(theirs)
        shown, deadline = b"", time.monotonic() + 40
        try:
            while select.select([ours], [], [], max(0, deadline - time.monotonic()))[0]:
                shown += os.read(ours, 65536)
        except OSError:  # the other end was closed
            pass
        finally:
            os.close(ours)
            left_over = processes_of(job) if process.poll() is None and time.monotonic() > deadline else []
            kill(left_over)
        self.assertEqual(process.wait(10), 0, shown.decode())
        draws = [part for part in re.split(r"[\r\n]+", shown.decode()) if "/25" in part]
        self.assertGreater(len(draws), 1, shown.decode())
        for draw in draws:
            self.assertIn("SYNTHETIC", draw)
            self.assertRegex(draw, r"epoch 0  \[[=> ]{8,}\] ")  # epochs count from 0, as in the files

    def test_quiet_prints_nothing(self):  # ctest: processors=2
        result = self.train(self.folder / "run", "--epochs", "1", "--quiet", ranks=2)
        self.assertEqual((result.stdout, result.stderr), ("", ""))

    def test_without_out_the_folder_is_named_after_recipe_and_time(self):
        data = self.small_data()
        words = ["train", "--recipe", "tutorial", "--data-dir", data, "--epochs", "1", "--threads", "1"]
        result = self.done(*words, cwd=self.folder)
        (run,) = (self.folder / "runs").iterdir()
        self.assertRegex(run.name, r"^tutorial-\d{8}-\d{6}$")
        self.assertIn(f"runs/{run.name}", result.stdout)

    def test_jobs_of_one_second_have_a_folder_each(self):
        words = ["train", "--recipe", "tutorial", "--data-dir", self.small_data(), "--max-steps", "1", "--threads", "1"]
        now = time.time()
        for second in range(-1, 60):  # whenever it starts, another job was there first
            name = time.strftime("tutorial-%Y%m%d-%H%M%S", time.localtime(now + second))
            (self.folder / "runs" / name).mkdir(parents=True, exist_ok=True)
        for number in (2, 3):
            result = self.done(*words, cwd=self.folder)
            self.assertRegex(result.stdout, r"runs/tutorial-\d{8}-\d{6}-[23]\b")
        self.done(*words, "--seeds", "1", cwd=self.folder, ranks=2)
        made = [run for run in (self.folder / "runs").iterdir() if any(run.iterdir())]
        self.assertEqual(len(made), 3)
        self.assertTrue(all(run.name.count("-") == 3 for run in made), made)

    def test_a_second_run_in_the_same_folder_needs_overwrite(self):  # ctest: waits
        run = self.folder / "run"
        self.train(run, "--epochs", "2")
        (run / "notes.txt").write_text("mine")
        before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
        words = ["train", "--recipe", "tutorial", "--data-dir", self.small_data(), "--out", run, "--threads", "1", "--epochs", "1"]
        for ranks in (0, 2):
            self.assert_refused(lockstep(*words, ranks=ranks), 64, str(run), "--overwrite")
            self.assertEqual({path: path.read_bytes() for path in run.rglob("*") if path.is_file()}, before, "a refused run changed the old one")
        self.done(*words, "--overwrite")
        names = [path.name for path in run.iterdir() if "tfevents" not in path.name]
        self.assertEqual(sorted(names), ["checkpoints", "config.toml", "files.txt", "final.pth", "metrics.jsonl", "notes.txt", "owner", "sjnet_0.pth"])
        self.assertEqual(len(self.metrics(run, "test")), 1, "the old run's lines are still there")

    def test_a_config_as_recipe_gives_the_same_run_again(self):  # ctest: processors=2
        first, second = self.folder / "first", self.folder / "second"
        words = ["--set", "optim.momentum=0.9", "--set", "optim.weight_decay=5e-4", "--set", "data.shuffle=true"]
        self.train(first, "--epochs", "2", "--seed", "3", "--set", "log.every_steps=1", *words, ranks=2)
        self.done("train", "--recipe", first / "config.toml", "--out", second, "--threads", "1", ranks=2)
        self.assertEqual((second / "config.toml").read_text(), (first / "config.toml").read_text())
        for name in ("sjnet_0.pth", "sjnet_1.pth", "final.pth"):
            self.assertEqual((second / name).read_bytes(), (first / name).read_bytes(), name)
        for event, keys in (("train", ("step", "train_loss", "lr")), ("test", ("epoch", "test_loss", "test_accuracy"))):
            first_lines, second_lines = ([[line[key] for key in keys] for line in self.metrics(run, event)] for run in (first, second))
            self.assertEqual(first_lines, second_lines)

    def test_batch_per_rank_is_the_global_batch_said_the_other_way(self):  # ctest: processors=2
        words = ["--epochs", "1", "--set", "data.shuffle=true"]
        self.train(self.folder / "a", *words, "--batch-per-rank", "16", "--lr-scale", "linear", ranks=2)
        self.train(self.folder / "b", *words, "--set", "train.global_batch=32", "--set", "optim.lr=0.005", ranks=2)
        self.assertEqual((self.folder / "a/final.pth").read_bytes(), (self.folder / "b/final.pth").read_bytes())

    def test_max_steps_ends_in_mid_epoch_with_the_last_weights(self):
        run = self.folder / "run"
        self.train(run, "--max-steps", "7")
        self.assertEqual(sorted(path.name for path in run.glob("*.pth")), ["final.pth", "sjnet_0.pth"])
        self.assertNotEqual((run / "final.pth").read_bytes(), (run / "sjnet_0.pth").read_bytes())
        self.assertEqual([line["step"] for line in self.metrics(run, "test")], [5, 7])

    def test_zero_epochs_save_the_initial_weights(self):
        run = self.folder / "run"
        result = self.train(run, "--epochs", "0")
        self.assertEqual([path.name for path in run.glob("*.pth")], ["final.pth"])
        self.assertNotIn("max_steps reached", result.stdout)

    def test_the_time_to_the_first_step_is_recorded(self):  # ctest: serial
        data = self.real_data()
        run = self.folder / "run"
        self.done("train", "--recipe", "tutorial", "--data-dir", data, "--out", run, "--max-steps", "1", "--set", "eval.every_epochs=0")
        lines = (run / "metrics.jsonl").read_text().splitlines()
        (seconds,) = (line["startup_s"] for line in map(json.loads, lines) if "startup_s" in line)
        print(f"first step done {seconds:.2f} s after exec")
        self.assertGreater(seconds, 0)
        self.assertLess(seconds, 10)

    def test_info_says_what_a_run_and_a_file_hold(self):
        run = self.folder / "run"
        self.train(run, "--epochs", "1")
        for target in (run, run / "sjnet_0.pth"):
            said = self.done("info", target).stdout
            for word in ("145,578", "model.0.weight", "model.8.bias"):
                self.assertIn(word, said)

    def test_help_and_version_work_without_mpirun(self):
        version = self.done("--version").stdout
        for word in ("lockstep", "LibTorch", "MPI"):
            self.assertIn(word, version)
        for command in ("train", "evaluate", "info", "data"):
            self.assertIn(command, self.done("--help").stdout)
            self.assertIn("--help", self.done(command, "--help").stdout)

    def test_synthetic_data_checks_out_and_damage_is_found(self):
        data = self.small_data()
        self.assertIn("SYNTHETIC", self.done("data", "check", "--data-dir", data).stdout)
        with open(data / "data_batch_4.bin", "ab") as file:
            file.write(b"\0")
        self.assert_refused(lockstep("data", "check", "--data-dir", data), 65, "data_batch_4.bin")


if __name__ == "__main__":
    unittest.main()
