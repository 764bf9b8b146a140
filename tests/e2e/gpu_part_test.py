"""GPUs, where there are none: the GPU part is there and changes nothing on the CPU; choices and faults end as documented."""

import os
import pathlib
import re
import shutil
import subprocess
import unittest

from lockstep_runner import LockstepTest, execute, lockstep, mpirun

USAGE, LAUNCH, RANK_LOST = 64, 69, 75
BINARY = pathlib.Path(os.environ["LOCKSTEP"])
PART = BINARY.parent / "liblockstep_cuda.so"
REHEARSAL = pathlib.Path(os.environ["TEST_PROGRAMS"], "gpu_rehearsal")
SLOW_LINK = pathlib.Path(__file__).parents[2] / "benchmarks" / "slow_link"


def rehearse(*words, ranks, **how):
    return execute([*mpirun(ranks), REHEARSAL, *words], **how)


class GpuPartTest(LockstepTest):
    def need_part(self):
        if not PART.exists():
            self.skip("built without the GPU part (LOCKSTEP_CUDA=OFF)")

    def need_no_gpu(self):
        if shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0:
            self.skip("this machine has a GPU")

    def test_the_part_is_linked_with_nccl_and_cuda(self):
        self.need_part()
        needed = re.findall(r"NEEDED.*\[(.*)\]", subprocess.run(["readelf", "-d", PART], capture_output=True, text=True).stdout)
        for library in ("libnccl.so.2", "libcudart.so.13", "libtorch_cuda.so"):
            self.assertIn(library, needed)
        program = subprocess.run(["readelf", "-d", BINARY], capture_output=True, text=True).stdout
        self.assertNotIn("cuda", program)
        self.assertNotIn("nccl", program)

    def test_the_version_says_what_there_is_of_gpus(self):
        said = self.done("--version").stdout
        self.assertRegex(said, r"(?m)^GPUs (CUDA [\d.]+, driver for CUDA [\d.]+, NCCL [\d.]+|none: .+)$")

    def test_a_loaded_part_leaves_the_bits_of_a_run_on_the_cpu(self):  # ctest: processors=2 timeout=180
        self.need_part()
        words = ("--device", "cpu", "--max-steps", 20, "--set", "log.every_steps=5")
        runs = [self.folder / "without", self.folder / "with"]
        self.train(runs[0], *words, ranks=2)
        self.train(runs[1], *words, ranks=2, env={"LD_PRELOAD": str(PART)}, timeout_s=120)
        self.assertEqual((runs[0] / "final.pth").read_bytes(), (runs[1] / "final.pth").read_bytes())
        losses = [[line["train_loss"] for line in self.metrics(run, "train")] for run in runs]
        self.assertEqual(losses[0], losses[1])

    def test_a_gpu_that_is_not_there_is_refused(self):  # ctest: waits
        self.need_no_gpu()
        data = self.small_data()
        train = ("train", "--data-dir", data, "--out", self.folder / "run")
        for ranks, each in ((0, (train, ("bench", "step"), ("bench", "comm"))), (1, (train,)), (2, (train, ("bench", "comm")))):
            for words in each:
                result = lockstep(*words, "--device", "cuda", ranks=ranks)
                self.assert_refused(result, LAUNCH, "sees no GPU", "--device cpu")
                self.assertIn("  rank  host", result.stderr)
                self.assertIn(os.uname().nodename, result.stderr)
        self.assertFalse((self.folder / "run").exists())
        self.assert_refused(lockstep("train", "--data-dir", data, "--device", "gpu", ranks=2), USAGE, "--device gpu", "cuda")

    def test_automatic_is_the_cpu_where_there_is_no_gpu(self):
        self.need_no_gpu()
        run = self.folder / "run"
        result = self.train(run, "--max-steps", 1)
        self.assertRegex(result.stdout, r"device +cpu, fp32\n")
        self.assertEqual(self.metrics(run, "start")[0]["device"], "cpu")


class RehearsalTest(LockstepTest):
    def test_made_up_gpus_are_given_out(self):
        for ranks, spec, device in (
            (1, "0", "cuda:0 (Made-up GPU)"),
            (2, "0 1/0 1", "cuda:0 (Made-up GPU)"),
            (2, "5/3", "cuda:0 (Made-up GPU)"),
            (1, "4!", "cuda:0 (Made-up GPU MIG 1g.10gb)"),
        ):
            result = rehearse("choose", spec, ranks=ranks)
            self.assertEqual((result.rc, result.stdout.strip()), (0, device), str(result))

    def test_each_clash_of_made_up_gpus_is_one_message(self):  # ctest: waits timeout=180
        host = os.uname().nodename
        for ranks, spec, said in (
            (1, "-", ["rank 0", "sees no GPU", "no NVIDIA driver"]),
            (2, "-/-", ["rank 0", "sees no GPU"]),
            (3, "0 1 2/0 1 2/-", ["rank 2", "sees no GPU while others do", "--device cpu"]),
            (2, "0/0", ["rank 1 has no GPU of its own", "2 ranks and 1 GPU"]),
            (3, "0 1/0 1/0 1", ["rank 2 has no GPU of its own", "3 ranks and 2 GPUs", "at most 2 ranks"]),
            (3, "0 7/1/0", ["ranks 0 and 2", "would use one GPU, GPU-0"]),
            (2, "2!/2!", ["ranks 0 and 1", "slices of one GPU"]),
        ):
            with self.subTest(spec=spec):
                result = rehearse("choose", spec, ranks=ranks)
                self.assert_refused(result, LAUNCH, *said)
                rows = [line for line in result.stderr.splitlines() if re.match(rf" +\d+  {re.escape(host)} ", line)]
                self.assertEqual(len(rows), ranks, str(result))

    def test_what_the_watchdog_throws_is_our_message(self):
        for ranks, odd in ((1, 0), (2, 1)):
            result = rehearse("watchdog", odd, ranks=ranks)
            self.assert_refused(result, RANK_LOST, "watch.deadline_s", "SeqNum=7", "start again", within_s=20)
            if ranks > 1:
                self.assertIn(f"rank {odd} on {os.uname().nodename}: ", result.stderr)

    def test_a_rank_that_stands_still_is_named_by_those_who_wait_for_their_gpus(self):  # ctest: waits
        result = rehearse("still", 1, ranks=2)
        host = os.uname().nodename
        self.assert_refused(result, RANK_LOST, f"rank 0 on {host}: backward of step 7 has taken", f"no answer from rank 1 on {host}", "look at it", within_s=20)
        result = rehearse("unvoted", 1, ranks=2)
        self.assert_refused(result, RANK_LOST, f"rank 0 on {host}: stop consensus", f"for rank 1 on {host}: no answer", "look at it", within_s=30)

    def test_a_call_that_never_returns_ends_in_time(self):
        result = rehearse("stuck", 1, ranks=2)
        self.assert_refused(result, RANK_LOST, f"rank 1 on {os.uname().nodename}", "NCCL did not start", within_s=20)

    def test_a_rank_that_never_comes_to_the_store(self):  # ctest: processors=2
        result = rehearse("absent", 2, ranks=3)
        self.assertEqual(result.rc, RANK_LOST, str(result))
        self.assertIn("lockstep: error: ", result.stderr)
        self.assertLess(result.seconds, 20, str(result))
        self.assertEqual(result.left_over, [], str(result))

    def test_the_store_meets_on_the_link_between_two_hosts(self):  # ctest: waits lock=namespaces timeout=120
        if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
            self.skip("network namespaces need root and iproute2")
        if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode != 0:
            self.skip("no network namespaces here")
        result = execute([SLOW_LINK, "--", REHEARSAL, "store"])
        self.assertEqual(result.rc, 0, str(result))
        self.assertRegex(result.stdout, r"link0 10\.\d+\.\d+\.1 port \d+")
        result = execute([SLOW_LINK, "--", REHEARSAL, "store", "link0"])
        self.assertEqual(result.rc, 0, str(result))
        # Its loopback is no way to the other host.
        result = execute([SLOW_LINK, "--", REHEARSAL, "store", "lo"])
        self.assert_refused(result, LAUNCH, "lo 127.0.0.1 (rank 1: ", "--interface")
        result = execute([SLOW_LINK, "--", REHEARSAL, "store", "eth9"])
        self.assert_refused(result, LAUNCH, "no address on interface eth9", "link0 10.")


if __name__ == "__main__":
    unittest.main()
