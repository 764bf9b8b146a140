"""The tutorial's network trained in Python, as one process or as a rank of torchrun; says as JSON lines how it went.

    python pytorch_training.py --data-dir DIR --loop tutorial --warm-up 100 --steps 300
    python -m torch.distributed.run --standalone --nproc-per-node 2 pytorch_training.py …

tutorial   what the tutorial does: a data set of PIL images, made into tensors one by one, through a DataLoader
tuned      what a person who knows PyTorch does: images in memory as tensors, batches cut out of them, channels_last, fused SGD,
           gradients as views of DDP's buckets, ranks with a core each
compiled   the same with network and loss by torch.compile
graphed    on one GPU: the tuned step recorded once as a CUDA graph and replayed

With --device cuda everything is on GPUs, one for each rank, by NCCL; float32 is float32 (no TF32), in the default layout, which is the
faster one there.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import time

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "parity"))
from tutorial import TutorialNet

RECORD_BYTES = 1 + 3 * 32 * 32
RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", "0"))


def say(event, **values):
    if RANK == 0:
        print(json.dumps({"event": event, "time": time.time(), **values}), flush=True)


def read_split(folder, split):
    """Images as uint8 [n, 32, 32, 3] and labels as int64 [n], from the binary files."""
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    root = pathlib.Path(folder)
    if not (root / names[0]).exists():
        root = root / "cifar-10-batches-bin"
    records = np.concatenate([np.fromfile(root / name, np.uint8).reshape(-1, RECORD_BYTES) for name in names])
    images = np.ascontiguousarray(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, records[:, 0].astype(np.int64)


def to_tensor(picture):
    """As torchvision's ToTensor: float32 [3, height, width] in [0, 1]."""
    pixels = torch.from_numpy(np.array(picture, np.uint8, copy=True))
    return pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)


class Pictures(Dataset):
    """As torchvision's CIFAR10 with ToTensor."""

    def __init__(self, folder, split):
        images, labels = read_split(folder, split)
        self.images, self.labels = images, labels.tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return to_tensor(Image.fromarray(self.images[index])), self.labels[index]


def make_net():
    return TutorialNet().model


class TutorialLoop:
    """`epoch(i)` gives the batches of an epoch, `step(images, labels)` trains on one and gives the loss."""

    def __init__(self, options):
        data = Pictures(options.data_dir, "train")
        # Lockstep's order of images.
        self.sampler = DistributedSampler(data, RANKS, RANK, shuffle=True, seed=options.seed)
        self.loader = DataLoader(data, batch_size=options.batch, sampler=self.sampler, drop_last=not options.evaluate, num_workers=options.workers)
        self.net = make_net().to(options.device)
        self.model = DistributedDataParallel(self.net) if RANKS > 1 else self.net
        self.device = options.device
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01)

    def epoch(self, index):
        self.sampler.set_epoch(index)
        yield from self.loader

    def step(self, images, labels):
        images, labels = images.to(self.device), labels.to(self.device)
        loss = self.criterion(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


class TunedLoop:
    def __init__(self, options):
        self.options = options
        bf16, gpu = options.precision == "bf16", options.device != "cpu"
        self.channels_last = bf16 or not gpu
        images, labels = read_split(options.data_dir, "train")
        # In the type that the first convolution takes: autocast would round the same numbers the same way, batch by batch.
        self.images = torch.from_numpy(images).to(torch.float32).div_(255).to(torch.bfloat16 if bf16 else torch.float32)
        if not self.channels_last:
            self.images = self.images.permute(0, 3, 1, 2).contiguous()
        self.images, self.labels = self.images.to(options.device), torch.from_numpy(labels).to(options.device)
        self.sampler = DistributedSampler(self.labels, RANKS, RANK, shuffle=True, seed=options.seed)
        self.net = make_net().to(options.device)
        if self.channels_last:
            self.net = self.net.to(memory_format=torch.channels_last)
        self.autocast = (lambda: torch.autocast("cuda" if gpu else "cpu", torch.bfloat16)) if bf16 else contextlib.nullcontext
        self.model = torch.compile(self.net, mode="reduce-overhead" if gpu else None) if options.loop == "compiled" else self.net
        if RANKS > 1:
            self.model = DistributedDataParallel(self.model, gradient_as_bucket_view=True, static_graph=True)
        self.loss = nn.functional.cross_entropy
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.01, fused=True)

    def epoch(self, index):
        self.sampler.set_epoch(index)
        order = torch.tensor(list(self.sampler)).to(self.options.device)
        for chosen in order[: len(order) // self.options.batch * self.options.batch].split(self.options.batch):
            yield self.batch(chosen)

    def batch(self, chosen):
        images = self.images.index_select(0, chosen)
        # [n, 32, 32, 3] seen as [n, 3, 32, 32] is channels_last.
        return images.permute(0, 3, 1, 2) if self.channels_last else images, self.labels.index_select(0, chosen)

    def step(self, images, labels):
        with self.autocast():
            loss = self.loss(self.model(images), labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss


class GraphedLoop(TunedLoop):
    """As PyTorch's documentation records a whole step: eleven steps on a stream beside, then one that is recorded."""

    def __init__(self, options):
        super().__init__(options)
        self.chosen = torch.arange(options.batch, device=options.device)
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(11):
                super().step(*super().batch(self.chosen))
        torch.cuda.current_stream().wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.loss_there = super().step(*super().batch(self.chosen))

    def batch(self, chosen):
        self.chosen.copy_(chosen)
        return chosen, chosen

    def step(self, images, labels):
        self.graph.replay()
        return self.loss_there


def wait_for_all(options):
    if options.device != "cpu":
        torch.cuda.synchronize()
    if RANKS > 1:
        dist.barrier()


def measure(options, loop):
    """Images a second of all ranks over options.steps steps, after options.warm_up."""
    step, images, started = 0, 0, 0.0
    last = options.warm_up + options.steps
    epoch = 0
    while step < last:
        for batch, labels in loop.epoch(epoch):
            loss = loop.step(batch, labels)
            step += 1
            images += len(labels)
            if step == 1:
                say("first_step")
            if step % 100 == 0:
                loss.item()  # the log's
            if step == options.warm_up:
                wait_for_all(options)
                images, started = 0, time.perf_counter()
            if step == last:
                break
        epoch += 1
    wait_for_all(options)
    say("speed", images_per_s=RANKS * images / (time.perf_counter() - started), loss=loss.item())


@torch.no_grad()
def accuracy(net, data, batch):
    net.eval()
    right = sum((net(images).argmax(1) == labels).sum().item() for images, labels in DataLoader(data, batch))
    net.train()
    return right / len(data)


def train_and_test(options, loop):
    test = Pictures(options.data_dir, "test")
    step = 0
    for epoch in range(options.evaluate):
        for images, labels in loop.epoch(epoch):
            loss = loop.step(images, labels)
            step += 1
            if step == 1:
                say("first_step")
            if step % 100 == 0:
                loss.item()
        say("test", epoch=epoch, accuracy=accuracy(loop.net, test, options.batch))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--loop", choices=["tutorial", "tuned", "compiled", "graphed"], default="tutorial")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--deterministic", action="store_true", help="on GPUs only cuDNN's algorithms that give the same bits every time")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--core", nargs="*", default=[], metavar="CPU,CPU", help="one for each rank, to run on")
    parser.add_argument("--workers", type=int, default=0, help="processes of the tutorial's DataLoader")
    parser.add_argument("--batch", type=int, default=64, help="images a step on each rank")
    parser.add_argument("--warm-up", type=int, default=100, help="steps before those that are timed")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", type=int, default=0, metavar="EPOCHS", help="train this long, testing after each epoch")
    options = parser.parse_args()
    if options.core:
        os.sched_setaffinity(0, {int(cpu) for cpu in options.core[RANK].split(",")})
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    say("versions", torch=torch.__version__, cpu_capability=torch.backends.cpu.get_cpu_capability(), threads=torch.get_num_threads())
    if options.device == "cuda":
        options.device = f"cuda:{LOCAL_RANK}"
        torch.cuda.set_device(LOCAL_RANK)
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.deterministic = options.deterministic
    if RANKS > 1:
        dist.init_process_group("gloo" if options.device == "cpu" else "nccl")
    loop = {"tutorial": TutorialLoop, "graphed": GraphedLoop}.get(options.loop, TunedLoop)(options)
    if options.evaluate:
        train_and_test(options, loop)
    else:
        measure(options, loop)
    if RANKS > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
