"""The rates of a run are those of PyTorch's schedulers."""

import unittest

import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, SequentialLR

from lockstep_runner import LockstepTest

LR = 0.02
STEPS = 40  # two epochs of 80 images in batches of 4


def falling(name, optimizer, steps):
    if name == "constant":
        return ConstantLR(optimizer, factor=1, total_iters=0)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=steps)
    return LinearLR(optimizer, start_factor=1, end_factor=0, total_iters=steps)


def python_rates(name, warmup):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    peak = max(1, warmup)
    if peak == 1:
        scheduler = falling(name, optimizer, STEPS)
    else:
        rising = LinearLR(optimizer, start_factor=1 / peak, end_factor=1, total_iters=peak - 1)
        scheduler = SequentialLR(optimizer, [rising, falling(name, optimizer, STEPS - peak + 1)], milestones=[peak - 1])
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


class ScheduleTest(LockstepTest):
    def small_data(self, train=80, test=10):
        return super().small_data(train, test)

    def rates(self, name, warmup, *words):
        run = self.folder / f"run-{name}-{warmup}-{len(words)}"
        sets = (f"optim.lr={LR}", f"optim.schedule={name}", f"optim.warmup_steps={warmup}", "train.global_batch=4",
                "train.epochs=2", "eval.every_epochs=0", "log.every_steps=1", "checkpoint.every_epochs=0")
        self.train(run, *(word for setting in sets for word in ("--set", setting)), *words)
        return [line["lr"] for line in self.metrics(run, "train")]

    def assert_rates(self, name, warmup, peak):
        ours = self.rates(name, warmup)
        python = python_rates(name, peak)
        self.assertEqual(len(ours), STEPS)
        for step, (our, their) in enumerate(zip(ours, python, strict=True), 1):
            self.assertAlmostEqual(our, their, delta=1e-12, msg=f"{name}, warm-up {warmup}, step {step}")

    def test_every_schedule_logs_the_rates_of_pytorch(self):
        for name in ("constant", "linear", "cosine"):
            for warmup in (0, 7):
                with self.subTest(name=name, warmup=warmup):
                    self.assert_rates(name, warmup, warmup)

    def test_triangular_rises_in_the_first_fifth(self):
        self.assert_rates("triangular", 0, STEPS // 5)
        self.assert_rates("triangular", 10, 10)

    def test_max_steps_does_not_change_the_schedule(self):
        self.assertEqual(self.rates("triangular", 0, "--max-steps", "11"), self.rates("triangular", 0)[:11])


if __name__ == "__main__":
    unittest.main()
