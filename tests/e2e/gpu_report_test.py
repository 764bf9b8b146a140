"""The report of launch/gpu-check: the comparison of losses, the count of tests, and the page, from a sample that no machine has measured."""

import copy
import html.parser
import json
import pathlib
import re
import sys
import unittest

from lockstep_runner import LockstepTest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "launch"))
import gpu_report_chart  # noqa: E402
import gpu_report_page  # noqa: E402
import gpu_report_pieces as pieces  # noqa: E402

SAMPLE = pathlib.Path(__file__).with_name("gpu_report_sample.json")


class LossTest(LockstepTest):
    def compare(self, cpu, gpu, steps=4, tail="", start=None):
        for name, losses in (("cpu", cpu), ("gpu", gpu)):
            lines = [{"event": "start", **(start or {})}, {"event": "first_step", "step": 1}]
            lines += [{"event": "train", "step": step, "train_loss": loss} for step, loss in enumerate(losses, 1)]
            (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + (tail if name == "gpu" else ""))
        comparison = pieces.compare_losses(self.folder / "cpu.jsonl", self.folder / "gpu.jsonl", steps, 1e-3)
        json.dumps(comparison, allow_nan=False)
        return comparison

    def test_the_largest_relative_difference_decides(self):
        close = self.compare([2.0, 2.0, 1.0, 1.0], [2.0, 2.001, 1.0, 1.0])
        self.assertAlmostEqual(close["largest"], 5e-4)
        self.assertEqual((close["passed"], close["at_step"], close["synthetic"]), (True, 2, False))
        far = self.compare([2.0, 2.0, 1.0, 1.0], [2.0, 2.001, 1.0, 0.99])
        self.assertEqual((far["passed"], far["at_step"]), (False, 4))
        self.assertIn("0.01 at step 4", far["problem"])
        self.assertFalse(self.compare([1.0] * 4, [1.0, 1.0, 1.0, 1.0 + 1.01e-3])["passed"])

    def test_a_run_that_stopped_early_fails(self):
        stopped = self.compare([1.0] * 4, [1.0] * 2, tail='{"event":"train","step":3,"tra')
        self.assertEqual((stopped["passed"], stopped["largest"]), (False, 0))
        self.assertIn("GPU run stopped after step 2 of 4", stopped["problem"])
        self.assertIn("CPU run stopped after step 0", self.compare([], [1.0] * 4)["problem"])
        missing = pieces.compare_losses(self.folder / "none", self.folder / "none", 4, 1e-3)
        self.assertEqual((missing["passed"], missing["largest"]), (False, None))

    def test_a_loss_that_is_not_finite_fails(self):
        for loss in (None, float("nan"), float("inf")):
            self.assertIn("GPU run at step 3 is not finite", self.compare([1.0] * 4, [1.0, 1.0, loss, 1.0])["problem"])
        both = self.compare([1.0, float("nan"), 1.0, 1.0], [1.0, float("nan"), 1.0, 1.0])
        self.assertFalse(both["passed"])

    def test_a_gpu_run_that_says_it_ran_on_the_cpu_fails(self):
        self.assertIn("ran on the CPU", self.compare([1.0] * 4, [1.0] * 4, start={"device": "cpu"})["problem"])
        self.assertTrue(self.compare([1.0] * 4, [1.0] * 4, start={"data": "SYNTHETIC"})["synthetic"])


class TestCountTest(LockstepTest):
    def words(self, *lines):
        log = self.folder / "ctest.log"
        log.write_text("Test project /build\n" + "".join(f"{line}\n" for line in lines) + "100% tests passed, 0 tests failed out of 3\n")
        return pieces.test_words(pieces.read_tests(log))

    def test_each_way_for_a_test_to_end_is_counted(self):
        lines = [
            "  1/7 Test  #3: gpu.a ..........   Passed    0.50 sec", " 2/7 Test #14: gpu.b ..........***Skipped   0.10 sec",
            "  3/7 Test  #5: gpu.c ..........***Failed    1.00 sec", " 4/7 Test  #6: gpu.d ..........***Timeout  30.01 sec",
            "  5/7 Test  #7: gpu.e ..........***Exception: SegFault  0.20 sec", " 6/7 Test  #8: gpu.f ..........***Not Run   0.00 sec",
            "  7/7 Test  #9: gpu.g ..........***Not Run (Disabled)   0.00 sec",
        ]  # fmt: skip
        self.assertEqual(self.words(*lines), (False, "1 passed, 4 failed, 2 skipped: gpu.c, gpu.d, gpu.e, gpu.f"))
        self.assertEqual(self.words(*lines[:2]), (True, "1 passed, 0 failed, 1 skipped"))

    def test_nothing_passed_is_no_pass(self):
        self.assertEqual(self.words(), (False, "0 passed, 0 failed"))
        self.assertEqual(self.words("1/1 Test #1: gpu.a ....***Skipped   0.10 sec"), (False, "0 passed, 0 failed, 1 skipped"))


class Tags(html.parser.HTMLParser):
    """Reads a page; `open` must be empty at its end."""

    def __init__(self, page):
        super().__init__()
        self.open, self.text, self.seen = [], "", []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> while {self.open} are open"
        self.open.pop()

    def handle_data(self, data):
        self.text += data


class PageTest(LockstepTest):
    def page(self, report):
        page = gpu_report_page.page(report)
        tags = Tags(page)
        self.assertEqual(tags.open, [])
        self.assertIsNone(re.search(r"\b(nan|NaN|inf|None)\b", page))
        for outside in ("http", "src=", "<script", "@import", "url("):
            self.assertNotIn(outside, page)
        return page, tags

    def setUp(self):
        super().setUp()
        self.report = json.loads(SAMPLE.read_text())

    def test_all_that_was_recorded_is_shown(self):
        page, tags = self.page(self.report)
        self.assertIn("prefers-color-scheme: dark", page)
        self.assertEqual(tags.seen.count("svg"), 3)
        for said in (
            "made up for tests, not measured", "NVIDIA H100 80GB HBM3", "GPU-00000000-0000-0000-0000-000000000002", "580.65.06",
            "NCCL 2.30.7", self.report["commit"], "gpu.train_test.four_gpus_train", "skipped", "another\norder",
            "3.01e-06", "0.001", "3.790", "79 %", "109.373", "256M", "8421376 bytes of gradients", "2 ranks on NVIDIA H100 80GB HBM3",
        ):  # fmt: skip
            self.assertIn(said, tags.text)

    def test_whatever_the_json_says_is_only_text(self):
        self.report["gpus"][0]["name"] = "<b>GPU & \"co\"</b>\x1b[1m"
        self.report["parts"][3]["words"] = self.report["tests"][0]["name"] = "</td><script>alert(1)</script>"
        self.report["losses"][0]["title"] = "<h1>"
        page, tags = self.page(self.report)
        self.assertIn("&lt;b&gt;GPU &amp;", page)
        self.assertIn('<b>GPU & "co"</b>', tags.text)
        self.assertNotIn("b", tags.seen)

    def test_failures_and_findings_stand_on_top(self):
        self.report["parts"][3].update(result="failed", words="2 passed, 1 failed: gpu.sums")
        self.report["parts"][5].update(result="finding", words="exit code 70: a <hang>", title="loss, 2 ranks on one GPU")
        self.report["losses"][1].update(passed=False, problem="the GPU run stopped after step 1 of 60", largest=float("nan"),
                                        gpu=[[1, float("nan")]], title="loss, 2 ranks on one GPU")  # fmt: skip
        self.report["data"] = "SYNTHETIC"
        self.report["bench_step"]["hidden_overlapped"] = None
        self.report["bench_comm"]["rows"][0]["busbw_GBps"] = float("inf")
        _, tags = self.page(self.report)
        top = tags.text[: tags.text.index("Versions")]
        for said in ("failed: GPU tests", "1 failed: gpu.sums", "exit code 70: a <hang>", "NVIDIA calls experimental", "SYNTHETIC"):
            self.assertIn(said, top)
        self.assertIn("finding: the GPU run stopped after step 1 of 60", tags.text)

    def test_what_is_missing_is_said_to_be(self):
        for key in list(self.report):
            for gone in ({}, None, [], "text"):
                report = copy.deepcopy(self.report)
                report[key] = gone
                self.page(report)
            del report[key]
            self.page(report)
        self.report.update(bench_step={}, bench_comm={"rows": [{}]}, losses=[{}], tests=[{}], gpus=[{}])
        self.report["parts"][6].update(result="failed", words="not done within 900 s")
        _, tags = self.page(self.report)
        self.assertIn("bench step, 2 ranks: failed, not done within 900 s.", tags.text)
        _, tags = self.page({})
        self.assertIn("Nothing ran.", tags.text)

    def test_charts_of_hard_values(self):
        self.assertEqual(gpu_report_chart.chart("t", [("a", [[1, 2.0]])], "x", "y"), "")
        flat, zero, steep = [[1, 2.0], [2, 2.0]], [[4, 0.0], [8, 0.0]], [[1, -5], [60, 1e9]]
        for curve in (flat, zero, steep, [[1, 2.3], [2, 2.3000000000000007]]):
            for x_bytes in (False, True):
                drawn = gpu_report_chart.chart("t", [("a", curve)], "x", "y", x_bytes)
                self.assertNotRegex(drawn, r"nan|inf")
                self.assertEqual(Tags(drawn).open, [])


if __name__ == "__main__":
    unittest.main()
