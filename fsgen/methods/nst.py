"""Neural style transfer (Gatys et al. 2016), the plainest baseline: the source's pictures, restyled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsgen.errors import FsgenError
from fsgen.interfaces import Method, MethodContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CONTENT = "conv4_2"
STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")  # of equal weight
PUBLISHED = 512  # px: about the side of the paper's pictures


class NST(Method):
    """L = alpha L_content + beta L_style (equations 1, 4, 5 and 7), descended on by the pixels, by L-BFGS.

    The network is VGG16 as it was trained; the paper's is VGG19, each map scaled to a mean of one. The ratio
    is the paper's all the same. A picture starts as the source's own.
    """

    name = "nst"
    summary = "redraw the source's pictures in the style of one image, chosen at random"
    paper = "Gatys et al. 2016, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016"
    trained = "nothing"
    licence = "MIT"
    needs = frozenset({"latent"})
    adapts = True
    conditions = True
    redraws = True

    @dataclass(frozen=True)
    class Options:
        pictures: int = field(default=32, metadata={"help": "How many, of the seeds from 0 on."})
        steps: int = field(default=100, metadata={"help": "Steps of L-BFGS on each."})
        ratio: float = field(default=1e-3, metadata={"help": "The weight of content over that of style."})

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        if self.options.pictures < 1 or self.options.steps < 1:
            raise FsgenError("--nst-pictures and --nst-steps are whole numbers of at least 1")
        if not 0 <= self.options.ratio < float("inf"):
            raise FsgenError(f"--nst-ratio {self.options.ratio} is not a number of at least 0")

    def enter(self, context: MethodContext) -> None:
        self.vgg = context.vgg([CONTENT, *STYLE], average=True)

    def redraw(
        self, image: Tensor, after: Tensor, told: Callable[[], None]
    ) -> tuple[Tensor, dict[str, float]]:
        """``image`` of the source as one of the target's, and the two losses, weighted, at the last look.

        Args:
            image, after: [1, C, H, W] in [-1, 1]; what is drawn, and whose style it is given.
            told: called at each look of the network.
        """
        import torch

        with torch.no_grad():
            wanted, styles = self.vgg(image)[CONTENT], grams(self.vgg(after))
        # The content's sum grows with the pixels, the style's does not: the paper's ratio is for its size.
        alpha = self.options.ratio * (PUBLISHED / image.shape[-1]) ** 2
        picture, losses = image.clone().requires_grad_(), {}
        optimiser = torch.optim.LBFGS(
            [picture], max_iter=self.options.steps, tolerance_grad=0, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def loss() -> Tensor:
            told()
            optimiser.zero_grad()
            maps = self.vgg(picture)
            terms = {"content": alpha * content(maps[CONTENT], wanted), "style": style(grams(maps), styles)}
            losses.update({name: term.item() for name, term in terms.items()})
            total = sum(terms.values())
            total.backward()
            return total

        optimiser.step(loss)
        return picture.detach().clamp(-1, 1), losses


def content(ours: Tensor, theirs: Tensor) -> Tensor:
    """Equation 1: half the squared difference of two maps."""
    return (ours - theirs).square().sum() / 2


def grams(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Equation 3, G_ij = sum_k F_ik F_jk over positions k, [C, C], over their number: of each style layer's
    map, [1, C, h, w]."""
    flat = {layer: maps[layer].flatten(2)[0] for layer in STYLE}
    return {layer: f @ f.T / f.shape[1] for layer, f in flat.items()}


def style(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
    """Equations 4 and 5: the mean over layers of sum_ij (G_ij - A_ij)^2 / (4 C^2)."""
    return sum((ours[layer] - gram).square().mean() / 4 for layer, gram in theirs.items()) / len(theirs)
