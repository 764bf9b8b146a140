"""Lockstep reads the .pth files that Python writes, whatever their tensors are and whatever wrapped the module."""

import json
import os
import pathlib
import subprocess
import sys
import unittest
import warnings

import torch

import airbench
import tutorial
from lockstep_runner import LockstepTest, lockstep
from safetensors_test import PLAIN, RARE, bits, tensors_of

DROPPED = ".num_batches_tracked"


class PthTest(LockstepTest):
    def resave(self, source, name, *how):
        """The file NAME that Lockstep made of the file SOURCE."""
        target = self.folder / name
        program = pathlib.Path(os.environ["TEST_PROGRAMS"], "resave")
        done = subprocess.run([program, source, target, *how], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return target

    def saved(self, tensors, name="python.pth"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # complex32 is experimental
            torch.save(tensors, self.folder / name)
        return self.folder / name

    def test_negated_and_conjugated_views_mean_the_same_numbers_to_both(self):
        real, one, other = torch.randn(3, 4), torch.randn(5, dtype=torch.complex64), torch.randn(5, dtype=torch.complex64)
        tensors = {
            "negated": torch._neg_view(real),
            "negated and strided": torch._neg_view(real).t()[1:],
            "conjugated": one.conj(),
            "imaginary part": other.conj().imag,
            "both": torch._neg_view(torch.randn(2, dtype=torch.complex128).conj()),
            "words": torch._neg_view(torch.arange(4, dtype=torch.int16)),
        }
        self.assertTrue(all(tensor.is_neg() or tensor.is_conj() for tensor in tensors.values()))
        ours = torch.load(self.resave(self.saved(tensors), "ours.pth"), weights_only=True)
        self.assertEqual(list(ours), list(tensors))
        for name, tensor in torch.load(self.folder / "python.pth", weights_only=True).items():
            self.assertEqual(bits(ours[name]), bits(tensor.resolve_conj().resolve_neg()), name)

    def test_every_type_that_python_saves_means_the_same_numbers_to_both(self):
        from safetensors.torch import load_file

        tensors = tensors_of(PLAIN + RARE + [torch.float8_e8m0fnu, torch.complex32, torch.complex128])
        ours = load_file(self.resave(self.saved(tensors), "ours.safetensors", "double"))
        self.assertEqual(set(ours), set(tensors))
        for name, tensor in tensors.items():
            numbers = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).to(torch.float64)
            torch.testing.assert_close(ours[name], numbers, rtol=0, atol=0, equal_nan=True, msg=name)

    def test_python_reads_every_type_that_lockstep_saves(self):
        tensors = tensors_of(PLAIN + [torch.complex64, torch.complex128])
        ours = torch.load(self.resave(self.saved(tensors), "ours.pth"), weights_only=True)
        for name, tensor in tensors.items():
            self.assertEqual(bits(ours[name]), bits(tensor), name)

    def evaluated(self, path, *words):
        """What `lockstep evaluate` says of a file, and what it warns of."""
        result = self.done("evaluate", path, "--data-dir", self.small_data(), "--threads", "1", "--json", *words)
        values = json.loads(result.stdout)
        return [values[name] for name in ("test_loss", "test_loss_mean", "test_accuracy")], result.stderr

    def test_weights_of_a_wrapped_module_are_those_of_the_module(self):
        net = tutorial.initial_net(3)
        plain, warned = self.evaluated(self.saved(net.state_dict(), "plain.pth"))
        self.assertEqual(warned, "")
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        self.addCleanup(torch.distributed.destroy_process_group)
        parallel = torch.nn.parallel.DistributedDataParallel(net)
        wrapped = {
            "module.": parallel,
            "_orig_mod.": torch.compile(net),
            "_orig_mod.module.": torch.compile(parallel),
            "averaged": torch.optim.swa_utils.AveragedModel(net),
        }
        for prefix, module in wrapped.items():
            with self.subTest(prefix=prefix):
                values, warned = self.evaluated(self.saved(module.state_dict(), f"{prefix}pth"))
                self.assertEqual(values, plain)
                self.assertIn("n_averaged" if prefix == "averaged" else f"'{prefix}'", warned)

    def test_what_is_said_about_the_old_format_converts_the_file(self):
        weights = tutorial.initial_net(3).state_dict()
        plain = self.evaluated(self.saved(weights, "plain.pth"))
        torch.save(weights, self.folder / "old.pth", _use_new_zipfile_serialization=False)
        refused = lockstep("evaluate", self.folder / "old.pth", "--data-dir", self.small_data())
        self.assert_refused(refused, 65, "old.pth", "old format of torch.save", "old.new.pth")
        command = refused.stderr.partition("python3 ")[2].strip()
        subprocess.run(f"'{sys.executable}' {command}", shell=True, check=True, timeout=60)
        self.assertEqual(self.evaluated(self.folder / "old.new.pth"), plain)

    def test_a_plain_dict_without_num_batches_tracked_is_read_as_python_reads_it(self):
        net = airbench.initial_net(3)
        whole = dict(net.state_dict())
        lacking = {name: tensor for name, tensor in whole.items() if not name.endswith(DROPPED)}
        self.assertLess(len(lacking), len(whole))
        net.load_state_dict(dict(lacking), strict=True)
        words = ("--model", "airbench94")
        self.assertEqual(self.evaluated(self.saved(lacking, "lacking.pth"), *words), self.evaluated(self.saved(whole, "whole.pth"), *words))


if __name__ == "__main__":
    unittest.main()
