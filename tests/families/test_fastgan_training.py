"""FastGAN in training: what each player descends on, the Fisher, the end of it, a run cut in two."""

from __future__ import annotations

import pytest
import torch
from tiny import SPECS

from fsgen import rng as random
from fsgen.families.fastgan import networks
from fsgen.families.fastgan.family import FastGAN, Recipe
from fsgen.interfaces import Inputs, Networks, Spec, StepContext
from fsgen.nn import per_sample_fisher
from fsgen.nn.spectral_norm import SpectralConv
from fsgen.training import loop
from fsgen.training.adapt import technique_of

FAMILY = FastGAN()
TINY: Spec = SPECS["fastgan"]


def nets(spec: Spec = TINY, seed: int = 0) -> Networks:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FAMILY.build(spec)


def context(d: torch.nn.Module, step: int = 0, **changes: object) -> StepContext:
    """A step on fixed real images without augmentation."""
    real_images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    settings = {
        "g": None, "d": d, "recipe": Recipe(), "real_images": real_images, "inputs": Inputs(),
        "draw": None,
        "augment": lambda images, who: images, "rng": lambda purpose: random.generator(0, purpose, step),
        "scalars": {},
    }  # fmt: skip
    return StepContext(**settings | changes)


def fakes(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(2)
    return torch.randn(n, 3, 64, 64, generator=rng), torch.randn(n, 3, 32, 32, generator=rng)


def test_the_discriminator_loss_trains_all_decoders_and_each_term_counts():
    d = nets().d.train()
    terms = FAMILY.discriminator_loss(context(d), fakes())
    assert terms.keys() == {"d", "reconstruction_l1"}
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in d.parameters())


def test_without_reconstruction_the_decoders_rest():
    d = nets().d.train()
    terms = FAMILY.discriminator_loss(context(d, recipe=Recipe(reconstruction=0)), fakes())
    assert terms.keys() == {"d"}
    terms["d"].backward()
    assert {key.split(".")[0] for key, p in d.named_parameters() if p.grad is None} == {
        "decode_big", "decode_small", "decode_part"
    }  # fmt: skip


def test_the_discriminator_loss_is_the_hinge_with_drawn_margins_and_the_decoders_distances():
    d = nets().d.eval()  # nothing moves between two passes
    at, made = context(d, recipe=Recipe(reconstruction=0.5)), fakes()
    terms = FAMILY.discriminator_loss(at, made)

    def margins(purpose: str) -> torch.Tensor:
        return 0.8 + 0.2 * torch.rand(4, 50, generator=at.rng(purpose))

    real, fake = (margins("margins real") - d(at.real_images)), (margins("margins fake") + d(made))
    torch.testing.assert_close(terms["d"], real.clamp(min=0).mean() + fake.clamp(min=0).mean())
    assert margins("margins real").min() >= 0.8 and margins("margins real").max() < 1

    part = int(torch.randint(4, [], generator=at.rng("part")))
    rebuilt = d.reconstruct(d.encode(at.real_images), part)
    whole = at.real_images[:, :, ::2, ::2]  # 64 px to 32 by nearest neighbours
    targets = (whole, whole, networks.quadrant(at.real_images, part))
    distance = sum((a - b).abs().mean(dim=(1, 2, 3)).sum() for a, b in zip(rebuilt, targets, strict=True))
    torch.testing.assert_close(terms["reconstruction_l1"], 0.5 * distance)


def test_a_perceptual_distance_is_used_where_there_is_one_and_named():
    seen = []

    def lpips(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append((a.shape, b.shape))
        return (a - b).square().mean(dim=(1, 2, 3))

    grey = nets(TINY | {"channels": 1}).d.train()
    at = context(grey, perceptual=lpips, real_images=torch.rand(4, 1, 64, 64))
    terms = FAMILY.discriminator_loss(at, tuple(x[:, :1] for x in fakes()))
    assert terms.keys() == {"d", "reconstruction_lpips"}
    assert seen == [((4, 3, 32, 32), (4, 3, 32, 32))] * 3


def test_decoders_are_compared_with_the_augmented_images():
    d = nets().d.eval()
    plain = FAMILY.discriminator_loss(context(d), fakes())
    same = FAMILY.discriminator_loss(context(d), fakes())
    turned = FAMILY.discriminator_loss(context(d, augment=lambda x, who: -x if who == "real" else x), fakes())
    assert torch.equal(plain["reconstruction_l1"], same["reconstruction_l1"])  # of the step, not of the day
    assert not torch.allclose(plain["reconstruction_l1"], turned["reconstruction_l1"])
    parts = {int(torch.randint(4, [], generator=context(d, step).rng("part"))) for step in range(40)}
    assert parts == {0, 1, 2, 3}


def test_the_generator_learns_through_both_of_its_pictures():
    g, d = nets()
    g.train(), d.train().requires_grad_(False)
    made = FAMILY.fakes(g, g.draw(4, torch.Generator().manual_seed(3)), Recipe(), torch.Generator())
    asked = []

    def augment(images: torch.Tensor, who: str) -> torch.Tensor:
        asked.append((who, images.shape[-1]))
        return images

    loss = FAMILY.generator_loss(context(d, augment=augment), made)["g"]
    loss.backward()
    assert asked == [("fake_g", 64), ("fake_g", 32)]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in g.parameters())
    assert g.rgb32.weight.grad.abs().sum() > 0


def test_small_losses():
    real, fake = torch.tensor([[2.0, 0.5]]), torch.tensor([[-2.0, 0.5]])
    assert FAMILY.loss_d(real, fake).item() == pytest.approx(0.2 + 0.7)
    assert FAMILY.loss_g(fake).item() == pytest.approx(0.75)
    assert FAMILY.log_likelihood(torch.cat([real, fake])).tolist() == pytest.approx([1.25, -0.75])
    assert FAMILY.regularise(context(nets().d), "d", 0) == {}


def test_the_vectorised_fisher_is_the_one_by_loop():
    g, d = (net.eval() for net in nets())
    for module in g.modules():
        if isinstance(module, networks.ConvGLU) and module.noisy:
            module.noise_strength.data.fill_(0.3)
    inputs = g.draw(3, torch.Generator().manual_seed(0))

    def likelihood(image: torch.Tensor, one: Inputs, draw: None) -> torch.Tensor:
        return FAMILY.log_likelihood(d(image)).sum()

    fast = per_sample_fisher.diagonal(g, likelihood, [(inputs, None)])
    slow = per_sample_fisher.diagonal_by_loop(g, likelihood, [(inputs, None)])
    for name, value in slow.items():
        assert name.startswith("rgb32") or value.sum() > 0, (
            name
        )  # the small picture is only shown in training
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=1e-5 * value.max().item())


def test_refreshed_statistics_fit_the_weights():
    g = nets().g.eval()
    with torch.no_grad():
        for module in g.modules():
            if isinstance(module, SpectralConv):
                module.weight.add_(
                    0.5 * torch.randn(module.weight.shape, generator=torch.Generator().manual_seed(4))
                )
    FAMILY.refresh_statistics(g, g.draw)
    inside = []
    g.b32[0].norm.register_forward_hook(lambda module, x, out: inside.append(out))
    with torch.no_grad():
        g(g.draw(256, torch.Generator().manual_seed(5)))
    assert inside[0].mean(dim=(0, 2, 3)).abs().max() < 0.2
    assert (inside[0].std(dim=(0, 2, 3)) - 1).abs().max() < 0.2
    for module in g.modules():
        if isinstance(module, SpectralConv):
            sigma = torch.dot(module.u, module.matrix @ module.v)
            assert torch.linalg.matrix_norm(module.matrix / sigma, 2).item() == pytest.approx(1, abs=0.05)
    assert not g.training and not any(module.training for module in g.modules())


@pytest.mark.parametrize("cut", [1, 3])
def test_a_run_cut_in_two_is_the_run_in_one_piece(one_thread, cut):
    def train(steps: int, start: loop.TrainingState | None = None) -> loop.TrainingState:
        state = loop.begin(FAMILY, *nets(), Recipe(batch=2))
        if start is not None:
            for name in ("g", "d", "g_ema", "opt_g", "opt_d"):
                getattr(state, name).load_state_dict(getattr(start, name).state_dict())
            state.step = start.step
        loop.train_steps(
            state, family=FAMILY, methods=technique_of("diffaugment", {}), recipe=Recipe(batch=2), seed=0,
            real_batches=lambda n, rng, inputs: torch.rand(n, 3, 64, 64, generator=rng) * 2 - 1, steps=steps,
        )  # fmt: skip
        return state

    whole, halves = train(4), train(4, train(cut))
    for name in ("g", "d", "g_ema"):
        found = getattr(halves, name).state_dict()
        assert all(torch.equal(value, found[key]) for key, value in getattr(whole, name).state_dict().items())
