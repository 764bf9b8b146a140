"""The real TensorBoard reads the events of a run."""

import unittest

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lockstep_runner import LockstepTest


class TensorboardTest(LockstepTest):
    def assert_events_equal_metrics(self, ranks):
        run = self.folder / "run"
        # 640 images in batches of 64, a line every 3 steps: 3, 6, 9, 12, … 30.
        self.train(run, "--epochs", "3", "--set", "log.every_steps=3", data=self.small_data(640, 100), ranks=ranks)
        self.assertEqual(len(list(run.glob("events.out.tfevents.*"))), 1, "one rank writes events")
        events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        tags = events.Tags()["scalars"]
        print(f"TensorBoard lists {tags}")
        expected = {"train_loss": ("step", list(range(3, 31, 3))), "test_loss": ("epoch", [0, 1, 2])}
        for tag, (key, steps) in expected.items():
            self.assertIn(tag, tags)
            scalars = events.Scalars(tag)
            lines = self.metrics(run, tag.removesuffix("_loss"))
            self.assertEqual([scalar.step for scalar in scalars], steps)
            self.assertEqual([line[key] for line in lines], steps)
            # An event holds a float32.
            self.assertEqual([scalar.value for scalar in scalars], [float(np.float32(line[tag])) for line in lines])
            self.assertEqual(sorted(scalar.wall_time for scalar in scalars), [scalar.wall_time for scalar in scalars])
        return events

    def test_events_equal_metrics_without_mpirun(self):
        self.assert_events_equal_metrics(ranks=0)

    def test_events_equal_metrics_on_2_ranks(self):  # ctest: processors=2
        self.assert_events_equal_metrics(ranks=2)


if __name__ == "__main__":
    unittest.main()
