"""The gradient engine from outside: any number of ranks, the same bits, replicas proved equal, slow and lost ranks named."""

import hashlib
import json
import math
import os
import pathlib
import signal
import subprocess
import time
import unittest

from lockstep_runner import LockstepTest, environment, execute, kill, lockstep, mpirun, processes_of

RANK_LOST, DIVERGED = 75, 76


def sets(**settings):
    """--set words; the first underscore of a name stands for the dot."""
    return [word for name, value in settings.items() for word in ("--set", f"{name.replace('_', '.', 1)}={value}")]


QUIET = sets(eval_every_epochs=0, log_every_steps=1)


def digest(run):
    return hashlib.md5(pathlib.Path(run, "final.pth").read_bytes()).hexdigest()


class EngineTest(LockstepTest):
    def losses(self, name, *words, ranks, data=None, steps=0):
        run = self.folder / f"{name}-{ranks}"
        limit = ("--max-steps", steps) if steps else ()
        self.train(run, *limit, *QUIET, *words, data=data, ranks=ranks)
        return [line["train_loss"] for line in self.metrics(run, "train")]

    # Any number of ranks: one rank's numbers, to a millionth.

    def assert_one_ranks_numbers(self, *words, ranks, epochs=2):
        # 150 images: two batches of 64 and one of 22 that three ranks share as 8, 7, 7.
        data = self.small_data(150, 10)
        one, many = (self.losses("run", "--epochs", epochs, *words, ranks=n, data=data) for n in (1, ranks))
        self.assertEqual(len(one), 3 * epochs)
        self.assertEqual(len(many), len(one))
        for a, b in zip(one, many, strict=True):
            self.assertLess(abs(a - b) / a, 1e-6)
        self.assertGreater(max(one) - min(one), 1e-4, "the losses are all alike: comparing them says little")

    def test_3_ranks_share_batches_they_do_not_divide(self):  # ctest: processors=2
        self.assert_one_ranks_numbers(ranks=3)

    def test_3_ranks_clip_the_global_norm(self):  # ctest: processors=2
        self.assert_one_ranks_numbers(*sets(train_clip_norm=0.05, optim_lr=0.1), ranks=3)

    def test_3_ranks_accumulate(self):  # ctest: processors=2
        self.assert_one_ranks_numbers(*sets(train_accumulate=3, optim_momentum=0.9), ranks=3)

    def test_2_ranks_accumulate_and_clip(self):  # ctest: processors=2
        self.assert_one_ranks_numbers(*sets(train_accumulate=2, train_clip_norm=0.05, optim_lr=0.1), ranks=2)

    def test_accumulating_changes_the_loss_by_rounding_only(self):
        data = self.small_data(150, 10)
        whole, parts = (self.losses(f"run{n}", *sets(train_accumulate=n), ranks=1, data=data, steps=6) for n in (1, 5))
        self.assertTrue(all(abs(a - b) / a < 1e-6 for a, b in zip(whole, parts, strict=True)))

    def test_clipping_shortens_steps(self):
        data = self.small_data(150, 10)
        kinds = {"still": {"optim_lr": 0}, "free": {"optim_lr": 0.1}, "clipped": {"optim_lr": 0.1, "train_clip_norm": 0.001}}
        still, free, clipped = (self.losses(name, *sets(**words), ranks=1, data=data, steps=6) for name, words in kinds.items())
        # Clipped, six steps move the weights by 0.0006 at most.
        self.assertGreater(abs(free[-1] - still[-1]), 3 * abs(clipped[-1] - still[-1]))
        self.assertNotEqual(clipped[-1], still[-1])

    # The same bits.

    def test_virtual_ranks_give_the_same_bits_on_1_2_and_4_ranks_over_300_steps(self):  # ctest: processors=2 timeout=300
        data = self.real_data()
        words = (*sets(train_virtual_ranks=4, train_global_batch=32, optim_momentum=0.9, log_every_steps=100, data_shuffle="true", train_memory_format="channels_last"), "--max-steps", 300)
        seen = set()
        for ranks in (1, 2, 4):
            run = self.folder / f"virtual-{ranks}"
            result = self.train(run, *words, "--set", "eval.every_epochs=1", data=data, ranks=ranks)
            self.assertRegex(result.stdout, r"4 virtual ranks, \d on each rank: .* ≈ \d+ % slower")
            lines = [(line["train_loss"], None) for line in self.metrics(run, "train")]
            lines += [(line["test_loss"], line["test_accuracy"]) for line in self.metrics(run, "test")]
            self.assertEqual(len(lines), 4)
            seen.add((digest(run), tuple(lines)))
            print(f"{ranks} ranks: {digest(run)}, test loss {lines[-1][0]}", flush=True)
        self.assertEqual(len(seen), 1, seen)

    def test_virtual_ranks_with_accumulation_and_clipping_give_the_same_bits(self):  # ctest: processors=2
        data = self.small_data(150, 10)
        words = sets(train_virtual_ranks=4, train_accumulate=3, train_clip_norm=0.05, optim_momentum=0.9, optim_nesterov="true")
        runs = {ranks: self.losses("v", "--epochs", 2, *words, ranks=ranks, data=data) for ranks in (1, 2, 4)}
        self.assertEqual(len({digest(self.folder / f"v-{ranks}") for ranks in runs}), 1)
        self.assertEqual(len({tuple(losses) for losses in runs.values()}), 1)

    def test_virtual_ranks_with_batch_norm_give_the_same_bits_over_300_steps(self):  # ctest: processors=2 timeout=300
        self.assert_program_gives_the_same_bits("batch_norm")

    def test_virtual_ranks_with_bfloat16_give_the_same_bits_over_300_steps(self):  # ctest: processors=2 timeout=300
        self.assert_program_gives_the_same_bits("bfloat16")

    def assert_program_gives_the_same_bits(self, net):
        program = pathlib.Path(os.environ["TEST_PROGRAMS"], "virtual_hash")
        said = set()
        for ranks in (1, 2, 4):
            result = execute([*mpirun(ranks), program, self.real_data(), net, "300"], timeout_s=200)
            self.assertEqual(result.rc, 0, str(result))
            self.assertRegex(result.stdout, r"^[0-9a-f]{32} loss \d")
            said.add(result.stdout)
            print(f"{ranks} ranks: {result.stdout.strip()}", flush=True)
        self.assertEqual(len(said), 1, said)

    def test_overlap_does_not_change_bits(self):  # ctest: processors=2
        data = self.small_data()
        for ranks in (2, 3, 4):
            for overlap in ("on", "off"):
                self.losses(overlap, *sets(ddp_overlap=overlap, ddp_bucket_bytes=10000), "--epochs", 2, ranks=ranks, data=data)
            with self.subTest(ranks=ranks):
                self.assertEqual(digest(self.folder / f"on-{ranks}"), digest(self.folder / f"off-{ranks}"))

    def test_gradients_sent_as_bf16_train_almost_alike(self):  # ctest: processors=2
        data = self.small_data()
        exact, rounded = (self.losses(wire, *sets(ddp_wire=wire), "--epochs", 2, ranks=2, data=data) for wire in ("fp32", "bf16"))
        self.assertNotEqual(exact, rounded)
        worst = max(abs(a - b) / a for a, b in zip(exact, rounded, strict=True))
        print(f"largest relative difference of {len(exact)} losses: {worst:.1e}")
        self.assertLess(worst, 1e-3)

    # Replicas.

    def refused(self, fault, code, *said, words=(), ranks=2, steps=40):
        run = self.folder / "run"
        result = lockstep("train", "--recipe", "tutorial", "--data-dir", self.small_data(), "--out", run, "--threads", "1", "--max-steps", steps,
                          *QUIET, *words, ranks=ranks, env={"LOCKSTEP_FAULT": fault})
        self.assert_refused(result, code, *said)
        return [line["step"] for line in self.metrics(run, "train")]

    def test_a_flipped_bit_is_found_within_an_audit_interval(self):  # ctest: processors=2
        steps = self.refused("flip@1:12", DIVERGED, "after step 15", "model.8.bias", "rank 1", words=sets(ddp_audit_every=5))
        self.assertEqual(steps[-1], 14)

    def test_the_odd_one_of_3_ranks_is_named_even_if_it_is_the_first(self):  # ctest: processors=2
        self.refused("flip@0:3", DIVERGED, "model.8.bias", "on rank 0", words=sets(ddp_audit_every=5), ranks=3)

    def test_weights_are_compared_before_they_are_saved(self):  # ctest: processors=2
        self.refused("flip@1:4", DIVERGED, "after step 5", "rank 1", words=sets(ddp_audit_every=1000))
        self.assertEqual(list(self.folder.glob("run/*.pth")), [])

    def test_nan_on_one_rank_stops_all_in_that_step(self):  # ctest: processors=2
        steps = self.refused("nan@1:14", DIVERGED, "rank 1", "nan", "step 14", "step-0000010.safetensors")
        self.assertEqual(steps[-1], 13)

    def test_nan_with_virtual_ranks_stops_all_in_that_step(self):  # ctest: processors=2
        steps = self.refused("nan@1:3", DIVERGED, "rank 1", "nan", "step 3", "nothing was saved", words=sets(train_virtual_ranks=4))
        self.assertEqual(steps[-1], 2)

    def test_a_rate_that_diverges_stops_the_run(self):  # ctest: processors=2
        self.refused("", DIVERGED, "step", words=sets(optim_lr=1000))

    # Slow and lost ranks.

    def test_a_rank_that_stands_still_is_named_at_the_deadline(self):  # ctest: waits
        for overlap in ("on", "off"):
            with self.subTest(overlap=overlap):
                self.assert_stopped_rank_is_named(overlap)

    def assert_stopped_rank_is_named(self, overlap):
        run = self.folder / f"run-{overlap}"
        job = f"stopped-{overlap}-{os.getpid()}"
        words = [*mpirun(2), os.environ["LOCKSTEP"], "train", "--recipe", "tutorial", "--data-dir", self.small_data(), "--out", run,
                 "--threads", "1", "--epochs", 100000, *QUIET, *sets(watch_deadline_s=2, ddp_overlap=overlap)]
        with open(self.folder / "err", "w+") as err:
            process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL, stderr=err, env=environment(job),
                                       start_new_session=True)
            try:
                end = time.monotonic() + 40
                while time.monotonic() < end and not ((run / "metrics.jsonl").exists() and len(self.metrics(run, "train")) > 20):
                    time.sleep(0.1)
                rank_1 = [pid for pid in processes_of(job) if b"\0OMPI_COMM_WORLD_RANK=1\0" in pathlib.Path(f"/proc/{pid}/environ").read_bytes()]
                self.assertEqual(len(rank_1), 1)
                os.kill(rank_1[0], signal.SIGSTOP)
                start = time.monotonic()
                rc = process.wait(30)
                seconds = time.monotonic() - start
            finally:
                kill(processes_of(job))
                process.wait()
            err.seek(0)
            said = err.read()
        self.assertEqual(rc, RANK_LOST, said)
        self.assertIn("lockstep: error: rank 0", said)
        self.assertIn("rank 1", said)
        self.assertIn("hint: ", said)
        self.assertLess(seconds, 15, said)
        self.assertGreater(seconds, 1.5, said)
        print(f"overlap {overlap}: {seconds:.1f} s: {said.splitlines()[0]}")

    def test_figures_of_all_ranks_are_logged(self):  # ctest: processors=2
        run = self.folder / "run"
        result = self.train(run, "--max-steps", 10, *sets(log_every_steps=5), ranks=2)
        for line in self.metrics(run, "train"):
            for name in ("compute_ms", "data_wait_ms", "comm_wait_ms"):
                figures = line[name]
                self.assertLessEqual(figures["min"], figures["median"])
                self.assertLessEqual(figures["median"], figures["max"])
                self.assertIn(figures["worst_rank"], (0, 1))
            self.assertGreater(line["compute_ms"]["min"], 0)
            times = line["step_ms"]
            self.assertGreaterEqual(times["median"], line["compute_ms"]["min"] / 2)
            self.assertLessEqual(times["median"], times["p95"])
            self.assertLessEqual(times["p95"], times["max"])
        self.assertRegex(result.stdout, r"ms: compute [\d.]+-[\d.]+ \(rank \d\) +data [\d.]+-[\d.]+ +waiting ")

    def test_a_trace_of_steps_that_do_not_all_come(self):
        trace = self.folder / "trace.json"
        words = ("--max-steps", 3, "--trace", trace, *QUIET)
        self.train(self.folder / "some", *words, "--trace-steps", "2:9")
        self.assertEqual(sum(event["name"] == "forward" for event in json.loads(trace.read_text())["traceEvents"]), 2)
        trace.unlink()
        result = self.train(self.folder / "none", *words)
        self.assertIn("no trace", result.stdout)
        self.assertFalse(trace.exists())

    def test_a_trace_has_a_lane_for_each_rank(self):  # ctest: processors=2
        trace = self.folder / "trace.json"
        self.train(self.folder / "run", "--max-steps", 9, "--trace", trace, "--trace-steps", "3:5", *sets(ddp_overlap="on"), ranks=2)
        events = json.loads(trace.read_text())["traceEvents"]
        for rank in (0, 1):
            mine = [event for event in events if event["pid"] == rank]
            names = [event["args"]["name"] for event in mine if event["name"] == "process_name"]
            self.assertEqual([name.split(" on ")[0] for name in names], [f"rank {rank}"])
            for phase in ("data", "forward", "backward", "optimizer"):
                spans = [event for event in mine if event["name"] == phase and event["ph"] == "X"]
                self.assertEqual(len(spans), 3, phase)
                self.assertTrue(all(event["dur"] > 0 for event in spans))
            begun = sum(event["ph"] == "b" for event in mine)
            self.assertGreaterEqual(begun, 3)
            self.assertEqual(begun, sum(event["ph"] == "e" for event in mine))
            # One after the other in one lane.
            spans = sorted((event["ts"], event["dur"]) for event in mine if event["ph"] == "X")
            self.assertTrue(all(a + d <= b + 1e-3 for (a, d), (b, _) in zip(spans, spans[1:])))


if __name__ == "__main__":
    unittest.main()
