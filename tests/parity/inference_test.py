"""Weights go to Python and come from Python; loss, accuracy and logits agree."""

import collections
import itertools
import json
import os
import pathlib
import subprocess
import unittest

import numpy as np
import safetensors.torch
import torch

import tutorial
from lockstep_runner import LockstepTest, lockstep

TOLERANCE = 1e-6


class InferenceTest(LockstepTest):
    @classmethod
    def setUpClass(cls):
        torch.set_num_threads(1)

    def evaluate(self, target, data):
        return json.loads(self.done("evaluate", target, "--data-dir", data, "--threads", "1", "--json").stdout)

    def assert_equal_evaluations(self, ours, python):
        print(*(f"{key}: {ours[key]} and {value}" for key, value in python.items()), sep="\n")
        for key, value in python.items():
            self.assertLess(abs(ours[key] - value) / value, TOLERANCE, key)

    def assert_equal_logits(self, weights, data):
        """`data`: a folder; the first 256 test images are looked at."""
        images = torch.stack([image for image, _ in itertools.islice(tutorial.Cifar10(data, "test"), 256)])
        program = pathlib.Path(os.environ["TEST_PROGRAMS"], "print_logits")
        answer = subprocess.run([program, weights], input=images.numpy().tobytes(), stdout=subprocess.PIPE, check=True, timeout=30)
        ours = np.frombuffer(answer.stdout, np.float32).reshape(-1, 10)
        with torch.no_grad():
            python = tutorial.load_net(weights)(images).numpy()
        self.assertEqual(ours.shape, python.shape)
        difference = np.abs(ours - python).max()
        print(f"{len(ours)} images, logits {python.min():.3f} to {python.max():.3f}, largest difference {difference:.2e}")
        self.assertGreater(np.abs(python).max(), 0.1)
        self.assertLess(difference, TOLERANCE)

    def test_evaluation_of_trained_weights_equals_python(self):
        data = self.real_data()
        run = self.folder / "run"
        self.train(run, "--max-steps", "60", "--set", "data.shuffle=true", "--set", "optim.momentum=0.9", data=data)
        ours = self.evaluate(run, data)
        test = tutorial.Cifar10(data, "test")
        self.assertEqual(ours["images"], len(test))
        self.assert_equal_evaluations(ours, tutorial.evaluate(tutorial.load_net(run / "final.pth"), test))
        self.assertGreater(ours["test_accuracy"], 0.12, "nothing was learnt: the comparison says little")
        last = self.metrics(run, "test")[-1]
        for key in ("test_loss", "test_loss_mean", "test_accuracy"):
            self.assertEqual(last[key], ours[key], f"the run itself logged another {key}")
        self.assert_equal_logits(run / "final.pth", data)

    def test_averages_of_the_weights_are_tested_and_saved(self):
        data = self.small_data()
        run = self.folder / "run"
        self.train(run, "--epochs", "2", "--set", "optim.ema=0.5", "--set", "optim.momentum=0.9", "--set", "checkpoint.every_epochs=1", data=data)
        kept = safetensors.torch.load_file(run / "checkpoints" / (run / "checkpoints/latest").read_text().strip())
        final = torch.load(run / "final.pth", weights_only=True)
        for name, tensor in final.items():
            self.assertTrue(torch.equal(tensor, kept[f"optimizer.{name}.average"]), name)
            self.assertFalse(torch.equal(tensor, kept[f"model.{name}"]), f"{name}: the weights are their average, so the comparison says nothing")
        test = tutorial.Cifar10(data, "test")
        for epoch, name in enumerate(("sjnet_0.pth", "final.pth")):
            python = tutorial.evaluate(tutorial.load_net(run / name), test)
            self.assert_equal_evaluations(self.metrics(run, "test")[epoch], python)

    def test_normalised_images_and_smoothed_labels_equal_python(self):
        data = self.small_data()
        run = self.folder / "run"
        sets = {"data.normalize": "true", "train.label_smoothing": 0.2, "train.max_steps": 1, "log.every_steps": 1}
        self.train(run, *(word for name, value in sets.items() for word in ("--set", f"{name}={value}")), data=data)

        def pictures(split):
            images, labels = zip(*tutorial.Cifar10(data, split))
            mean, deviation = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]]).view(2, 1, 3, 1, 1)
            return (torch.stack(images) - mean) / deviation, torch.tensor(labels)

        images, labels = (part[:64] for part in pictures("train"))
        loss = torch.nn.functional.cross_entropy(tutorial.initial_net(0)(images), labels, label_smoothing=0.2).item()
        self.assertAlmostEqual(self.metrics(run, "train")[0]["train_loss"], loss, delta=1e-6 * loss)
        test = torch.utils.data.TensorDataset(*pictures("test"))
        self.assert_equal_evaluations(self.evaluate(run, data), tutorial.evaluate(tutorial.load_net(run / "final.pth"), test))

    def test_python_opens_every_weights_file_of_a_run(self):
        data = self.small_data()
        run = self.folder / "run"
        self.train(run, "--epochs", "3", "--set", "optim.momentum=0.9", data=data)
        files = sorted(path.name for path in run.glob("*.pth"))
        self.assertEqual(files, ["final.pth", "sjnet_0.pth", "sjnet_1.pth", "sjnet_2.pth"])
        md5s = []
        for name in files:
            state = torch.load(run / name, weights_only=True)
            self.assertEqual(list(state), list(tutorial.TutorialNet().state_dict()))
            self.assertEqual({tensor.dtype for tensor in state.values()}, {torch.float32})
            self.assertFalse(any(tensor.requires_grad for tensor in state.values()))
            md5s.append(tutorial.weights_md5(state.values()))
            self.assert_equal_logits(run / name, data)
        self.assertEqual(md5s[0], md5s[3], "final.pth holds the weights of the last epoch")
        self.assertEqual(len(set(md5s)), 3)

    def test_a_file_that_python_saved_is_evaluated(self):
        data = self.small_data()
        net = tutorial.initial_net(5)
        python = tutorial.evaluate(net, tutorial.Cifar10(data, "test"))
        for kind in (dict, collections.OrderedDict):
            with self.subTest(kind=kind.__name__):
                path = self.folder / f"from python {kind.__name__}.pth"
                torch.save(kind(net.state_dict()), path)
                self.assert_equal_evaluations(self.evaluate(path, data), python)

    def test_weights_of_another_network_are_refused(self):
        net = tutorial.TutorialNet()
        net.model[8] = torch.nn.Linear(64, 11)
        path = self.folder / "eleven.pth"
        torch.save(dict(net.state_dict()), path)
        self.assert_damaged(path, "model.8.weight")

    def test_a_torn_weights_file_is_refused(self):
        path = self.folder / "torn.pth"
        torch.save(dict(tutorial.TutorialNet().state_dict()), path)
        whole = path.read_bytes()
        for size in (0, 100, len(whole) // 2, len(whole) - 1):
            with self.subTest(size=size):
                path.write_bytes(whole[:size])
                self.assert_damaged(path, "torn.pth")

    def assert_damaged(self, path, *said):
        result = lockstep("evaluate", path, "--data-dir", self.small_data(), "--threads", "1")
        self.assert_refused(result, 65, *said)


if __name__ == "__main__":
    unittest.main()
