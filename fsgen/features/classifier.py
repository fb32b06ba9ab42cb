"""A small image classifier that measures whether a conditional generator draws the class it is given.

The only network trained outside the training loop: it is a measuring instrument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fsgen.errors import Code, FsgenError
from fsgen.rng import generator

WIDTH = 32  # channels of the first block
SMALLEST = 8  # px a side: two blocks halve the image


@dataclass(frozen=True)
class Classifier:
    """A trained network with its accuracy on test images."""

    network: nn.Module  # uint8 [n, C, H, W] -> logits [n, classes]
    accuracy: float  # on the test images, 0..1
    test_indices: Tensor  # rows of the images it was not trained on, int64 [m]


class ClassifierNetwork(nn.Module):
    """Two blocks of two 3x3 convolutions, each halving the image; a linear layer on 4 x 4 pooled maps."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (WIDTH, 2 * WIDTH):
            for _ in range(2):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)
        self.out = nn.Linear(16 * channels, classes)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 [n, C, H, W] -> logits [n, classes]."""
        x = self.layers(images.float() / 127.5 - 1)
        return self.out(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1))


def fit_classifier(
    images: Tensor, labels: Tensor, *, test_share: float = 0.2, steps: int = 500, batch: int = 64,
    seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Classifier:  # fmt: skip
    """Train a classifier on a part of ``images`` and measure its accuracy on the rest.

    Equal seeds give equal networks on the same machine. Training images are shifted by up to a pixel.

    Args:
        images: uint8 [n, C, H, W] of at least 8 px, on any device; the classifier runs there.
        labels: integers from 0, [n]; each class needs at least 2 images.
        test_share: share of each class's images that is kept for testing.
        steps: of Adam, whose learning rate falls from 0.002 to 0 along a cosine.
        batch: images a step.
        seed: of the split, the initial weights and the batches.
        progress: called with the number of steps done and in all.

    Raises:
        FsgenError: not one label an image, images too small, or a class with too few images.
    """
    _check(images, labels)
    test = _split(labels.cpu(), test_share, seed)  # on the CPU a mask fits tensors of any device
    training, targets = images[~test], labels[~test].to(images.device).long()
    network = _untrained(images.shape[1], int(labels.max()) + 1, seed).to(images.device)
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        rng = generator(seed, "classifier", step)
        rows = torch.randint(len(training), (batch,), generator=rng).to(images.device)
        loss = nn.functional.cross_entropy(network(_shift(training[rows], rng)), targets[rows])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        progress(step + 1, steps)
    network.eval().requires_grad_(False)
    return Classifier(network, accuracy(network, images[test], labels[test]), test.nonzero().flatten())


@torch.no_grad()
def logits(network: nn.Module, images: Tensor, *, batch: int = 256) -> Tensor:
    """Compute logits, float32 [n, classes] on the CPU, of uint8 ``images`` [n, C, H, W]."""
    device = next(network.parameters()).device
    return torch.cat([network(part.to(device)).cpu() for part in images.split(batch)])


def predictions(network: nn.Module, images: Tensor, *, batch: int = 256) -> Tensor:
    """Return the likeliest class, int64 [n] on the CPU, of each of uint8 ``images`` [n, C, H, W]."""
    return logits(network, images, batch=batch).argmax(dim=1)


def in_top(logits: Tensor, labels: Tensor, top: int) -> Tensor:
    """Return which labels [n] are among the ``top`` highest of their logits [n, classes]: bool [n]."""
    likeliest = logits.topk(min(top, logits.shape[1])).indices
    return (likeliest == labels[:, None]).any(dim=1)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share (0..1) of uint8 ``images`` [n, C, H, W] whose likeliest class is their label [n]."""
    return (predictions(network, images) == labels.cpu()).double().mean().item()


def _untrained(channels: int, classes: int, seed: int) -> ClassifierNetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClassifierNetwork(channels, classes)


def _split(labels: Tensor, test_share: float, seed: int) -> Tensor:
    """Choose the test images, bool [n]: the same share of each class, at least one."""
    rng = generator(seed, "held out")
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        rows = (labels == label).nonzero().flatten()
        if len(rows) < 2:
            raise FsgenError(
                f"class {label} has {len(rows)} images",
                code=Code.TOO_FEW, where=f"class {label}", hint="a classifier needs at least 2 of each class",
            )  # fmt: skip
        count = min(len(rows) - 1, max(1, round(test_share * len(rows))))
        test[rows[torch.randperm(len(rows), generator=rng)[:count]]] = True
    return test


def _shift(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift the whole batch by up to a pixel each way, repeating its border."""
    height, width = images.shape[2:]
    y, x = torch.randint(3, (2,), generator=rng).tolist()
    padded = nn.functional.pad(images.float(), (1, 1, 1, 1), mode="replicate").to(images.dtype)
    return padded[:, :, y : y + height, x : x + width]


def _check(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise ValueError(f"expected uint8 images [n, C, H, W], got {images.dtype} {list(images.shape)}")
    if (smallest := min(images.shape[2:])) < SMALLEST:
        raise FsgenError(
            f"a classifier needs images of at least {SMALLEST} px a side, got {smallest}",
            code=Code.INCOMPATIBLE, where=smallest,
        )  # fmt: skip
    if len(labels) != len(images) or labels.is_floating_point() or (len(labels) and labels.min() < 0):
        raise FsgenError(
            f"{len(images)} images need a class number from 0 each, got {len(labels)} labels",
            code=Code.INCOMPATIBLE, where="labels",
        )  # fmt: skip
    if len(labels.unique()) < 2:
        raise FsgenError("a classifier needs images of at least 2 classes", code=Code.TOO_FEW, where="labels")
