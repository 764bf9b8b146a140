"""lockstep bench: the numbers are there, the sums are right, floors and bad input end the run as documented."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
import xml.etree.ElementTree

from lockstep_runner import LockstepTest, environment, execute, lockstep

USAGE, MISSING, LAUNCH, FAILED, IO, TOO_SLOW = 64, 66, 69, 70, 74, 79
SCALING = pathlib.Path(__file__).parents[2] / "benchmarks" / "scaling"
CHECKPOINT_DELAY = pathlib.Path(__file__).parents[2] / "benchmarks" / "checkpoint_delay"
SLOW_LINK = pathlib.Path(__file__).parents[2] / "benchmarks" / "slow_link"


def table(stdout):
    """The rows of a table as lists of words, without the header."""
    return [line.split() for line in stdout.splitlines() if line and not line.startswith("#")]


class BenchCommTest(LockstepTest):
    def bench(self, *words, ranks=2, **how):
        return lockstep("bench", "comm", *words, ranks=ranks, **how)

    def rows(self, *words, ranks=2):
        """Of the JSON file of a run that must succeed; the file and the table must agree."""
        path = self.folder / "comm.json"
        result = self.bench(*words, "--json", path, ranks=ranks)
        self.assertEqual(result.rc, 0, str(result))
        self.assertEqual(result.stderr, "", str(result))
        written = json.loads(path.read_text())
        self.assertEqual(written["benchmark"], "comm")
        self.assertEqual(written["ranks"], max(ranks, 1))
        self.assertEqual(written["hosts"], 1)
        self.assertEqual(written["ranks_of_host"], {os.uname().nodename: max(ranks, 1)})
        self.assertRegex(written["date"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        for said in (*written["versions"], written["date"], f"{max(ranks, 1)} rank", os.uname().nodename):
            self.assertIn(said, result.stdout)
        shown = table(result.stdout)
        self.assertEqual([words[:4] for words in shown], [[str(row["bytes"]), str(row["count"]), "float", "sum"] for row in written["rows"]])
        for words, row in zip(shown, written["rows"], strict=True):
            self.assertEqual(len(words), 13)
            self.assertEqual(words[4], f"{row['time_us']['mean']:.2f}")
            self.assertEqual(words[10:12], [str(row["wrong"]), f"{row['plain_time_us']['p50']:.2f}"])
        return written["rows"]

    def test_two_ranks_measure_each_size_and_all_sums_are_right(self):  # ctest: processors=2
        rows = self.rows("--min", "4", "--max", "4M", "--factor", "8", "--iterations", "20", "--check")
        self.assertEqual([row["bytes"] for row in rows], [4 * 8**i for i in range(7)])
        for row in rows:
            self.assertEqual(row["wrong"], 0)
            self.assertEqual(row["iterations"], 20)
            self.assertEqual(row["count"] * 4, row["bytes"])
            for times in (row["time_us"], row["plain_time_us"]):
                self.assertGreater(times["p50"], 0)
                self.assertLessEqual(times["p50"], times["p95"])
                self.assertLessEqual(times["p95"], times["p99"])
            self.assertAlmostEqual(row["algbw_GBps"], row["bytes"] / row["time_us"]["mean"] / 1e3)
            self.assertAlmostEqual(row["busbw_GBps"], row["algbw_GBps"])
            self.assertAlmostEqual(row["ours_to_plain"], row["time_us"]["p50"] / row["plain_time_us"]["p50"])

    def test_three_ranks_and_odd_sizes(self):  # ctest: processors=2
        rows = self.rows("--sizes", "4,12,1004,99996", "--iterations", "3", "--warmup", "1", "--check", ranks=3)
        self.assertEqual([row["bytes"] for row in rows], [4, 12, 1004, 99996])
        for row in rows:
            self.assertEqual(row["wrong"], 0)
            self.assertAlmostEqual(row["busbw_GBps"], row["algbw_GBps"] * 4 / 3)

    def test_memory_of_its_own(self):  # ctest: processors=2
        for row in self.rows("--sizes", "4,1004,582000,3M", "--iterations", "3", "--warmup", "1", "--check", "--own-memory"):
            self.assertEqual(row["wrong"], 0)

    def test_iterations_adapt_to_the_size(self):  # ctest: processors=2
        small, large = self.rows("--sizes", "4,64M")
        self.assertGreater(small["iterations"], large["iterations"])
        self.assertLessEqual(small["iterations"], 2000)
        self.assertGreaterEqual(large["iterations"], 5)

    def test_one_rank_says_that_its_bus_bandwidth_is_none(self):
        rows = self.rows("--sizes", "1k", "--iterations", "5", ranks=0)
        self.assertEqual(rows[0]["busbw_GBps"], 0)
        self.assertEqual(rows[0]["wrong"], 0)
        result = self.bench("--sizes", "1k", "--floor", "1@1k", ranks=0)
        self.assert_refused(result, USAGE, "--floor", "one rank", "0 by definition")
        self.assertEqual(result.stdout, "")

    def test_a_floor_fails_the_run_after_its_table(self):  # ctest: waits
        path = self.folder / "comm.json"
        words = ("--sizes", "1k,64k", "--iterations", "5")
        result = self.bench(*words, "--json", path, "--floor", "1e-9@1k", "--floor", "1e6@64k")
        self.assert_refused(result, TOO_SLOW, "64k", "GB/s", "floor of 1000000 GB/s")
        self.assertNotIn("at 1k", result.stderr)
        self.assertEqual(len(table(result.stdout)), 2)
        self.assertEqual(len(json.loads(path.read_text())["rows"]), 2)
        self.assertEqual(self.bench(*words, "--floor", "1e-9@1k,1e-9@64k").rc, 0)

    def test_bad_input(self):  # ctest: waits
        alone, together = 0, 2
        for ranks, words, said in (
            (together, ["--min", "3"], ["--min", "'3'", "multiple of 4"]),
            (alone, ["--min", "-4"], ["--min", "-4"]),
            (alone, ["--max", "1T"], ["--max", "1T"]),
            (alone, ["--max", "0"], ["--max", "'0'"]),
            (alone, ["--min", "8k", "--max", "4k"], ["--min 8k", "--max 4k"]),
            (alone, ["--factor", "1"], ["--factor 1"]),
            (alone, ["--factor", "two"], ["--factor", "two"]),
            (alone, ["--sizes", "4,,8"], ["--sizes"]),
            (alone, ["--sizes", "4", "--max", "8"], ["--max", "--sizes"]),
            (alone, ["--iterations", "0"], ["--iterations 0"]),
            (alone, ["--warmup", "0"], ["--warmup 0"]),
            (alone, ["--floor", "fast"], ["--floor", "fast"]),
            (together, ["--floor", "1@3M"], ["--floor 1@3M", "does not measure 3M"]),
            (together, ["--min", "1024G", "--max", "1024G"], ["1024G", "2 ranks", "GB are free", "--max"]),
            (together, ["--itertions", "5"], ["--itertions", "--iterations"]),
            (alone, ["leftover"], ["leftover"]),
        ):
            with self.subTest(words=words):
                result = self.bench(*words, ranks=ranks)
                self.assert_refused(result, USAGE, *said)
                self.assertEqual(result.stdout, "")

    def test_a_json_file_that_cannot_be_written_is_told_before_the_sweep(self):
        result = self.bench("--json", self.folder / "none" / "comm.json")
        self.assert_refused(result, IO, "none/comm.json")
        self.assertEqual(result.stdout, "")

    def test_words_of_bench(self):  # ctest: waits
        self.assertIn("comm", self.done("bench", "--help").stdout)
        self.assertIn("--floor", self.done("bench", "comm", "--help").stdout)
        for ranks in (0, 2):
            self.assert_refused(lockstep("bench", ranks=ranks), USAGE, "bench --help")
            self.assert_refused(lockstep("bench", "com", ranks=ranks), USAGE, "'com'", "'comm'")


def namespaces():
    return set(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else set()


class SlowLinkTest(LockstepTest):
    def setUp(self):
        super().setUp()
        if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
            self.skip("network namespaces need root and iproute2")
        name = f"trial{os.getpid()}"
        trial = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        if trial.returncode != 0:
            self.skip(f"no network namespaces here: {trial.stderr.strip()}")
        subprocess.run(["ip", "netns", "del", name], check=True)
        self.before = namespaces()
        self.temporary = {"TMPDIR": str(self.folder)}

    def assert_clean(self):
        self.assertEqual(namespaces() - self.before, set())
        self.assertEqual(list(self.folder.glob("slow-link-*")), [])

    def test_the_link_is_as_slow_as_it_was_told(self):  # ctest: waits lock=namespaces
        path = self.folder / "comm.json"
        comm = [os.environ["LOCKSTEP"], "bench", "comm", "--warmup", "1"]
        words = [*comm, "--sizes", "4k,4M", "--iterations", "3", "--check", "--json", path]
        result = execute([SLOW_LINK, "--rate", "100mbit", "--", *words], env=self.temporary)
        self.assertEqual(result.rc, 0, str(result))
        self.assertEqual(result.left_over, [], str(result))
        written = json.loads(path.read_text())
        self.assertEqual((written["ranks"], written["hosts"]), (2, 2))
        self.assertEqual(len(written["ranks_of_host"]), 2)
        small, large = written["rows"]
        self.assertEqual(small["wrong"] + large["wrong"], 0)
        # 4 MiB at 12.5 MB/s are 336 ms, less the 256 kB that pass at once; both ends send at the same time.
        for times in (large["time_us"], large["plain_time_us"]):
            self.assertGreater(times["p50"], 250e3, str(result))
        self.assert_clean()

        # The end of the command is the end of the script, and its exit code.
        result = execute([SLOW_LINK, "--", *comm, "--sizes", "4k", "--iterations", "3", "--floor", "10@4k"], env=self.temporary)
        self.assert_refused(result, TOO_SLOW, "at 4k", "floor of 10 GB/s")
        self.assert_clean()

    def test_an_interrupt_leaves_nothing(self):  # ctest: waits lock=namespaces
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(signal=number), tempfile.TemporaryFile("w+") as said:
                env = environment(f"slow-link-{os.getpid()}-{number}", self.temporary)
                words = [SLOW_LINK, "--", os.environ["LOCKSTEP"], "bench", "comm", "--sizes", "16M", "--iterations", "100000"]
                script = subprocess.Popen(words, stdout=said, stderr=subprocess.STDOUT, env=env, start_new_session=True)
                self.addCleanup(script.kill)
                for _ in range(200):
                    time.sleep(0.1)
                    said.seek(0)
                    if "#wrong" in said.read():
                        break
                else:
                    self.fail("the sweep has not begun")
                self.assertEqual(len(namespaces() - self.before), 2)
                script.send_signal(number)
                self.assertEqual(script.wait(15), 128 + number)
                self.assert_clean()

    def test_bad_words(self):  # ctest: lock=namespaces
        for words, code, said in (
            (["--rate", "fast"], USAGE, "fast"),
            (["--ranks-per-host", "0"], USAGE, "'0'"),
            (["--rate"], USAGE, "--rate"),
            (["lockstep"], USAGE, "'lockstep'"),
            (["--", "/none/lockstep"], LAUNCH, "/none/lockstep"),
        ):
            result = execute([SLOW_LINK, *words])
            self.assertEqual(result.rc, code, str(result))
            self.assertIn(said, result.stderr)
            self.assertIn("hint: ", result.stderr)
            self.assert_clean()


class BenchStepTest(LockstepTest):
    def test_a_step_is_measured_in_five_ways(self):  # ctest: processors=2
        path = self.folder / "step.json"
        words = ("--layers", 2, "--width", 32, "--batch", 8, "--steps", 3, "--threads", 1, "--json", path)
        result = self.done("bench", "step", *words, ranks=2)
        written = json.loads(path.read_text())
        self.assertEqual(written["gradient_bytes"], 4 * 2 * (32 * 32 + 32))
        for name in ("forward", "backward", "optimizer", "synchronised", "blocking", "in_buckets", "overlapped", "unsent"):
            self.assertGreater(written[name + "_ms"]["p50"], 0, name)
            self.assertLessEqual(written[name + "_ms"]["p50"], written[name + "_ms"]["p95"], name)
        shares = [name for name in written if name.startswith(("speed_", "sending_")) and not name.endswith("_range")]
        self.assertEqual(len(shares), 6)
        for name in ("sending_in_buckets", "sending_overlapped"):
            low, high = written[name + "_range"]
            self.assertLessEqual(low, written[name], name)
            self.assertGreaterEqual(high, written[name], name)
        self.assertGreater(min(written[name] for name in shares), 0)
        # So small a step may cost too little to tell.
        self.assertIn("too little" if written["hidden_overlapped"] is None else "% hidden", result.stdout)

    def test_a_profile_names_the_operators_of_a_network_and_their_shares(self):  # ctest: processors=2
        path = self.folder / "step.json"
        steps = 3
        words = ("--model", "sjnet", "--batch", 4, "--steps", steps, "--threads", 1, "--profile", "--json", path)
        layout = ("--memory-format", "channels_last", "--precision", "bf16")
        result = self.done("bench", "step", *words, *layout, ranks=2)
        written = json.loads(path.read_text())
        self.assertEqual([written[name] for name in ("model", "memory_format", "precision")], ["sjnet", "channels_last", "bf16"])
        operators = {entry["name"]: entry for entry in written["operators"]}
        own = "kernels Lockstep's" in lockstep("--version", ranks=0).stdout
        convolution = "lockstep::fast_conv2d_max_pool2x2" if own else "aten::convolution"
        self.assertEqual(operators[convolution]["calls_per_step"], 3)  # the network has three
        # Whose gradients are made by LibTorch or by us, by the processor: in one operator or in two.
        gradients = [name for name in operators if re.match("aten::convolution_backward|lockstep::.*(Conv|PooledGradient)Backward", name)]
        self.assertTrue(gradients, operators)
        self.assertIn("lockstep::kernels::PoolBackward" if own else "MaxPool2DWithIndicesBackward0", operators)
        self.assertAlmostEqual(sum(entry["share"] for entry in operators.values()), 1)
        named = written["operators"][:-1]
        self.assertEqual(written["operators"][-1]["name"], "(no operator)")
        self.assertEqual(named, sorted(named, key=lambda entry: -entry["self_ms_per_step"]))
        self.assertGreaterEqual(min(entry["self_ms_per_step"] for entry in named), 0)
        shown = [line.split() for line in result.stdout.split("# operator, by its own time")[1].splitlines()[1:]]
        self.assertEqual(shown[0][0], named[0]["name"])
        self.assertAlmostEqual(sum(float(line[-2]) for line in shown), 100, delta=1)

    def test_bad_words_of_a_step(self):  # ctest: waits
        for ranks, words, said in (
            (2, ["--model", "none"], "'none'"),
            (0, ["--precision", "fp8"], "'fp8'"),
            (0, ["--memory-format", "channels_last"], "linear layers"),
            (0, ["--layers", "0"], "--layers 0"),
            (0, ["--steps", "x"], "'x'"),
            (0, ["more"], "'more'"),
        ):
            with self.subTest(words=words):
                self.assert_refused(lockstep("bench", "step", *words, ranks=ranks), USAGE, said)


class ScalingTest(LockstepTest):
    def scaling(self, *words):
        return execute([SCALING, "--binary", os.environ["LOCKSTEP"], *words])

    def test_each_number_of_ranks_is_set_beside_jobs_of_one_rank(self):  # ctest: processors=2
        if len(os.sched_getaffinity(0)) < 2:
            self.skip("two cores are needed")
        files = {name: self.folder / f"scaling.{name}" for name in ("json", "svg")}
        words = ("--data-dir", self.small_data(640), "--ranks", "1,2", "--rounds", 1, "--steps", 3, "--batch", 8)
        result = self.scaling(*words, "--json", files["json"], "--plot", files["svg"])
        self.assertEqual(result.rc, 0, str(result))
        self.assertEqual(result.left_over, [])
        written = json.loads(files["json"].read_text())
        self.assertEqual(written["recipe"], "tutorial")
        for mode in ("weak", "strong"):
            self.assertEqual([row["ranks"] for row in written[mode]], [1, 2])
            for row in written[mode]:
                ours, together, alone = (row[name][0] for name in ("images_per_s", "together_images_per_s", "alone_images_per_s"))
                self.assertGreater(min(ours, together, alone), 0)
                self.assertAlmostEqual(row["of_together"]["median"], ours / together)
                self.assertAlmostEqual(row["of_alone"]["median"], ours / (alone * row["ranks"]))
                met = row["if_they_met"]["median"]  # one job waits for nobody, and two jobs at most half of their time
                self.assertTrue(met == 1 if row["ranks"] == 1 else 0.5 <= met < 1, met)
                self.assertGreater(min(row["phases_ms"][name] for name in ("data", "forward", "backward", "optimizer")), 0)
        self.assertIn("% ", result.stdout)
        self.assertEqual(len(xml.etree.ElementTree.parse(files["svg"]).findall(".//{*}path[@class='curve0']")), 2)  # the curve, and its name

    def test_bad_words_of_scaling(self):
        data = ("--data-dir", self.small_data())
        for words, code, said in (
            ([*data, "--ranks", "0,1"], USAGE, "0,1"),
            ([*data, "--ranks", "100000"], USAGE, "a core of its own"),
            ([*data, "--ranks", "two"], USAGE, "'two'"),
            ([*data, "--ranks", "1", "--steps", "2"], USAGE, "--steps 2"),
            (["--data-dir", self.folder], MISSING, "data_batch_1.bin"),
            ([*data, "--ranks", "1", "--rounds", "1", "--set", "train.lr=1"], FAILED, "train.lr"),
            ([*data, "--ranks", "1", "--rounds", "1", "--recipe", "nobodys"], FAILED, "'nobodys'"),
        ):
            result = self.scaling(*words)
            self.assertEqual(result.rc, code, str(result))
            self.assertIn(said, result.stderr)
            self.assertIn("hint: ", result.stderr)


class CheckpointDelayTest(LockstepTest):
    def test_checkpoint_delay(self):
        def delay(*words):
            return execute([CHECKPOINT_DELAY, "--binary", os.environ["LOCKSTEP"], *words])

        data = ("--data-dir", self.small_data(640))
        result = delay(*data, "--batch", 4, "--checkpoints", 2, "--out", self.folder)
        self.assertEqual(result.rc, 0, str(result))
        self.assertEqual(result.left_over, [])
        self.assertRegex(result.stdout, r"2 ranks, 15\.\d MB each, durable after \d+ ms\na step \d+\.\d ms; the one after a checkpoint [+-]\d")
        for words, code, said in (
            ([*data, "--checkpoints", "1"], USAGE, "--checkpoints 1"),
            ([*data, "--batch", "0"], USAGE, "--batch 0"),
            ([*data, "--out", self.folder / "no"], MISSING, "no folder"),
            (["--data-dir", self.folder], MISSING, "data_batch_1.bin"),
        ):
            result = delay(*words)
            self.assertEqual(result.rc, code, str(result))
            self.assertIn(said, result.stderr)
            self.assertIn("hint: ", result.stderr)


if __name__ == "__main__":
    unittest.main()
