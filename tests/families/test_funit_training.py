"""FUNIT in training: losses, augmentation, and that it learns."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fsgen.families.funit.family import FUNIT, Recipe, TranslatedImages
from fsgen.interfaces import Inputs, Networks, Spec, StepContext

FAMILY = FUNIT()
CLASSES = 3


class Data:
    """Labelled images as a training loop must draw them."""

    def __init__(self, images: Tensor, labels: Tensor, k: int = 1) -> None:
        self.images, self.labels, self.k = images, labels, k

    def draw(self, n: int, rng: torch.Generator) -> Inputs:
        """n contents, and for each k images of a class of its own, any class; all with their labels."""
        labels = torch.randint(CLASSES, (2, n), generator=rng)
        content = self._of(labels[0], rng)
        style = torch.stack([self._of(labels[1], rng) for _ in range(self.k)], dim=1)
        content_y, y = torch.nn.functional.one_hot(labels, CLASSES).float()
        return Inputs(content=content, content_y=content_y, style=style, y=y)

    def real_images(self, inputs: Inputs, rng: torch.Generator) -> Tensor:
        """Images of the classes translated to."""
        return self._of(inputs.y.argmax(dim=1), rng)

    def _of(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        rows = [torch.nonzero(self.labels == k).flatten() for k in labels]
        return torch.stack([self.images[r[torch.randint(len(r), [], generator=rng)]] for r in rows])


def data(side: int = 32, n: int = 24, k: int = 1) -> Data:
    """Squares somewhere, each class of a colour of its own."""
    rng, labels = torch.Generator().manual_seed(0), torch.arange(n) % CLASSES
    images = torch.full((n, 3, side, side), -0.8)
    for i in range(n):
        top, left = torch.randint(side - 12, (2,), generator=rng).tolist()
        images[i, labels[i], top : top + 12, left : left + 12] = 0.8
    return Data(images, labels, k)


def nets(changes: Spec | None = None) -> Networks:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FAMILY.build(FAMILY.fresh(32, 3, CLASSES, width=3) | (changes or {}))


def as_it_is(images: Tensor, who: str) -> Tensor:
    return images


def context(
    pair: Networks, source: Data, seed: int = 1, n: int = 4, recipe: Recipe | None = None,
    augment: Callable[[Tensor, str], Tensor] = as_it_is,
) -> StepContext:  # fmt: skip
    rng = torch.Generator().manual_seed(seed)
    inputs = source.draw(n, rng)
    return StepContext(
        g=pair.g, d=pair.d, recipe=recipe or Recipe(), real_images=source.real_images(inputs, rng),
        inputs=inputs, draw=source.draw, augment=augment, rng=lambda purpose: rng, scalars={},
    )  # fmt: skip


def fakes(at: StepContext) -> TranslatedImages:
    return FAMILY.fakes(at.g, at.inputs, at.recipe, torch.Generator())


def test_the_discriminator_loss_is_the_hinge_of_own_classes_and_the_penalty_on_real_images():
    pair = nets()
    at = context(pair, data())
    made = fakes(at)
    terms = FAMILY.discriminator_loss(at, made)
    labels = at.inputs.y.argmax(dim=1)
    real_images = at.real_images.clone().requires_grad_()
    real, fake = (
        torch.stack([maps[i, k] for i, k in enumerate(labels)])
        for maps in (pair.d.head(pair.d.last_features(x)) for x in (real_images, made.images))
    )
    torch.testing.assert_close(terms["d"], (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean())
    (gradient,) = torch.autograd.grad(real.mean(), real_images)
    torch.testing.assert_close(terms["penalty"], 10 * gradient.square().sum() / len(real_images))
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in pair.d.parameters())


def test_weights_of_the_discriminator_terms():
    at = context(nets(), data())
    half = context(nets(), data(), recipe=Recipe(adversarial=0.5, penalty=0))
    torch.testing.assert_close(
        FAMILY.discriminator_loss(half, fakes(half)), {"d": FAMILY.discriminator_loss(at, fakes(at))["d"] / 2}
    )


@pytest.mark.parametrize("k", [1, 3])
def test_the_generator_descends_on_four_terms(k):
    pair = nets()
    recipe = Recipe(adversarial=2.0, reconstruction=0.3, matching=0.7)
    at = context(pair, data(k=k), recipe=recipe)
    made, inputs = fakes(at), at.inputs
    assert torch.equal(made.images, pair.g(inputs)) and inputs.style.shape[:2] == (4, k)
    rebuilt = torch.cat([
        pair.g(Inputs(content=inputs.content[i : i + 1], style=inputs.content[None, i : i + 1]))
        for i in range(4)
    ])  # fmt: skip

    def pooled(images: Tensor) -> Tensor:
        return pair.d.last_features(images).mean(dim=(2, 3))

    logits = pair.d(made.images, inputs), pair.d(rebuilt, Inputs(y=inputs.content_y))
    style = torch.stack([pooled(inputs.style[i]).mean(dim=0) for i in range(4)])
    torch.testing.assert_close(FAMILY.generator_loss(at, made), {
        "g": -2.0 * (logits[0].mean() + logits[1].mean()) / 2,
        "reconstruction": 0.3 * (rebuilt - inputs.content).abs().mean(),
        "matching_content": 0.7 * (pooled(rebuilt) - pooled(inputs.content)).abs().mean(),
        "matching_style": 0.7 * (pooled(made.images) - style).abs().mean(),
    }, rtol=1e-4, atol=1e-6)  # fmt: skip


def test_each_part_of_the_generator_is_trained_and_the_discriminator_is_not():
    pair = nets()
    pair.d.requires_grad_(False)
    at = context(pair, data())
    sum(FAMILY.generator_loss(at, fakes(at)).values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.g.parameters())
    assert {name for name, p in pair.g.named_parameters() if not p.grad.abs().sum()} == set()
    assert all(p.grad is None for p in pair.d.parameters())


def test_compared_images_are_augmented_alike():
    shown: list[tuple[str, Tensor]] = []

    def augment(images: Tensor, who: str) -> Tensor:
        shown.append((who, images))
        return -images

    at = context(nets(), data(), augment=augment)
    made = fakes(at)
    FAMILY.discriminator_loss(at, made)
    assert [who for who, _ in shown] == ["real", "fake_d"]
    assert torch.equal(shown[0][1], at.real_images) and torch.equal(shown[1][1], made.images)
    shown.clear()
    plain = FAMILY.generator_loss(context(nets(), data()), made)
    turned = FAMILY.generator_loss(at, made)
    assert {who for who, _ in shown} == {"fake_g"} and len(shown) == 4
    assert torch.equal(plain["reconstruction"], turned["reconstruction"])  # of images that are not augmented
    assert not torch.allclose(plain["matching_style"], turned["matching_style"])


def test_small_losses():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-2.0, 0.5]])
    assert FAMILY.loss_d(real, fake).item() == pytest.approx(0.25 + 0.75)
    assert FAMILY.loss_g(fake).item() == pytest.approx(0.75)
    assert FAMILY.log_likelihood(torch.cat([real, fake])).tolist() == pytest.approx([1.25, -0.75])
    assert FAMILY.regularise(context(nets(), data()), "d", 0) == {}


SMALL = {
    "content_widths": [6, 12], "content_blocks": 1, "class_widths": [6, 12, 12], "latent_dim": 8,
    "mlp_widths": [32], "decoder_blocks": 1, "decoder_widths": [6], "d_widths": [6, 12, 24],
}  # fmt: skip


def test_a_few_steps_of_the_published_optimiser_rebuild_contents_better():
    pair, source, recipe = nets(SMALL), data(side=24), Recipe(lr=5e-4, reconstruction=10.0)
    steps = {
        name: FAMILY.optimiser(list(net.parameters()), recipe, name) for name, net in pair._asdict().items()
    }
    errors = []
    for step in range(25):
        for name, loss in (("d", FAMILY.discriminator_loss), ("g", FAMILY.generator_loss)):
            pair.g.requires_grad_(name == "g"), pair.d.requires_grad_(name == "d")
            at = context(pair, source, seed=2 * step + (name == "g"), recipe=recipe)
            terms = loss(at, fakes(at))
            steps[name].zero_grad()
            sum(terms.values()).backward()
            steps[name].step()
        errors.append(terms["reconstruction"].item())
    assert sum(errors[-5:]) < 0.6 * sum(errors[:5])
