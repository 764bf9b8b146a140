"""launch/gpu-check where no GPU is needed: its refusals, its count of GPUs, and its way through the parts with stand-ins for all that
it starts. What it finds on a real GPU, only a GPU can tell. Its report has tests of its own (gpu_report_test.py).
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import unittest

from lockstep_runner import LockstepTest, environment, execute, kill, outliving, processes_of

LAUNCH_DIR = pathlib.Path(__file__).resolve().parents[2] / "launch"
USAGE, MISSING, LAUNCH, INTERNAL = 64, 66, 69, 70
GPUS = "".join(f"GPU {i}: NVIDIA H100 80GB HBM3 (UUID: GPU-{i})\n" for i in range(8))


class GpuCheckTest(LockstepTest):
    """Tests of scripts that ask nvidia-smi: a program of the test's own, or none."""

    def program(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def nvidia_smi(self, listed="", rc=0):
        """PATH with an nvidia-smi that prints this."""
        self.program(self.folder / "bin" / "nvidia-smi", f"#!/bin/sh\ncat <<'EOF'\n{listed.rstrip()}\nEOF\nexit {rc}\n")
        return f"{self.folder}/bin:{os.environ['PATH']}"

    def with_visible(self, visible):
        return ["env", "-u", "CUDA_VISIBLE_DEVICES", *([] if visible is None else [f"CUDA_VISIBLE_DEVICES={visible}"])]

    def assert_says(self, result, code, *said):
        """One error with what must be said in it, one hint, the exit code, and no process left."""
        errors = [line for line in result.stderr.splitlines() if line.startswith("gpu-check: error: ")]
        hints = [line for line in result.stderr.splitlines() if line.startswith("hint: ")]
        self.assertEqual((result.rc, len(errors), len(hints)), (code, 1, 1), str(result))
        for text in said:
            self.assertIn(text, errors[0] + "\n" + hints[0])
        self.assertEqual(result.left_over, [], str(result))


class NoGpuTest(GpuCheckTest):
    def refused(self, *said, path=os.environ["PATH"], visible=None, words=()):
        here = self.folder / "here"
        here.mkdir(exist_ok=True)
        result = execute([*self.with_visible(visible), LAUNCH_DIR / "gpu-check", *words], env={"PATH": path}, cwd=here)
        self.assert_says(result, LAUNCH, *said)
        self.assertEqual(result.stdout, "")
        self.assertEqual(len(result.stderr.splitlines()), 2, str(result))
        self.assertEqual(list(here.iterdir()), [])
        self.assertLess(result.seconds, 10)

    def test_this_machine_without_a_gpu_is_refused_at_once(self):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True) if shutil.which("nvidia-smi") else None
        if listed and listed.stdout.startswith("GPU "):
            self.skip("this machine has a GPU")
        self.refused("nvidia-smi", words=("--out", "report"))

    def test_an_nvidia_smi_that_fails_is_named_with_its_words(self):
        said = "NVIDIA-SMI has failed because it could not reach the driver"
        self.refused("exit code 9", said, path=self.nvidia_smi(said, rc=9))

    def test_a_driver_without_gpus_is_refused(self):
        for listed in ("", "No devices found."):
            self.refused("lists none", path=self.nvidia_smi(listed))

    def test_hidden_gpus_are_told_by_the_variable_that_hides_them(self):
        two = "".join(GPUS.splitlines(True)[:2])
        for visible in ("", "-1"):
            self.refused(f"CUDA_VISIBLE_DEVICES='{visible}'", "unset", path=self.nvidia_smi(two), visible=visible)


class GpuCountTest(GpuCheckTest):
    def count(self, listed, visible=None, rc=0):
        words = ["bash", "-c", f'set -euo pipefail; . "{LAUNCH_DIR}/lib.sh"; gpu_count']
        result = execute([*self.with_visible(visible), *words], env={"PATH": self.nvidia_smi(listed, rc)})
        self.assertEqual((result.rc, result.stderr), (0, ""), str(result))
        return int(result.stdout)

    def test_gpus_are_counted_and_their_slices_are_not(self):
        self.assertEqual(self.count(GPUS), 8)
        sliced = GPUS.replace("\n", "\n  MIG 1g.10gb     Device  0: (UUID: MIG-0)\n  MIG 1g.5gb Device 1: (UUID: MIG-GPU-1/7/0)\n")
        self.assertEqual(self.count(sliced), 8)
        self.assertEqual(self.count("No devices found."), 0)
        self.assertEqual(self.count(GPUS, rc=9), 0)

    def test_the_visible_ones_are_those_before_the_first_that_is_none(self):
        forms = {"0,2": 2, "GPU-3": 1, "-1": 0, "": 0, "NoDevFiles": 0, "1,-1,2": 1, "0, 1": 2, "1,8,2": 1, ",".join("012345678"): 8}
        for visible, expected in forms.items():
            self.assertEqual(self.count(GPUS, visible), expected, visible)


# What gpu-check starts, for the tests of its way through the parts. STUB_BROKEN names what is to fail, STUB_CALLS a file for all calls.
STUB_LOCKSTEP = f"""#!{sys.executable}
import json, os, pathlib, sys, time
words, broken = sys.argv[1:], os.environ.get("STUB_BROKEN", "").split()
after = lambda flag: words[words.index(flag) + 1]
settings = {{key: value for key, value in os.environ.items() if key.startswith("NCCL_")}}
with open(os.environ["STUB_CALLS"], "a") as calls:
    calls.write(json.dumps({{"words": words, "ranks": os.environ.get("STUB_RANKS"), "settings": settings}}) + "\\n")
what = words[0] + "-" + (after("--device") if words[0] == "train" else words[1] if len(words) > 1 else "")
if what + ":hangs" in broken:
    time.sleep(600)
if words[0] == "--version":
    print("lockstep 0.0.0\\nCUDA 13.2, driver 13.0, NCCL " + os.environ.get("STUB_NCCL", "2.30.7"))
if what == "data-synthesize":
    pathlib.Path(after("--out")).mkdir()
if words[0] == "train":
    run, steps = pathlib.Path(after("--out")), int(after("--max-steps"))
    run.mkdir()
    synthetic = {{"data": "SYNTHETIC"}} if after("--data-dir").endswith("/data") else {{}}
    last = 19 if what in broken else steps
    lines = [{{"event": "train", "step": i, "train_loss": 2.3 - i / 1e4, **synthetic}} for i in range(1, last + 1)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
if words[0] == "bench":
    pathlib.Path(after("--json")).write_text("")
if what in broken or what + ":late" in broken:
    sys.exit("lockstep: error: the device of " + what + " fell off\\nhint: put it back")
if what == "bench-step":
    pathlib.Path(after("--json")).write_text(json.dumps({{"benchmark": "step", "ranks": 2, "overlapped_ms": {{"p50": 3.5}}}}))
if what == "bench-comm":
    rows = [{{"bytes": 4 << i, "busbw_GBps": 10.0 * i, "wrong": 0}} for i in range(4)]
    pathlib.Path(after("--json")).write_text(json.dumps({{"benchmark": "comm", "ranks": 2, "rows": rows}}))
"""
STUB_CTEST = """#!/bin/sh
echo "$LOCKSTEP_GPUS GPUs, $*" >>"$STUB_CALLS.ctest"
echo ' 1/3 Test  #7: gpu.one ....................   Passed    0.50 sec'
echo ' 3/3 Test #12: gpu.four ...................***Skipped   0.10 sec'
case " $STUB_BROKEN " in *' ctest '*) echo ' 2/3 Test  #8: gpu.two ....................***Failed    1.25 sec'; exit 8 ;; esac
echo ' 2/3 Test  #8: gpu.two ....................   Passed    1.25 sec'
"""
STUB_MPIRUN = """#!/bin/bash
while [ $# -gt 0 ]; do case "$1" in -n) export STUB_RANKS=$2 ;; */lockstep) exec "$@" ;; esac; shift; done
"""


class FlowTest(GpuCheckTest):
    def setUp(self):
        super().setUp()
        self.top, self.out = self.folder / "project", self.folder / "a report"
        (self.top / "launch").mkdir(parents=True)
        for name in ("gpu-check", "run", "lib.sh", *(path.name for path in LAUNCH_DIR.glob("gpu_report*.py"))):
            shutil.copy(LAUNCH_DIR / name, self.top / "launch" / name)
        for name in ("setup", "build"):
            script = f'#!/bin/sh\necho "{name} $*" >>"$STUB_CALLS.scripts"\nexit "${{STUB_{name.upper()}:-0}}"\n'
            self.program(self.top / "launch" / name, script)
        self.program(self.top / "build" / "release" / "lockstep", STUB_LOCKSTEP)
        self.program(self.folder / "bin" / "ctest", STUB_CTEST)
        self.program(self.folder / "bin" / "mpirun", STUB_MPIRUN)
        self.program(self.folder / "images" / "data_batch_1.bin", "")

    def command(self, *words, gpus=2, **env):
        smi = "#!/bin/sh\ncase $1 in -L) cat <<'EOF'\n{}EOF\n;; *) echo 'NVIDIA <H100>, GPU-0, 81559 MiB, 580.65.06' ;; esac\n"
        self.program(self.folder / "bin" / "nvidia-smi", smi.format("".join(GPUS.splitlines(True)[:gpus])))
        env = {"PATH": f"{self.folder}/bin:{os.environ['PATH']}", "STUB_CALLS": str(self.folder / "calls"), **env}
        return [*self.with_visible(None), self.top / "launch" / "gpu-check", "--out", self.out, *words], env

    def check(self, *words, data=True, **how):
        command, env = self.command(*(["--data-dir", self.folder / "images"] if data else []), *words, **how)
        return execute(command, env=env)

    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def report(self):
        """The JSON, and each part's result by its title; the page must be there."""
        report = json.loads((self.out / "gpu-report.json").read_text())
        self.assertIn("</html>", (self.out / "gpu-report.html").read_text())
        return report, {part["title"]: part["result"] for part in report["parts"]}

    def test_two_gpus_pass_part_by_part(self):
        result = self.check()
        self.assertEqual((result.rc, result.left_over), (0, []), str(result))
        report, parts = self.report()
        titles = ["set-up", "build", "data", "GPU tests", "loss, 1 rank", "loss, 2 ranks", "bench step, 2 ranks", "bench comm, 2 ranks"]
        self.assertEqual(list(parts), titles)
        self.assertEqual(set(parts.values()), {"passed"})
        figures = {"GPU tests": "2 passed, 0 failed, 1 skipped", "loss, 2 ranks": "at most 0", "bench comm": "30 GB/s bus bandwidth at 32B"}
        for title, said in figures.items():
            self.assertRegex(result.stdout, rf"(?m)^{title}.* passed  +.*{said}")
        self.assertEqual((self.folder / "calls.scripts").read_text(), "setup --oracles\nbuild release --tests\n")
        self.assertRegex((self.folder / "calls.ctest").read_text(), "^2 GPUs, .*-L gpu --output-on-failure")
        trained = [call for call in self.calls() if call["words"][0] == "train"]
        devices = [(call["ranks"], call["words"][call["words"].index("--device") + 1]) for call in trained]
        self.assertEqual(devices, [("1", "cpu"), ("1", "cuda"), ("2", "cpu"), ("2", "cuda")])
        self.assertEqual([call["words"][:4] for call in self.calls()[-2:]], [["bench", name, "--device", "cuda"] for name in ("step", "comm")])
        self.assertEqual((report["ranks"], report["data"], report["gpus"][0]["name"]), (2, "CIFAR-10", "NVIDIA <H100>"))
        self.assertEqual([len(loss["gpu"]) for loss in report["losses"]], [60, 60])

    def test_one_gpu_is_shared_by_two_ranks_where_nccl_permits(self):
        result = self.check(gpus=1)
        self.assertEqual(result.rc, 0, str(result))
        _, parts = self.report()
        self.assertEqual((parts["loss, 2 ranks on one GPU"], parts["bench comm, 1 rank"]), ("passed", "skipped"))
        shared = [call["settings"] for call in self.calls() if call["ranks"] == "2"][-1]
        self.assertEqual(shared, {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0", "NCCL_MAX_CTAS": "4"})
        shutil.rmtree(self.out)
        result = self.check(gpus=1, STUB_NCCL="2.29.3")
        self.assertEqual(result.rc, 0, str(result))
        self.assertRegex(result.stdout, "loss, 2 ranks on one GPU +skipped +needs NCCL 2.30; here: 2.29.3")

    def test_parts_that_fail_or_hang_are_named_and_the_others_run(self):  # ctest: waits
        result = self.check(STUB_BROKEN="ctest train-cuda bench-step:hangs", LOCKSTEP_PART_S="3")
        self.assert_says(result, INTERNAL, "failed: GPU tests, loss, 1 rank, loss, 2 ranks, bench step, 2 ranks", str(self.out))
        report, parts = self.report()
        self.assertEqual(parts["bench comm, 2 ranks"], "passed")
        said = " ".join(part["words"] for part in report["parts"])
        for words in ("1 passed, 1 failed, 1 skipped: gpu.two", "exit code 1: the device of train-cuda fell off", "stopped after step 19 of 60",
                      "not done within 3 s"):  # fmt: skip
            self.assertIn(words, said)

    def test_a_failure_of_two_ranks_on_one_gpu_is_a_finding(self):
        # A single rank on the GPU goes well here: the stub breaks only where NCCL was told to share, after its last step.
        stub = self.top / "build" / "release" / "lockstep"
        broken = "words, broken = sys.argv[1:], ['train-cuda:late'] * ('NCCL_MAX_CTAS' in os.environ) #"
        stub.write_text(STUB_LOCKSTEP.replace("words, broken =", broken))
        result = self.check(gpus=1)
        self.assertEqual(result.rc, 0, str(result))
        report, parts = self.report()
        self.assertEqual((parts["loss, 1 rank"], parts["loss, 2 ranks on one GPU"]), ("passed", "finding"))
        self.assertIn("--device cuda: exit code 1: the device of train-cuda fell off", report["parts"][5]["words"])

    def test_a_set_up_that_fails_ends_with_its_code_and_a_report(self):
        result = self.check(STUB_SETUP="69")
        self.assert_says(result, LAUNCH, "failed: set-up")
        self.assertEqual(self.report()[1], {"set-up": "failed"})

    def test_without_images_some_are_made_up_and_the_report_says_so(self):
        result = self.check(data=False)
        self.assertEqual(result.rc, 0, str(result))
        made = next(call["words"] for call in self.calls() if call["words"][0] == "data")
        self.assertEqual(made[1:], ["synthesize", "--out", str(self.out / "data"), "--train-images", "2000", "--test-images", "500"])
        self.assertIn("SYNTHETIC", result.stdout)
        self.assertEqual(self.report()[0]["data"], "SYNTHETIC")

    def test_bad_words_are_told_before_anything_is_done(self):
        (self.out / "old").mkdir(parents=True)
        for words, code, said in (
            (["--fast"], USAGE, "'--fast'"),
            (["--out"], USAGE, "--out wants a folder"),
            (["--data-dir", "/none"], MISSING, "/none"),
            ([], USAGE, "a report is not empty"),
        ):
            self.assert_says(self.check(*words), code, said)
        self.assertFalse((self.folder / "calls.scripts").exists())

    def test_an_interrupt_leaves_no_process(self):
        command, env = self.command(STUB_BROKEN="train-cpu:hangs")
        job = f"gpu-check-{os.getpid()}"
        script = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment(job, env))
        self.addCleanup(lambda: kill(processes_of(job)))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not (self.out / "loss-1-cpu.log").exists():
            time.sleep(0.1)
        time.sleep(0.3)
        script.send_signal(signal.SIGTERM)
        said = script.communicate(timeout=30)[1]
        self.assertEqual(script.returncode, 128 + signal.SIGTERM, said)
        self.assertIn("interrupted", said)
        self.assertEqual(outliving(job), [])


if __name__ == "__main__":
    unittest.main()
