"""DCGAN: the public layouts rebuilt from their tables, what is inferred of them, labels, statistics."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from refusals import refused
from safetensors.torch import save_file
from tiny import SPECS
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.errors import Code
from fsgen.families.dcgan import DCGAN, DEPTHS, STATISTICS
from fsgen.importers.pull import import_file
from fsgen.interfaces import Foreign, Inputs
from fsgen.nn.per_sample_fisher import diagonal, diagonal_by_loop

FAMILY = DCGAN()
LABELS = SPECS["dcgan"] | {"c_dim": 3, "g_embed_dim": 4}

# Of each layer: width in units of ngf (0: the picture's channels), kernel, stride, padding.
PUBLISHED_G = {
    64: [(8, 4, 1, 0), (4, 4, 2, 1), (2, 4, 2, 1), (1, 4, 2, 1), (0, 4, 2, 1)],  # pytorch/examples
    32: [(8, 4, 1, 0), (4, 4, 2, 1), (2, 4, 2, 1), (1, 4, 2, 1), (0, 1, 1, 0)],  # csinva, CIFAR-10
    28: [(8, 4, 1, 0), (4, 4, 2, 1), (2, 4, 2, 1), (1, 4, 2, 1), (0, 1, 1, 2)],  # csinva, MNIST
}
PUBLISHED_D = {  # in units of ndf; 0: the logit
    64: [(1, 4, 2, 1), (2, 4, 2, 1), (4, 4, 2, 1), (8, 4, 2, 1), (0, 4, 1, 0)],
    32: [(1, 4, 2, 1), (2, 4, 2, 1), (4, 4, 2, 1), (8, 4, 2, 1), (0, 2, 2, 0)],
    28: [(1, 4, 2, 1), (2, 4, 2, 1), (4, 4, 2, 1), (0, 4, 2, 1)],
}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def perturbed(net: nn.Module, seed: int = 0) -> nn.Module:
    """No parameter or statistic at its initial value; in eval mode."""
    source = rng(seed)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                noise = 0.2 * torch.randn(value.shape, generator=source)
                value.add_(noise.abs() if key.endswith("running_var") else noise)
    return net.eval()


def built(spec):
    return tuple(perturbed(net, i) for i, net in enumerate(FAMILY.build(spec)))


class Published(nn.Module):
    """A network spelled out layer by layer, with the published keys."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def published(size: int, nz: int = 7, ngf: int = 3, ndf: int = 2, nc: int = 3) -> tuple[nn.Module, nn.Module]:
    table = PUBLISHED_G[size]
    widths = [nz, *(ngf * width or nc for width, *_ in table)]
    layers: list[nn.Module] = []
    for (before, after), (last, kernel, stride, padding) in zip(pairwise(widths), table, strict=True):
        layers.append(nn.ConvTranspose2d(before, after, kernel, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(after), nn.ReLU(True)] if last else [nn.Tanh()]
    g = Published(*layers)
    table = PUBLISHED_D[size]
    widths = [nc, *(ndf * width or 1 for width, *_ in table)]
    layers = []
    for i, ((before, after), (last, kernel, stride, padding)) in enumerate(
        zip(pairwise(widths), table, strict=True)
    ):
        layers.append(nn.Conv2d(before, after, kernel, stride, padding, bias=False))
        if last:
            layers += [nn.BatchNorm2d(after)] * (i > 0) + [nn.LeakyReLU(0.2, inplace=True)]
    return perturbed(g, 1), perturbed(Published(*layers, nn.Sigmoid()), 2)


def prefixed(prefix: str, net: nn.Module, old: bool = False) -> dict[str, Tensor]:
    """``old``: as PyTorch before 0.4.1 saved it."""
    return {
        prefix + key: value
        for key, value in net.state_dict().items()
        if not (old and key.endswith("num_batches_tracked"))
    }


# ---- public files ------------------------------------------------------------------------------------------


SHAPES = [
    *((size, {}) for size in PUBLISHED_G),
    (64, {"nz": 100, "ngf": 5, "ndf": 4, "nc": 1}),
    (32, {"nc": 1, "ndf": 1}),
    (28, {"nc": 1, "ngf": 2}),
]


@torch.no_grad()
@pytest.mark.parametrize(("size", "widths"), SHAPES)
def test_public_networks_draw_and_judge_the_same(size, widths):
    g, d = published(size, **widths)
    converted = FAMILY.convert(Foreign("torch", {"G": prefixed("", g), "D": prefixed("", d)}))
    ours_g, ours_d = (net.eval() for net in FAMILY.build(converted.spec))
    ours_g.load_state_dict(converted.g), ours_d.load_state_dict(converted.d)
    z = torch.randn(4, converted.spec["z_dim"], generator=rng())
    images = g(z[:, :, None, None])
    assert images.shape[-1] == converted.spec["resolution"] == size and images.std() > 0.01
    torch.testing.assert_close(ours_g(Inputs(z=z)), images)
    logits = ours_d(images)
    assert logits.shape == (4, 1) and len(logits.unique()) == 4
    torch.testing.assert_close(logits.sigmoid().flatten(), d(images).flatten())
    assert not converted.notes


FILES = {
    "generator alone": lambda g, d: prefixed("", g),
    "DataParallel": lambda g, d: prefixed("module.", g),
    "older than 0.4.1": lambda g, d: prefixed("", g, old=True),
    "both in one dict": lambda g, d: {"generator": prefixed("", g), "discriminator": prefixed("", d)},
    "with optimisers": lambda g, d: {
        "netG": prefixed("module.", g),
        "netD": prefixed("module.", d),
        "optimizerG": torch.optim.Adam(g.parameters()).state_dict(),
        "epoch": 3,
    },
    "prefixes": lambda g, d: prefixed("netG.", g) | prefixed("netD.", d, old=True),
    "an average too": lambda g, d: {
        "netG": prefixed("", g),
        "netG_ema": {key: value + 1 for key, value in prefixed("", g).items()},
        "netD": prefixed("", d),
    },
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", PUBLISHED_G)
def test_files_of_any_make_are_pulled(tmp_path, name, size):
    g, d = published(size, nc=1 if size == 28 else 3)
    held = FILES[name](g, d)
    path = tmp_path / "file.pth"
    torch.save(held, path)
    model, notes = import_file(path, title="x")
    assert model.family.name == "dcgan" and model.spec["resolution"] == size
    assert torch.equal(model.networks["g"]["main.0.weight"], g.main[0].weight)
    with_d = not any("no discriminator" in note for note in notes)
    assert ("d" in model.networks) == with_d == (name not in list(FILES)[:3])
    assert ("g_ema" in model.networks) == (name == "an average too")
    z = torch.randn(2, 7, 1, 1, generator=rng())
    with torch.no_grad():
        torch.testing.assert_close(model.generator("g")(Inputs(z=z.flatten(1))), g(z))
    if not with_d:  # adapt starts a fresh one: it must fit
        d = model.fresh_discriminator(0)
        assert d(torch.zeros(2, model.spec["channels"], size, size)).shape == (2, 1)


def test_a_safetensors_file_is_pulled(tmp_path):
    g, d = published(32)
    save_file(prefixed("netG.", g) | prefixed("netD.", d), tmp_path / "x.safetensors")
    assert import_file(tmp_path / "x.safetensors", title="x")[0].spec["d_widths"] == [2, 4, 8, 16]


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_what_a_generator_alone_does_not_tell_is_guessed_and_said(channels, size):
    for published_size in (28, 32):
        g, _ = published(published_size, nc=channels)
        converted = FAMILY.convert(Foreign("torch", {"": prefixed("", g)}))
        assert converted.spec["resolution"] == size
        assert any(f"{size} px" in note and "MNIST" in note for note in converted.notes)


REFUSED = {
    "discriminator alone": (lambda g, d: {"": d}, Code.UNSUPPORTED, "discriminator of DCGAN"),
    "two generators": (lambda g, d: {"A": g, "B": g, "D": d}, Code.UNSUPPORTED, "'A', 'B'"),
    "missing": (
        lambda g, d: {"": {k: v for k, v in g.items() if k != "main.7.bias"}}, Code.DAMAGED,
        "without 'main.7.bias'",
    ),
    "unknown": (
        lambda g, d: {"": g | {"main.1.scale": g["main.1.bias"]}}, Code.UNSUPPORTED, "'main.1.scale'",
    ),
    "other shape": (
        lambda g, d: {"": g | {"main.4.bias": torch.zeros(2)}}, Code.UNSUPPORTED, "'main.4.bias' is [2]",
    ),
    "D of another size": (
        lambda g, d: {"G": g, "D": prefixed("", published(32)[1])}, Code.UNSUPPORTED, "DCGAN 'd'",
    ),
    "odd layers": (
        lambda g, d: {"": {k: v for k, v in g.items() if k != "main.6.weight"}}, Code.DAMAGED,
        "'main.6.weight'",
    ),
    "linear": (lambda g, d: {"": g | {"main.6.weight": torch.zeros(3, 3)}}, Code.UNSUPPORTED, "main.0"),
    "loose tensor": (lambda g, d: {"": g | {"fc.weight": torch.zeros(3)}}, Code.UNSUPPORTED, "'fc.weight'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_files_of_no_dcgan_are_refused(name):
    make, code, named = REFUSED[name]
    foreign = Foreign("torch", make(*(prefixed("", net) for net in published(64))))
    assert FAMILY.recognise(foreign)
    with refused(code, named):
        FAMILY.convert(foreign)


def test_other_networks_are_not_taken_for_it():
    for state in (
        {"synthesis.b4.const": torch.zeros(4, 4, 4)},
        {"main.0.weight": torch.zeros(8, 8)},  # a perceptron
        {"init.main.0.weight": torch.zeros(8, 8, 4, 4)},
        {},
    ):
        assert not FAMILY.recognise(Foreign("torch", {"": state}))


# ---- networks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", DEPTHS)
@pytest.mark.parametrize("classes", [0, 5])
def test_fresh_networks_are_of_the_size(size, classes):
    spec = FAMILY.fresh(size, 1, classes)
    with torch.device("meta"):
        g, d = FAMILY.build(spec)
        inputs = Inputs(z=torch.zeros(2, 100), y=torch.zeros(2, classes) if classes else None)
        images = g(inputs)
        assert images.shape == (2, 1, size, size)
        assert d(images, inputs).shape == (2, 1)
    assert FAMILY.recipe(spec).batch == 64


def test_fresh_is_the_published_network_at_64_px():
    with torch.device("meta"):
        g, d = FAMILY.build(FAMILY.fresh(64))
    count = [sum(p.numel() for p in net.parameters()) for net in (g, d)]
    assert count == [3_576_704, 2_765_568]  # as pytorch/examples prints them
    assert FAMILY.fresh(28, width=3)["g_widths"] == [24, 12, 6, 3]
    with refused(Code.OUT_OF_RANGE, "--width 0"):
        FAMILY.fresh(28, width=0)
    with refused(Code.OUT_OF_RANGE, "--size 48", "16, 28, 32, 64, 128"):
        FAMILY.fresh(48)


def test_weights_start_as_published():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        g, d = FAMILY.build(FAMILY.fresh(32, 3, 40))
    for net in (g, d):
        for module in net.main:
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.weight.numel() > 10_000:
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.02)
            if isinstance(module, nn.BatchNorm2d):
                assert module.weight.mean().item() == pytest.approx(1, abs=0.01)
                assert 0.01 < module.weight.std().item() < 0.03 and not module.bias.any()
    assert g.embed.weight.std().item() == pytest.approx(1, rel=0.1)


@torch.no_grad()
def test_pictures_do_not_depend_on_their_batch_and_truncation_takes_their_differences():
    g, _ = built(SPECS["dcgan"])
    inputs = g.draw(5, rng())
    pictures = g(inputs)
    torch.testing.assert_close(pictures[2:3], g(inputs[2:3]))
    assert not torch.allclose(pictures[0], pictures[1])
    none = g(inputs, truncation=0.0, noise="random", rng=rng())
    torch.testing.assert_close(none[0], none[1])
    torch.testing.assert_close(g(inputs, truncation=0.5), g(Inputs(z=inputs.z / 2)))


@torch.no_grad()
def test_draws_are_fixed_by_the_generator_and_label_where_there_are_classes():
    g, _ = built(LABELS)
    one, two, other = g.draw(64, rng(1)), g.draw(64, rng(1)), g.draw(64, rng(2))
    assert torch.equal(one.z, two.z) and torch.equal(one.y, two.y) and not torch.equal(one.z, other.z)
    assert torch.equal(one.y.sum(dim=1), torch.ones(64)) and (one.y.sum(dim=0) > 10).all()
    assert built(SPECS["dcgan"])[0].draw(2, rng()).y is None


@torch.no_grad()
def test_labels_are_joined_to_z_and_projected():
    """Both against the networks without classes: G with a longer z, D with a term added to its logit."""
    g, d = built(LABELS)
    inputs = g.draw(6, rng())
    images = g(inputs)
    plain_g = FAMILY.build(SPECS["dcgan"] | {"z_dim": 10}).g.eval()
    plain_g.main.load_state_dict(g.main.state_dict())
    embedded = g.embed.weight[:, inputs.y.argmax(dim=1)].T
    torch.testing.assert_close(plain_g(Inputs(z=torch.cat([inputs.z, embedded], dim=1))), images)
    plain_d = FAMILY.build(SPECS["dcgan"]).d.eval()
    plain_d.main.load_state_dict(d.main.state_dict())
    x = d.features(images)[-1]
    added = torch.stack(
        [
            sum(d.embed.weight[c, k] * x[i, c].sum() for c in range(x.shape[1]))
            for i, k in enumerate(inputs.y.argmax(dim=1))
        ]
    )
    assert added.abs().min() > 1e-3
    torch.testing.assert_close(d(images, inputs)[:, 0], plain_d(images)[:, 0] + added)


@torch.no_grad()
def test_features_go_from_fine_to_coarse():
    _, d = built(SPECS["dcgan"])
    images = torch.randn(2, 3, 16, 16, generator=rng())
    maps = d.features(images)
    assert [tuple(x.shape) for x in maps] == [(2, 4, 8, 8), (2, 8, 4, 4)]
    torch.testing.assert_close(maps[0], F.leaky_relu(d.main[0](images), 0.2))
    torch.testing.assert_close(d.main[-1](maps[-1]).flatten(1), d(images))


def test_layers_are_the_five_of_the_paper():
    layers = FAMILY.layers(FAMILY.fresh(64))
    assert list(layers) == [f"conv{i}" for i in range(1, 6)]
    assert layers["conv2"] == ["main.3.weight", "main.4.weight", "main.4.bias"]
    assert layers["conv5"] == ["main.12.weight"]
    assert next(iter(FAMILY.layers(LABELS))) == "embed"
    assert [FAMILY.resolution_of(f"main.{i}.weight") for i in (0, 3, 4, 12)] == [4, 8, 8, 64]
    assert FAMILY.resolution_of("embed.weight") is None


# ---- training ----------------------------------------------------------------------------------------------


def test_losses_are_binary_cross_entropies():
    real, fake = torch.randn(2, 6, 1, generator=rng(), dtype=torch.float64)
    bce, one = F.binary_cross_entropy, torch.ones(6, 1, dtype=torch.float64)
    expected = bce(real.sigmoid(), one) + bce(fake.sigmoid(), one * 0)
    torch.testing.assert_close(FAMILY.loss_d(real, fake), expected)
    torch.testing.assert_close(FAMILY.loss_g(fake), bce(fake.sigmoid(), one))
    torch.testing.assert_close(FAMILY.log_likelihood(fake), fake.sigmoid().log().flatten())


@pytest.mark.parametrize("spec", [SPECS["dcgan"], LABELS], ids=["plain", "labels"])
def test_the_fisher_is_that_of_the_loop(spec):
    g, d = (net.double() for net in built(spec))
    inputs = g.draw(5, rng())
    inputs = Inputs(z=inputs.z.double(), y=None if inputs.y is None else inputs.y.double())

    def score(image: Tensor, one: Inputs, draw: None) -> Tensor:
        return FAMILY.log_likelihood(d(image, one)).sum()

    fast, slow = (estimate(g, score, [(inputs, None)]) for estimate in (diagonal, diagonal_by_loop))
    assert fast.keys() == dict(g.named_parameters()).keys()
    for key in slow:
        torch.testing.assert_close(fast[key], slow[key])
        assert slow[key].max() > 0


@torch.no_grad()
def test_refreshed_statistics_are_those_of_drawn_inputs():
    g, _ = built(SPECS["dcgan"])
    before = {key: value.clone() for key, value in g.state_dict().items()}
    FAMILY.refresh_statistics(g, g.draw)
    assert not any(module.training for module in g.modules())
    assert all(norm.momentum == 0.1 for norm in g.modules() if isinstance(norm, nn.BatchNorm2d))
    source, means, spreads = rng(0), [], []
    first = copy.deepcopy(g.main[0])
    for _ in range(STATISTICS[0]):
        x = first(g.draw(STATISTICS[1], source).z[:, :, None, None])
        means.append(x.mean(dim=(0, 2, 3)))
        spreads.append(x.transpose(0, 1).flatten(1).var(dim=1))
    torch.testing.assert_close(g.main[1].running_mean, torch.stack(means).mean(dim=0))
    torch.testing.assert_close(g.main[1].running_var, torch.stack(spreads).mean(dim=0))
    after = g.state_dict()
    assert not torch.allclose(after["main.4.running_var"], before["main.4.running_var"])
    assert all(torch.equal(after[key], before[key]) for key in dict(g.named_parameters()))
    refreshed = g(g.draw(256, rng(5)))
    fresh = copy.deepcopy(g).train()(g.draw(256, rng(5)))
    assert (refreshed - fresh).abs().mean() < 0.1 * fresh.std()
