"""The tutorial in Python: its network, its images, its test loss. What Lockstep must equal."""

import hashlib
import pathlib

import numpy as np
import torch
from torch import nn

RECORD_BYTES = 1 + 3 * 32 * 32


class TutorialNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(1024, 64),
            nn.Linear(64, 10),
        )

    def forward(self, images):
        return self.model(images)


class Cifar10(torch.utils.data.Dataset):
    """A split read from the binary files: images float32 [3, 32, 32] in [0, 1], labels int."""

    def __init__(self, folder, split):
        names = ["test_batch.bin"] if split == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
        self._records = [np.memmap(pathlib.Path(folder, name), np.uint8, "r").reshape(-1, RECORD_BYTES) for name in names]
        self._per_file = len(self._records[0])

    def __len__(self):
        return sum(len(records) for records in self._records)

    def __getitem__(self, index):
        record = self._records[index // self._per_file][index % self._per_file]
        # As torchvision's ToTensor: to float32, then divided by 255.
        image = torch.from_numpy(np.array(record[1:])).view(3, 32, 32).to(torch.float32).div(255)
        return image, int(record[0])


def initial_net(seed):
    torch.manual_seed(seed)
    return TutorialNet()


def load_net(path):
    """A network with the weights of a .pth file, by the safe loader, every name accounted for."""
    net = TutorialNet()
    net.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return net


def weights_md5(tensors):
    """MD5 over the raw little-endian float32 bytes of all tensors, in order."""
    digest = hashlib.md5()
    for tensor in tensors:
        digest.update(tensor.detach().contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


@torch.no_grad()
def evaluate(net, data, batch=64):
    """The tutorial's test loss (sum of batch means), the mean over images, and the fraction of right answers."""
    loss_sum = loss_mean = right = 0.0
    for images, labels in torch.utils.data.DataLoader(data, batch):
        logits = net(images)
        loss = nn.functional.cross_entropy(logits, labels).item()
        loss_sum += loss
        loss_mean += loss * len(labels)
        right += (logits.argmax(1) == labels).sum().item()
    return {"test_loss": loss_sum, "test_loss_mean": loss_mean / len(data), "test_accuracy": right / len(data)}
