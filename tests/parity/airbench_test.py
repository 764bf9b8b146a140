"""airbench94 begins, trains and is tested as in Python."""

import json
import os
import unittest

import torch
from torch.nn import functional as F

import airbench
import tutorial
from lockstep_runner import LockstepTest, execute

SETTINGS = {
    "model.name": "airbench94",
    "train.global_batch": 40,
    "train.epochs": 4,
    "optim.name": "muon",
    "optim.schedule": "linear",
    "optim.lr": 0.24,
    "optim.momentum": 0.6,
    "optim.nesterov": "true",
    "optim.bias_lr": 3.0,
    "optim.head_lr": 40.0,
    "optim.sgd_momentum": 0.85,
    "optim.weight_decay": 4e-3,
    "optim.whiten_epochs": 1,
    "eval.every_epochs": 0,
    "log.every_steps": 1,
    "checkpoint.every_epochs": 0,
}
SEED = 3


def sets(settings):
    return [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


class AirbenchTest(LockstepTest):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)

    def small_data(self, train=80, test=40):  # two steps an epoch
        return super().small_data(train, test)

    def run_of(self, name, *words, ranks=0, **more):
        run = self.folder / name
        settings = SETTINGS | {"data.shuffle": "false", "train.seed": SEED} | more
        self.train(run, *sets(settings), *words, ranks=ranks)
        return run

    def images(self, split="train"):
        images, labels = zip(*tutorial.Cifar10(self.small_data(), split))
        return torch.stack(images), torch.tensor(labels)

    def initial(self):
        net = airbench.initial_net(SEED)
        net.load_state_dict(torch.load(self.run_of("initial", "--epochs", 0) / "final.pth", weights_only=True), strict=True)
        return net

    def test_initial_weights_are_those_of_python_and_whiten_the_images(self):
        ours = self.initial().state_dict()
        for name, tensor in airbench.initial_net(SEED).state_dict().items():
            if name != "whiten.weight":
                torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=0)
        filters, negatives = ours["whiten.weight"].double().chunk(2)
        self.assertTrue(torch.equal(filters, -negatives))
        python = airbench.whitening(self.images()[0])
        signs = (filters * python).sum((1, 2, 3)).sign().reshape(-1, 1, 1, 1)  # an eigenvector has no sign of its own
        torch.testing.assert_close(filters, python * signs, rtol=1e-4, atol=1e-4)

    def assert_trains_alike(self, passes, steps=4, tolerance=5e-2, **more):
        # Four steps are an epoch in which the whitening's bias trains and one in which it does not. Muon gives directions that hardly show in
        # a gradient the size of all others, so roundings (another GELU, other kernels) grow fast: after ten steps they show in the loss.
        net = self.initial()
        start = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        run = self.run_of("run", "--max-steps", steps, **more)
        python = airbench.train(net, *self.images(), steps=steps, batch=40, passes=passes, total_steps=8, whiten_steps=2, lr=0.24,
                                bias_lr=3.0, head_lr=40.0, decay=4e-3)
        losses = [line["train_loss"] for line in self.metrics(run, "train")]
        print(*zip(losses, python), sep="\n")
        if steps > 1:
            self.assertLess(python[-1], python[0], "nothing was learnt: the comparison says little")
        for step, (our, their) in enumerate(zip(losses, python, strict=True), 1):
            self.assertAlmostEqual(our, their, delta=2e-4 * their, msg=f"step {step}")
        ours = torch.load(run / "final.pth", weights_only=True)
        for name, tensor in net.state_dict().items():
            if "num_batches" in name or torch.equal(tensor, start[name]):
                continue
            moved = (tensor - start[name]).norm()
            difference = ((ours[name] - tensor).norm() / moved).item()
            print(f"{name}: moved {moved.item():.3g}, difference {difference:.1e} of it")
            self.assertLess(difference, tolerance, name)
        self.assertTrue(torch.equal(ours["whiten.weight"], start["whiten.weight"]))

    def test_a_first_step_of_muon_equals_python(self):
        self.assert_trains_alike(passes=1, steps=1, tolerance=1e-4)

    def test_steps_of_muon_equal_python(self):
        self.assert_trains_alike(passes=1)

    def test_steps_of_four_micro_batches_equal_python(self):
        self.assert_trains_alike(passes=4, **{"train.micro_batch": 10})

    def test_channels_last_equals_python(self):
        self.assert_trains_alike(passes=1, **{"train.memory_format": "channels_last"})

    def test_test_time_augmentation_equals_python(self):
        data = self.small_data()
        run = self.run_of("run", "--max-steps", 3, **{"eval.tta": "shifts", "eval.every_epochs": 1})
        images, labels = self.images("test")
        net = airbench.Airbench94()
        net.load_state_dict(torch.load(run / "final.pth", weights_only=True))
        net.eval()
        with torch.no_grad():
            python = {"none": net(images), "mirror": (net(images) + net(images.flip(3))) / 2, "shifts": airbench.tta_logits(net, images)}
        losses = {}
        for tta, logits in python.items():
            words = () if tta == "shifts" else ("--tta", tta)  # the run's own otherwise
            ours = json.loads(self.done("evaluate", run, "--data-dir", data, "--threads", "1", "--json", *words).stdout)
            losses[tta] = ours["test_loss_mean"]
            self.assertAlmostEqual(losses[tta], F.cross_entropy(logits, labels).item(), delta=1e-5, msg=tta)
            self.assertEqual(ours["test_accuracy"], (logits.argmax(1) == labels).double().mean().item())
        self.assertEqual(len(set(losses.values())), 3, losses)
        self.assertEqual(self.metrics(run, "test")[-1]["test_loss_mean"], losses["shifts"])

    def test_digits_of_augmented_tests_do_not_depend_on_the_ranks(self):  # ctest: processors=2
        run = self.run_of("run", "--max-steps", 2)
        words = ("evaluate", run / "final.pth", "--data-dir", self.small_data(), "--threads", "1", "--json", "--tta", "shifts", "--batch", "16")
        self.assertEqual(*(json.loads(self.done(*words, ranks=ranks).stdout) for ranks in (0, 2)))

    def test_ranks_stay_alike(self):  # ctest: processors=2
        for ranks in (2, 4):
            with self.subTest(ranks=ranks):
                # Replicas are compared in each step; they would differ if rank 0's whitening had not come to all.
                run = self.run_of(f"run-{ranks}", "--max-steps", 3, ranks=ranks, **{"ddp.audit_every": 1, "train.micro_batch": 10})
                self.assertEqual(len(self.metrics(run, "train")), 3)

    def test_divided_updates_have_the_bits_of_undivided_ones(self):  # ctest: processors=2
        for precision in ("fp32", "bf16"):
            more = {"train.precision": precision, "train.memory_format": "channels_last", "optim.ema": 0.5, "ddp.audit_every": 1}
            weights = []
            for divide, said in (("on", True), ("auto", True), ("off", False)):
                run = self.folder / f"{precision}-{divide}"
                result = self.train(run, *sets(SETTINGS | more | {"optim.divide": divide}), "--max-steps", 3, ranks=2)
                self.assertEqual("divided among 2 ranks" in result.stdout, said, str(result))
                weights.append((run / "final.pth").read_bytes())
            self.assertEqual(len(set(weights)), 1)

    def test_ranks_with_unequal_threads_are_refused(self):  # ctest: processors=2
        def rank(threads):
            words = ("train", "--data-dir", self.small_data(), "--out", self.folder / "run", "--threads", threads, *sets(SETTINGS))
            return ["-n", "1", os.environ["LOCKSTEP"], *words]

        result = execute(["mpirun", "--oversubscribe", "--bind-to", "none", *rank(1), ":", *rank(2)])
        self.assert_refused(result, 69, "threads with optim.name = muon: 1", "threads with optim.name = muon: 2")

    def test_virtual_ranks_give_the_same_bits(self):  # ctest: processors=2
        files = []
        for ranks in (0, 2):
            run = self.run_of(f"run-{ranks}", "--max-steps", 3, ranks=ranks, **{"train.virtual_ranks": 4, "train.global_batch": 16})
            files.append((run / "final.pth").read_bytes())
        self.assertEqual(*files)


if __name__ == "__main__":
    unittest.main()
