"""airbench94 and Muon in Python, after Keller Jordan's description (arXiv:2404.00498, kellerjordan.github.io/posts/muon): what Lockstep
must equal, in float32.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Group(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after, eps=1e-12, momentum=0.4)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after, eps=1e-12, momentum=0.4)
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)

    def forward(self, x):
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Airbench94(nn.Module):
    def __init__(self):
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        self.group1, self.group2, self.group3 = Group(24, 64), Group(64, 256), Group(256, 256)
        self.head = nn.Linear(256, 10, bias=False)

    def forward(self, images):
        x = F.gelu(self.whiten(images))
        x = F.max_pool2d(self.group3(self.group2(self.group1(x))), 3)
        return self.head(x.flatten(1)) / 256

    def set_passes_per_step(self, passes):
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1 - 0.6 ** (1 / passes)


def initial_net(seed):
    """As made, before the whitening: drawn in the order of the layers."""
    torch.manual_seed(seed)
    net = Airbench94()
    with torch.no_grad():
        for group in (net.group1, net.group2, net.group3):
            for conv in (group.conv1, group.conv2):
                nn.init.dirac_(conv.weight[: conv.in_channels])
        net.head.weight.div_(net.head.weight.std())
    return net


def whitening(images):
    """The first 12 of the 24 whitening filters; the others are their negatives."""
    patches = F.unfold(images.double(), 2).transpose(1, 2).reshape(-1, 12)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return (vectors / torch.sqrt(values + 5e-4)).T.reshape(12, 3, 2, 2)


def orthogonalise(matrix, steps=3):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / matrix.norm()
    if x.shape[0] > x.shape[1]:
        return orthogonalise(matrix.T, steps).T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


class Muon(torch.optim.Optimizer):
    def __init__(self, filters, lr, momentum):
        super().__init__(filters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for filters in group["params"]:
                momentum = self.state[filters].setdefault("momentum", torch.zeros_like(filters))
                momentum.mul_(group["momentum"]).add_(filters.grad)
                nesterov = filters.grad + group["momentum"] * momentum
                filters.mul_(len(filters) ** 0.5 / filters.norm())
                filters.sub_(orthogonalise(nesterov.reshape(len(filters), -1)).reshape(filters.shape), alpha=group["lr"])


def train(net, images, labels, steps, batch, passes, total_steps, whiten_steps, lr, bias_lr, head_lr, decay):
    """Trains on images in their order; gives the loss of each step. Rates fall linearly, the whitening bias's in whiten_steps."""
    net.set_passes_per_step(passes)
    net.train()
    filters = [p for p in net.parameters() if p.dim() == 4 and p.requires_grad]
    biases = [p for name, p in net.named_parameters() if "norm" in name and p.requires_grad]
    groups = [
        {"params": [net.whiten.bias], "lr": bias_lr, "weight_decay": decay / bias_lr},
        {"params": biases, "lr": bias_lr, "weight_decay": decay / bias_lr},
        {"params": [net.head.weight], "lr": head_lr, "weight_decay": decay / head_lr},
    ]
    sgd = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    muon = Muon(filters, lr, 0.6)
    peaks = [group["lr"] for group in sgd.param_groups + muon.param_groups]
    losses = []
    for step in range(steps):
        for group, peak in zip(sgd.param_groups + muon.param_groups, peaks):
            group["lr"] = peak * (1 - step / total_steps)
        sgd.param_groups[0]["lr"] = peaks[0] * max(0, 1 - step / whiten_steps)
        net.zero_grad()
        loss_sum = 0.0
        first = step * batch % len(images)
        for part in range(passes):
            mine = slice(first + part * batch // passes, first + (part + 1) * batch // passes)
            loss = F.cross_entropy(net(images[mine]), labels[mine]) / passes
            loss.backward()
            loss_sum += loss.item()
        sgd.step()
        muon.step()
        losses.append(loss_sum)
    return losses


@torch.no_grad()
def tta_logits(net, images):
    """Half from the image and its mirror image, half from the same of the two diagonal shifts by a pixel."""

    def mirrored(x):
        return (net(x) + net(x.flip(3))) / 2

    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    return mirrored(images) / 2 + (mirrored(padded[:, :, :32, :32]) + mirrored(padded[:, :, 2:, 2:])) / 4
