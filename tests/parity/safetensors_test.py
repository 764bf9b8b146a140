"""Lockstep and Python's safetensors read each other's files, bit for bit."""

import json
import os
import pathlib
import subprocess
import unittest

import safetensors
import torch
from safetensors.torch import load_file, save_file

from lockstep_runner import LockstepTest

# Those that Lockstep reads from a .pth.
PLAIN = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
PLAIN += [torch.float16, torch.bfloat16, torch.float32, torch.float64]
RARE = [torch.uint16, torch.uint32, torch.uint64, torch.complex64]
RARE += [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
SHAPES = [(), (1,), (7,), (0,), (3, 0, 5), (2, 3, 5, 7)]
METADATA = {"format": "pt", "empty": "", "ünd \"more\" \\": "日本\n\t\x01\x7f"}


def some_bits(shape, dtype, generator):
    """Any bits, NaNs and all."""
    if dtype == torch.bool:
        return torch.randint(2, shape, generator=generator).to(torch.bool)
    count = torch.Size(shape).numel()
    size = torch.empty((), dtype=dtype).element_size()
    return torch.randint(256, (count * size,), generator=generator, dtype=torch.uint8).view(dtype).reshape(shape)


def tensors_of(dtypes):
    generator = torch.Generator().manual_seed(1)
    return {
        f"{str(dtype).removeprefix('torch.')} {list(shape)} ü": some_bits(shape, dtype, generator)
        for dtype in dtypes
        for shape in SHAPES
    }


def bits(tensor):
    return tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class SafetensorsTest(LockstepTest):
    def resave(self, source, name, *how):
        """The file NAME that Lockstep made of the file SOURCE."""
        target = self.folder / name
        program = pathlib.Path(os.environ["TEST_PROGRAMS"], "resave")
        done = subprocess.run([program, source, target, *how], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return target

    def assert_same_bits(self, ours, python):
        self.assertEqual(set(ours), set(python))
        for name, tensor in python.items():
            self.assertEqual(bits(ours[name]), bits(tensor), name)
        print(f"{len(python)} tensors of {len({tensor.dtype for tensor in python.values()})} types have the same bits")

    def python_file(self, tensors, metadata=None):
        save_file(tensors, self.folder / "python.safetensors", metadata)
        return self.folder / "python.safetensors"

    def test_python_reads_what_lockstep_writes(self):
        tensors = tensors_of(PLAIN)
        torch.save(tensors, self.folder / "python.pth")
        ours = self.resave(self.folder / "python.pth", "ours.safetensors")
        self.assert_same_bits(load_file(ours), tensors)
        with safetensors.safe_open(ours, "pt") as file:
            self.assertEqual(file.metadata(), {"format": "pt"})

    def test_lockstep_reads_what_python_writes(self):
        tensors = tensors_of(PLAIN)
        ours = self.resave(self.python_file(tensors), "ours.pth")
        self.assert_same_bits(torch.load(ours, weights_only=True), tensors)

    def test_every_type_of_python_and_its_metadata_come_back(self):
        tensors = tensors_of(PLAIN + RARE)
        ours = self.resave(self.python_file(tensors, METADATA), "ours.safetensors", "metadata")
        self.assert_same_bits(load_file(ours), tensors)
        with safetensors.safe_open(ours, "pt") as file:
            self.assertEqual(file.metadata(), METADATA)

    def test_every_type_means_the_same_numbers_to_both(self):
        # Bits come back even when reading and writing mistake a type alike; numbers do not.
        tensors = tensors_of(PLAIN + RARE + [torch.float8_e8m0fnu])  # which Python writes but cannot read
        ours = load_file(self.resave(self.python_file(tensors), "ours.safetensors", "double"))
        self.assertEqual(set(ours), set(tensors))
        for name, tensor in tensors.items():
            numbers = (torch.view_as_real(tensor) if tensor.is_complex() else tensor).to(torch.float64)
            torch.testing.assert_close(ours[name], numbers, rtol=0, atol=0, equal_nan=True, msg=name)

    def test_python_reads_a_checkpoint(self):
        tensors = {f"model.{name}": tensor for name, tensor in tensors_of(PLAIN + RARE).items()}
        state = json.dumps({"step": 782, "text": '"lockstep.digest":"\n', "umlaut": "ü"}, ensure_ascii=False)
        ours = self.resave(self.python_file(tensors), "checkpoint.safetensors", state)
        self.assert_same_bits(load_file(ours), tensors)
        with safetensors.safe_open(ours, "pt") as file:
            metadata = file.metadata()
        self.assertEqual(metadata["lockstep.state"], state)
        self.assertEqual(metadata["format"], "pt")
        self.assertEqual(set(json.loads(metadata["lockstep.tensors"])), set(tensors))

    def test_both_take_files_that_hold_nothing(self):
        self.assertEqual(load_file(self.resave(self.python_file({}), "ours.safetensors")), {})

    def test_both_refuse_the_same_damage(self):
        good = self.python_file({"a": torch.ones(2), "b": torch.ones(3)}).read_bytes()
        bad = self.folder / "bad.safetensors"
        program = pathlib.Path(os.environ["TEST_PROGRAMS"], "resave")
        pairs = [(b"[2]", b"[3]"), (b"[0,8]", b"[1,9]"), (b'"b"', b'"a"'), (b"F32", b"F64"), (b"F32", b"XXX"), (b"{", b"[")]
        for damaged in [good[:-1], good + b"x", good[:50], good[:7], b""] + [good.replace(*pair) for pair in pairs]:
            bad.write_bytes(damaged)
            with self.subTest(damaged=damaged):
                self.assertNotEqual(damaged, good)
                with self.assertRaises(safetensors.SafetensorError):
                    load_file(bad)
                done = subprocess.run([program, bad, self.folder / "x", "metadata"], capture_output=True, timeout=60)
                self.assertEqual(done.returncode, 1, done.stderr)


if __name__ == "__main__":
    unittest.main()
