"""DistributedDataParallel in a loop of one's own has the numbers of Python's, bit for bit, where its passes or its module are special."""

import functools
import os
import pathlib
import unittest
import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import ddp_oracle
from lockstep_runner import LockstepTest, execute, mpirun

RANKS = 2


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.a(x).tanh())


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.n = nn.BatchNorm1d(8)
        self.b = nn.Linear(8, 3)

    def forward(self, x):
        return self.b(self.n(self.a(x)))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = self.a

    def forward(self, x):
        return self.b(self.a(x).tanh())


NETS = {"penalty": Plain, "two_forwards": Normed, "own_buffers": Normed, "tied": Tied}


def numbers(case, rank):
    """As ddp_numbers.cpp prints them."""
    warnings.simplefilter("ignore")
    torch.manual_seed(5)
    net = NETS[case]()
    ddp = DistributedDataParallel(net, find_unused_parameters=case == "penalty", broadcast_buffers=case != "own_buffers")
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1, momentum=0.9)
    for step in range(5):
        optimizer.zero_grad()
        x = (torch.arange(72, dtype=torch.float) + step).reshape(12, 6).sin().chunk(RANKS)[rank].clone()
        if case == "penalty":
            x.requires_grad_()
            y = ddp(x)
            (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            loss = y.square().mean() + slope.square().sum(1).mean()
        elif case == "two_forwards":
            if step == 3:
                net.eval()
            real, fake = ddp(x), ddp(x.cos())
            loss = real.square().mean() + (fake - 1).square().mean()
        else:
            loss = (ddp(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
    return {**{name: tensor.double().sum().item() for name, tensor in net.state_dict().items()}, "loss": loss.item()}


class DdpTest(LockstepTest):
    def ours(self, case):
        result = execute([*mpirun(RANKS), pathlib.Path(os.environ["TEST_PROGRAMS"], "ddp_numbers"), case])
        self.assertEqual(result.rc, 0, str(result))
        return result.stdout

    def assert_numbers(self, case):
        theirs = ddp_oracle.on_ranks(RANKS, functools.partial(numbers, case))[-1]
        ours = {name: float(value) for name, value in (line.split() for line in self.ours(case).splitlines())}
        self.assertEqual(ours, theirs)
        self.assertGreater(len(ours), 4)
        print(f"{case}: {len(ours)} numbers, loss {ours['loss']:.6f}")

    def test_a_gradient_penalty(self):  # ctest: processors=2
        self.assert_numbers("penalty")

    def test_two_forwards_before_one_backward_with_batch_norm(self):  # ctest: processors=2
        self.assert_numbers("two_forwards")

    def test_buffers_of_each_ranks_own(self):  # ctest: processors=2
        self.assert_numbers("own_buffers")

    def test_a_layer_that_is_used_twice_is_stepped_once(self):  # ctest: processors=2
        self.assert_numbers("tied")

    def test_a_world_that_ends_before_the_wrapper_is_told(self):  # ctest: processors=2
        said = self.ours("world_first")
        self.assertEqual(said.count("the World ended before its DistributedDataParallel"), 2, said)


if __name__ == "__main__":
    unittest.main()
