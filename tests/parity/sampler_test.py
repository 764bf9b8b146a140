"""Which image a rank takes when: index for index what torch.utils.data.distributed.DistributedSampler says."""

import itertools
import os
import pathlib
import subprocess
import unittest

import numpy as np
from torch.utils.data.distributed import DistributedSampler

SIZES = (1, 7, 10, 50_000)
WORLDS = (1, 2, 3, 4, 8)
SEEDS = (0, 1, 123456789, 2**32 + 5)
EPOCHS = (0, 1, 17)


def questions():
    for size, world, drop_last in itertools.product(SIZES, WORLDS, (False, True)):
        for seed, epoch in itertools.product(SEEDS, EPOCHS):
            if size == SIZES[-1] and epoch == EPOCHS[-1] and seed != SEEDS[0]:
                continue  # a permutation of 50,000 takes Python a while
            yield size, world, True, seed, epoch, drop_last
        yield size, world, False, 0, 1, drop_last


class SamplerTest(unittest.TestCase):
    def ours(self, cases):
        """For each case and each of its ranks: what size() says, and the indices."""
        lines = [
            f"{size} {world} {rank} {int(shuffle)} {seed} {epoch} {int(drop_last)}\n"
            for size, world, shuffle, seed, epoch, drop_last in cases
            for rank in range(world)
        ]
        program = pathlib.Path(os.environ["TEST_PROGRAMS"], "print_permutation")
        answer = subprocess.run([program], input="".join(lines).encode(), stdout=subprocess.PIPE, check=True, timeout=50)
        numbers = np.frombuffer(answer.stdout, np.int64)
        at = 0
        for _ in lines:
            size, count = numbers[at : at + 2]
            yield size, numbers[at + 2 : at + 2 + count]
            at += 2 + count
        self.assertEqual(at, len(numbers))

    def test_every_index_equals_pytorch(self):
        cases = list(questions())
        answers = self.ours(cases)
        compared = 0
        for size, world, shuffle, seed, epoch, drop_last in cases:
            for rank in range(world):
                theirs = DistributedSampler(range(size), world, rank, shuffle=shuffle, seed=seed, drop_last=drop_last)
                theirs.set_epoch(epoch)
                our_size, our_indices = next(answers)
                what = f"size {size}, rank {rank} of {world}, shuffle {shuffle}, seed {seed}, epoch {epoch}, drop_last {drop_last}"
                self.assertEqual(our_size, len(theirs), what)
                np.testing.assert_array_equal(our_indices, np.fromiter(theirs, np.int64), what)
                compared += len(our_indices)
        print(f"{len(cases)} cases, {compared} indices compared")
        self.assertGreater(compared, 1_000_000)

    def test_the_known_permutations_of_50000(self):
        cases = [(50_000, 1, True, 0, 0, False), (50_000, 1, True, 1, 0, False)]
        ends = [(indices[0], indices[1], indices[-1]) for _, indices in self.ours(cases)]
        self.assertEqual(ends, [(36044, 49165, 31476), (45845, 11799, 8475)])


if __name__ == "__main__":
    unittest.main()
