"""Neural style transfer (Gatys et al. 2016), the plainest baseline: the source's images in another style."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fsgen.config import check_range
from fsgen.interfaces import MethodContext, TrainingFree, Trait

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

CONTENT = "conv4_2"
STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")  # of equal weight
PUBLISHED = 512  # px: about the side of the paper's images


@dataclass(frozen=True)
class StyleTransferOptions:
    pictures: int = field(default=32, metadata={"help": "Number of images, of the seeds from 0 on."})
    steps: int = field(default=100, metadata={"help": "Steps of L-BFGS on each."})
    ratio: float = field(default=1e-3, metadata={"help": "Weight of content over that of style."})


class StyleTransfer(TrainingFree[StyleTransferOptions]):
    """L = alpha L_content + beta L_style (equations 1, 4, 5 and 7), minimised over the pixels by L-BFGS.

    The network is VGG16 as trained; the paper's is VGG19, each map scaled to a mean of one. The ratio is the
    paper's all the same. Each image starts as the source's own.
    """

    name = "nst"
    summary = "redraw the source's images in the style of one shot, chosen at random"
    paper = "Gatys et al. 2016, Image Style Transfer Using Convolutional Neural Networks, CVPR 2016"
    licence = "MIT"
    needs = frozenset({Trait.LATENT})
    Options = StyleTransferOptions

    def __init__(self, options: StyleTransferOptions | None = None) -> None:
        super().__init__(options)
        check_range("--nst-pictures", self.options.pictures, 1)
        check_range("--nst-steps", self.options.steps, 1)
        check_range("--nst-ratio", self.options.ratio, 0)

    def setup(self, context: MethodContext) -> None:
        """Load VGG16."""
        self.vgg = context.frozen_network("vgg16", layers=[CONTENT, *STYLE], average=True)

    def redraw(
        self, image: Tensor, target: Tensor, progress: Callable[[], None]
    ) -> tuple[Tensor, dict[str, float]]:
        """Redraw ``image`` in the style of ``target``; also return both weighted losses of the last step.

        Args:
            image, target: [1, C, H, W] in [-1, 1].
            progress: called before each forward pass.
        """
        import torch

        with torch.no_grad():
            wanted, styles = self.vgg(image)[CONTENT], grams(self.vgg(target))
        # The content's sum grows with the pixels, the style's does not: the paper's ratio is for its size.
        alpha = self.options.ratio * (PUBLISHED / image.shape[-1]) ** 2
        pixels = image.clone().requires_grad_()
        losses: dict[str, float] = {}
        optimiser = torch.optim.LBFGS(
            [pixels], max_iter=self.options.steps, tolerance_grad=0, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def loss() -> Tensor:
            progress()
            optimiser.zero_grad()
            maps = self.vgg(pixels)
            terms = {"content": alpha * content(maps[CONTENT], wanted), "style": style(grams(maps), styles)}
            losses.update({name: term.item() for name, term in terms.items()})
            total = terms["content"] + terms["style"]
            total.backward()
            return total

        optimiser.step(loss)  # type: ignore[arg-type]  # torch annotates the closure as returning float
        return pixels.detach().clamp(-1, 1), losses


def content(ours: Tensor, theirs: Tensor) -> Tensor:
    """Equation 1: half the squared difference of two maps."""
    return (ours - theirs).square().sum() / 2


def grams(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Equation 3, G_ij = sum_k F_ik F_jk over the positions k, divided by their number, for each style layer.

    Args:
        maps: [1, C, h, w] by layer.

    Returns:
        [C, C] by layer.
    """
    flat = {layer: maps[layer].flatten(2)[0] for layer in STYLE}
    return {layer: f @ f.T / f.shape[1] for layer, f in flat.items()}


def style(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> Tensor:
    """Equations 4 and 5: the mean over layers of sum_ij (G_ij - A_ij)^2 / (4 C^2)."""
    import torch

    terms = ((ours[layer] - gram).square().mean() / 4 for layer, gram in theirs.items())
    return sum(terms, torch.zeros([])) / len(theirs)
