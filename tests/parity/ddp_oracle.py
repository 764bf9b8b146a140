"""PyTorch's own data-parallel training: DistributedDataParallel, DistributedSampler and DataLoader over Gloo, one thread a rank.

    outcome = ddp_oracle.train(Job(folder="data", ranks=2, max_steps=60))
"""

import dataclasses
import functools
import multiprocessing
import os
import pathlib
import tempfile
import time
import traceback

import torch
import torch._dynamo  # noqa: F401  DistributedDataParallel imports it, which takes over a second: here it is once for all ranks
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

import tutorial


@dataclasses.dataclass(frozen=True)
class Job:
    folder: str
    ranks: int = 1
    global_batch: int = 64
    epochs: int = 1
    max_steps: int = 0  # 0: no limit
    seed: int = 0
    data_seed: int = 0
    shuffle: bool = True
    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0


@dataclasses.dataclass(frozen=True)
class Outcome:
    md5: str  # over all weights after the last step
    losses: list  # of each step, the mean over the global batch


@functools.cache
def train(job, timeout_s=60):
    """Trains and gives rank 0's Outcome, having seen that all ranks hold the same weights. Once for all that ask in a process."""
    outcomes = on_ranks(job.ranks, functools.partial(_train_rank, job), timeout_s)
    if len({outcome.md5 for outcome in outcomes}) != 1:
        raise RuntimeError("the ranks of the Python job ended with different weights")
    return outcomes[0]


def on_ranks(ranks, work, timeout_s=60):
    """What work(rank) gives on each rank of a Gloo process group, in the order of the ranks."""
    # The ranks are forked, which spares each the import of torch; that needs a parent without threads.
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryDirectory() as folder:
        pipes = [fork.Pipe(duplex=False) for _ in range(ranks)]
        processes = [
            fork.Process(target=_rank, args=(work, rank, ranks, pathlib.Path(folder, "meeting"), pipes[rank][1]), daemon=True)
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            outcomes = []
            for rank, (receiver, _) in enumerate(pipes):
                if not receiver.poll(max(0, deadline - time.monotonic())):
                    raise TimeoutError(f"rank {rank} of the Python job took more than {timeout_s} s")
                outcomes.append(receiver.recv())
        finally:
            for process in processes:
                process.join(5)
                process.kill()
    for outcome in outcomes:
        if isinstance(outcome, str):
            raise RuntimeError(outcome)
    return outcomes


def _rank(work, rank, ranks, meeting, answer):
    try:
        torch.set_num_threads(1)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=ranks)
        answer.send(work(rank))
        dist.destroy_process_group()
    except BaseException:
        answer.send(f"rank {rank} of the Python job failed:\n{traceback.format_exc()}")


def _train_rank(job, rank):
    data = tutorial.Cifar10(job.folder, "train")
    sampler = DistributedSampler(data, job.ranks, rank, shuffle=job.shuffle, seed=job.data_seed)
    loader = DataLoader(data, batch_size=job.global_batch // job.ranks, sampler=sampler)
    net = tutorial.initial_net(job.seed)
    ddp = DistributedDataParallel(net)
    optimizer = torch.optim.SGD(
        ddp.parameters(), lr=job.lr, momentum=job.momentum, nesterov=job.nesterov, weight_decay=job.weight_decay
    )
    criterion = nn.CrossEntropyLoss()

    losses = []
    for epoch in range(job.epochs):
        sampler.set_epoch(epoch)
        for images, labels in loader:
            if job.max_steps and len(losses) == job.max_steps:
                break
            optimizer.zero_grad()
            loss = criterion(ddp(images), labels)
            loss.backward()
            optimizer.step()
            mean = loss.detach().double()
            dist.all_reduce(mean)
            losses.append(mean.item() / job.ranks)
    return Outcome(tutorial.weights_md5(net.parameters()), losses)
