"""benchmarks/compare_pytorch: every figure is there, what fails is told, nothing is left behind. How fast anything is, no test asks."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

from lockstep_runner import LockstepTest, environment, execute, outliving, processes_of

USAGE, MISSING, FAILED = 64, 66, 70
COMPARE = pathlib.Path(__file__).parents[2] / "benchmarks" / "compare_pytorch"
sys.path.append(str(COMPARE.parent / "compare"))
import ratios  # noqa: E402


class CompareTest(LockstepTest):
    def words(self, *more):
        return [COMPARE, "--binary", os.environ["LOCKSTEP"], "--python", sys.executable, *more]

    def compare(self, *more, **how):
        return execute(self.words(*more), **how)

    def test_python_and_lockstep_are_measured_alike(self):  # ctest: processors=2 timeout=180
        data = self.small_data(160)
        files = {name: self.folder / f"compare.{name}" for name in ("json", "svg")}
        words = ("--data-dir", data, "--rounds", 1, "--steps", 6, "--batch", 8, "--only", "*tutorial-[dr]*")
        result = self.compare(*words, "--json", files["json"], "--plot", files["svg"], timeout_s=150)
        self.assertEqual(result.rc, 0, str(result))
        written = json.loads(files["json"].read_text())
        measured = {record["key"]: record for record in written["contenders"]}
        self.assertLessEqual({"tutorial-ddp", "lockstep-tutorial-ranks"}, set(measured))
        for record in measured.values():
            self.assertEqual(len(record["images_per_s"]), 1, record)
            self.assertGreater(min(record["images_per_s"]), 0, record)
            self.assertGreater(min(record["startup_s"]), 0, record)
            self.assertIn(f"{record['title']}: {record['images_per_s'][0]:.0f} images/s", result.stdout)
        first = written["required"][0]
        ours, theirs = (measured[first[name]]["images_per_s"] for name in ("above", "below"))
        self.assertEqual((first["above"], first["below"]), ("lockstep-tutorial-ranks", "tutorial-ddp"))
        self.assertAlmostEqual(first["median"], ours[0] / theirs[0])
        self.assertIn("wanted 1.9", result.stdout)
        self.assertEqual(len(xml.etree.ElementTree.parse(files["svg"]).findall(".//{*}rect")), len(measured))

    def test_ratios_are_taken_within_rounds_and_between_the_best(self):
        def record(key, group, precision, *speeds):
            return {"key": key, "title": key, "group": group, "precision": precision, "images_per_s": list(speeds), "startup_s": [1.0] * len(speeds), "problem": ""}

        records = [
            record("tutorial-ddp", "tutorial", "fp32", 100, 50, 100),
            record("tuned-fp32-ddp", "tuned", "fp32", 200, 100, 200),
            record("compiled-fp32-ddp", "compiled", "fp32"),  # skipped
            record("tuned-bf16-ddp", "tuned", "bf16", 900, 900, 900),
            record("lockstep-tutorial-ranks", "lockstep", "fp32", 150, 150, 190),
            record("lockstep-fp32-ranks", "lockstep", "fp32", 300, 120, 280),
        ]
        found = [(entry.get("median"), entry.get("least"), entry.get("greatest"), entry.get("below")) for entry in ratios.required(records)]
        self.assertEqual(found[0], (1.9, 1.5, 3.0, "tutorial-ddp"))
        self.assertEqual(found[2], (1.4, 1.2, 1.5, "tuned-fp32-ddp"))
        self.assertEqual(found[3], (None, None, None, None))  # no bf16 of Lockstep
        self.assertIn("1.90 (1.50-3.00), wanted 1.9: reached", ratios.required_lines(records))

    def test_the_time_to_an_accuracy_ends_a_run_that_has_reached_it(self):  # ctest: processors=2
        data = self.small_data(160)
        path = self.folder / "compare.json"
        words = ("--data-dir", data, "--rounds", 0, "--json", path, "--accuracy", "tutorial+eval.batch=50@2:0,100", "nosuch:50")
        result = self.compare(*words)
        self.assertEqual(result.rc, 0, str(result))
        python, lockstep, unknown = json.loads(path.read_text())["accuracy"]
        for outcome in (python, lockstep):
            self.assertEqual(len(outcome["tests"]), 2, outcome)  # 100 % is not reached, so all epochs are trained
            self.assertEqual(outcome["reached_s"], {"0": outcome["tests"][0]["seconds"]})
        self.assertIn("100 %: not reached", result.stdout)
        self.assertIn("nosuch", unknown["problem"])
        self.assertIn("skipped: ", result.stdout)

    def test_a_contender_that_fails_is_told_and_the_others_are_measured(self):  # ctest: processors=2
        words = ("--data-dir", self.small_data(160), "--rounds", 1, "--steps", 3, "--only", "*-1t", "--python", "/bin/false")
        result = self.compare(*words)
        self.assertEqual(result.rc, FAILED, str(result))
        self.assertIn("skipped: exit code 1", result.stdout)

    def test_an_interrupt_leaves_nothing(self):  # ctest: processors=2
        job = f"compare-{os.getpid()}"
        env = environment(job, {"TMPDIR": str(self.folder)})
        words = self.words("--data-dir", self.small_data(160), "--steps", 300_000, "--only", "lockstep-tutorial-ranks")
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number), tempfile.TemporaryFile() as said:
                script = subprocess.Popen([str(word) for word in words], stdout=said, stderr=said, env=env, start_new_session=True)
                self.addCleanup(script.kill)
                deadline = time.monotonic() + 30
                while not list(self.folder.glob("compare-pytorch-*/*/run/metrics.jsonl")) and time.monotonic() < deadline:
                    time.sleep(0.05)
                self.assertGreater(len(processes_of(job)), 2)
                script.send_signal(number)
                self.assertEqual(script.wait(20), 128 + number)
                self.assertEqual(outliving(job), [])
                self.assertEqual(list(self.folder.glob("compare-pytorch-*")), [])

    def test_bad_words(self):
        for words, code, said in (
            (["--steps", "2"], USAGE, "--steps 2"),
            (["--data-dir", self.small_data(), "--only", "none"], USAGE, "'none'"),
            (["--data-dir", self.small_data(), "--accuracy", "tutorial"], USAGE, "'tutorial'"),
            (["--torch-env", "fast"], USAGE, "--torch-env"),
            (["--data-dir", self.folder], MISSING, str(self.folder)),
        ):
            result = self.compare(*words)
            self.assertEqual(result.rc, code, str(result))
            self.assertIn(said, result.stderr)
            self.assertIn("hint: ", result.stderr)
        self.assertIn("lockstep-bf16-ranks", self.compare("--list").stdout)

    def test_gpus_have_contenders_of_their_own(self):
        one, two = (self.compare("--device", "cuda", "--ranks", ranks, "--list").stdout for ranks in (1, 2))
        for listed in (one, two):
            self.assertIn("lockstep-tutorial-gpu", listed)
        self.assertIn("graphed-bf16-deterministic-gpu", one)
        self.assertNotIn("graphed", two)
        result = self.compare("--device", "cuda", "--ranks", 9, "--data-dir", self.small_data())
        self.assertEqual(result.rc, 69, str(result))
        self.assertIn("9 ranks, but nvidia-smi lists", result.stderr)


if __name__ == "__main__":
    unittest.main()
