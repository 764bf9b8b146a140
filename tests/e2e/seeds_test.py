"""The same training from several seeds."""

import json
import os
import signal
import statistics
import subprocess
import time
import unittest

from lockstep_runner import LockstepTest, environment, kill, lockstep, processes_of


class SeedsTest(LockstepTest):
    def assert_seeds(self, ranks):
        out = self.folder / "out"
        result = self.train(out, "--epochs", 2, "--seed", 4, "--seeds", 3, ranks=ranks)
        tests = [self.metrics(out / f"seed-{seed}", "test")[-1] for seed in (4, 5, 6)]
        self.assertEqual(sorted(path.name for path in out.iterdir()), ["seed-4", "seed-5", "seed-6", "seeds.json"])
        told = json.loads((out / "seeds.json").read_text())
        self.assertEqual(told["seeds"], [4, 5, 6])
        for name in ("test_loss", "test_loss_mean", "test_accuracy"):
            values = [test[name] for test in tests]
            self.assertEqual(told[name]["values"], values)
            self.assertAlmostEqual(told[name]["mean"], statistics.mean(values))
            self.assertAlmostEqual(told[name]["standard_deviation"], statistics.stdev(values))
        self.assertEqual(len(set(told["test_loss"]["values"])), 3)
        accuracy = told["test_accuracy"]
        self.assertIn(f"accuracy {100 * accuracy['mean']:.2f} ± {100 * accuracy['standard_deviation']:.2f} %", result.stdout)
        alone = self.folder / "alone"
        self.train(alone, "--epochs", 2, "--seed", 5, ranks=ranks)
        self.assertEqual((alone / "final.pth").read_bytes(), (out / "seed-5/final.pth").read_bytes())

    def test_seeds_train_one_after_the_other_and_are_summed_up(self):
        self.assert_seeds(ranks=0)

    def test_results_of_other_seeds_are_not_replaced(self):
        out = self.folder / "out"
        self.train(out, "--epochs", 1, "--seeds", 1)
        before = (out / "seeds.json").read_bytes()
        words = ["train", "--data-dir", self.small_data(), "--out", out, "--epochs", "1", "--seed", "7", "--seeds", "1"]
        self.assert_refused(lockstep(*words), 64, "seeds.json is there already")
        self.assertEqual((out / "seeds.json").read_bytes(), before)
        self.assertFalse((out / "seed-7").exists())
        self.done(*words, "--overwrite")
        self.assertEqual(json.loads((out / "seeds.json").read_text())["seeds"], [7])

    def test_seeds_train_one_after_the_other_on_2_ranks(self):  # ctest: processors=2
        self.assert_seeds(ranks=2)

    def test_a_request_to_stop_ends_all(self):
        job = f"seeds-{os.getpid()}"
        out = self.folder / "out"
        words = [os.environ["LOCKSTEP"], "train", "--data-dir", self.small_data(), "--out", out, "--threads", "1", "--epochs", "100000",
                 "--seeds", "3", "--set", "eval.every_epochs=1000"]
        process = subprocess.Popen(list(map(str, words)), stdout=subprocess.DEVNULL, env=environment(job), start_new_session=True)
        self.addCleanup(lambda: kill(processes_of(job)))
        end = time.monotonic() + 30
        while time.monotonic() < end and not (out / "seed-0" / "sjnet_0.pth").exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        self.assertEqual(process.wait(30), 85)
        self.assertEqual([path.name for path in out.iterdir()], ["seed-0"])

    def test_what_makes_no_sense_is_refused(self):
        for words, said in ((("--seeds", 0), "--seeds 0"), (("--seeds", 2, "--resume", "auto"), "--resume"),
                            (("--seeds", 2, "--set", "eval.every_epochs=0"), "eval.every_epochs")):
            with self.subTest(words=words):
                out = self.folder / "out"
                result = lockstep("train", "--data-dir", self.small_data(), "--out", out, *words)
                self.assert_refused(result, 64, said)
                self.assertFalse(out.exists())


if __name__ == "__main__":
    unittest.main()
