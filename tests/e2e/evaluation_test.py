"""Evaluation is exact: the same digits at any number of ranks."""

import json
import unittest

from lockstep_runner import LockstepTest


class EvaluationTest(LockstepTest):
    def evaluate(self, run, data, ranks, *words):
        return self.done("evaluate", run, "--data-dir", data, "--threads", "1", *words, ranks=ranks).stdout

    def assert_same_digits(self, data, ranks_list, *words):
        run = self.folder / "run"
        self.train(run, "--max-steps", "20", "--set", "optim.momentum=0.9", "--set", "eval.every_epochs=0", data=data)
        first, *others = (self.evaluate(run, data, ranks, *words) for ranks in ranks_list)
        print(first)
        for ranks, other in zip(ranks_list[1:], others, strict=True):
            self.assertEqual(other, first, f"{ranks} ranks")
        return first

    def test_the_digits_are_the_same_on_1_2_3_and_4_ranks(self):  # ctest: processors=2
        result = json.loads(self.assert_same_digits(self.real_data(), (1, 2, 3, 4), "--json"))
        self.assertEqual(sum(kind["images"] for kind in result["classes"].values()), result["images"])
        self.assertEqual(sum(kind["correct"] for kind in result["classes"].values()), round(result["test_accuracy"] * result["images"]))

    def test_what_is_printed_is_the_same_with_more_ranks_than_batches(self):  # ctest: processors=2
        # 100 images are two batches: of three ranks one has nothing to do.
        self.assert_same_digits(self.small_data(), (0, 1, 3))

    def test_the_digits_are_the_same_with_a_last_batch_of_one_image(self):  # ctest: processors=2
        self.assert_same_digits(self.small_data(), (0, 2, 4), "--batch", "33", "--json")


if __name__ == "__main__":
    unittest.main()
