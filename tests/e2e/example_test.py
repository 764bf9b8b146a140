"""The program that the documentation shows does what it says."""

import os
import pathlib
import unittest

from lockstep_runner import LockstepTest, execute, mpirun


class ExampleTest(LockstepTest):
    def test_the_example_learns_on_2_ranks(self):  # ctest: processors=2
        data = self.small_data(3200, 320)
        program = pathlib.Path(os.environ["TEST_PROGRAMS"]) / "example_train"
        result = execute([*mpirun(2), program, data, "120"], env={"OMP_NUM_THREADS": "1"}, cwd=self.folder, timeout_s=110)
        self.assertEqual(result.rc, 0, str(result))
        losses = [float(line.split()[3]) for line in result.stdout.splitlines() if line.startswith("step ")]
        self.assertEqual(len(losses), 6, str(result))
        self.assertLess(losses[-1], losses[0], str(result))
        accuracy = float(result.stdout.split("accuracy ")[1].split()[0])
        self.assertGreater(accuracy, 25, str(result))  # of ten classes; blind guessing gives 10
        self.assertTrue((self.folder / "example.pth").exists())

    def test_the_example_is_under_60_lines(self):
        source = pathlib.Path(__file__).parents[2] / "docs" / "examples" / "train.cpp"
        self.assertLess(len(source.read_text().splitlines()), 60)

    def test_the_example_ends_on_all_ranks_when_there_is_no_data(self):  # ctest: processors=2
        program = pathlib.Path(os.environ["TEST_PROGRAMS"]) / "example_train"
        result = execute([*mpirun(2), program, self.folder / "nothing"], cwd=self.folder, timeout_s=60)
        self.assertNotEqual(result.rc, 0, str(result))
        self.assertEqual(result.left_over, [], str(result))


if __name__ == "__main__":
    unittest.main()
