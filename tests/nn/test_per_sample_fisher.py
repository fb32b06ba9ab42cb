"""The Fisher estimator: the fast way equals the loop, and both equal what can be worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fsgen.interfaces import Inputs
from fsgen.nn.per_sample_fisher import diagonal, diagonal_by_loop

ESTIMATORS = pytest.mark.parametrize("estimator", [diagonal, diagonal_by_loop])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Linear(nn.Module):
    """W z + b as a picture [n, 1, 1, outputs]."""

    def __init__(self, inputs: int = 3, outputs: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(noise(outputs, inputs))
        self.bias = nn.Parameter(noise(outputs))

    def forward(self, inputs: Inputs) -> Tensor:
        return (inputs.z @ self.weight.T + self.bias)[:, None, None]


class Deep(nn.Module):
    """A little of everything: labels, a buffer, a convolution, a parameter that no picture depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.label = nn.Linear(3, 8, bias=False)
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.idle = nn.Parameter(torch.ones(2))
        self.register_buffer("shift", noise(8))
        self.double()

    def forward(self, inputs: Inputs) -> Tensor:
        x = self.first(inputs.z) + self.shift
        if inputs.y is not None:
            x = x + self.label(inputs.y)
        return self.conv(x.tanh().reshape(-1, 2, 2, 2))


def deep() -> Deep:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Deep()


def discriminator(images: Tensor, inputs: Inputs, draw: Tensor | None) -> Tensor:
    return nn.functional.logsigmoid(images.sin().sum())


def gaussian(images: Tensor, inputs: Inputs, draw: Tensor | None) -> Tensor:
    """The gradient of log N(x; G(z), 1) at x = G(z) + draw."""
    return (images[0] * draw).sum()


def close(ours: dict[str, Tensor], reference: dict[str, Tensor]) -> None:
    assert ours.keys() == reference.keys()
    for name in reference:
        torch.testing.assert_close(ours[name], reference[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("draws", [False, True])
def test_vectorised_equals_the_loop(labels, draws):
    g = deep()
    batches = [
        (
            Inputs(z=noise(n, 4, seed=n), y=noise(n, 3, seed=n + 9).softmax(dim=1) if labels else None),
            noise(n, 3, 2, 2, seed=n + 5) if draws else None,
        )
        for n in (5, 1, 3)
    ]
    likelihood = gaussian if draws else discriminator
    fast, slow = diagonal(g, likelihood, batches), diagonal_by_loop(g, likelihood, batches)
    close(fast, slow)
    assert fast.keys() == dict(g.named_parameters()).keys()
    assert not fast["idle"].any()
    assert fast["label.weight"].any() == labels
    assert fast["first.weight"].all()


@ESTIMATORS
def test_closed_form_of_a_linear_generator(estimator):
    """d<eps, W z + b>/dW_oi = eps_o z_i and d/db_o = eps_o: F is the mean of their squares."""
    z, eps = noise(7, 3), noise(7, 2, seed=1)
    found = estimator(Linear(), gaussian, [(Inputs(z=z), eps[:, None, None])])
    weight = sum(torch.outer(e, v) ** 2 for e, v in zip(eps, z, strict=True)) / 7
    close(found, {"weight": weight, "bias": (eps**2).mean(dim=0)})


def test_many_samples_give_the_information_of_a_gaussian():
    """x ~ N(W z + b, 1) with z ~ N(0, 1): the Fisher information of every weight and bias is 1."""
    n = 20_000
    found = diagonal(Linear(), gaussian, [(Inputs(z=noise(n, 3)), noise(n, 1, 1, 2, seed=1))])
    for value in found.values():
        # The variance of (eps z)^2 is 9 - 1 = 8: six standard errors
        assert (value - 1).abs().max() < 6 * (8 / n) ** 0.5


@ESTIMATORS
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_split_into_batches_does_not_matter(estimator, size):
    g, z = deep(), noise(8, 4)
    whole = estimator(g, discriminator, [(Inputs(z=z), None)])
    close(estimator(g, discriminator, [(Inputs(z=part), None) for part in z.split(size)]), whole)


@ESTIMATORS
def test_it_is_not_the_square_of_the_mean_gradient(estimator):
    """That square, found in public code, shrinks with the batch: here to about a fortieth."""
    g, n = Linear(), 40
    z, eps = noise(n, 3), noise(n, 2, seed=1)
    found = estimator(g, gaussian, [(Inputs(z=z), eps[:, None, None])])
    (g(Inputs(z=z))[:, 0, 0] * eps).sum(dim=1).mean().backward()
    for name, p in g.named_parameters():
        assert (found[name] >= p.grad**2).all()
        assert found[name].sum() > 5 * (p.grad**2).sum()


@ESTIMATORS
def test_the_likelihood_sees_one_sample_at_a_time(estimator):
    shapes = []

    def likelihood(images: Tensor, inputs: Inputs, draw: Tensor | None) -> Tensor:
        shapes.append(tuple(images.shape))
        return images.square().sum()

    estimator(deep(), likelihood, [(Inputs(z=noise(6, 4)), None)])
    assert set(shapes) == {(1, 3, 2, 2)}


@ESTIMATORS
def test_nothing_is_left_behind_on_the_generator(estimator):
    g = deep()
    before = {key: value.clone() for key, value in g.state_dict().items()}
    found = estimator(g, discriminator, [(Inputs(z=noise(3, 4)), None)])
    assert all(torch.equal(value, before[key]) for key, value in g.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in g.parameters())
    assert not any(value.requires_grad for value in found.values())


def test_frozen_parameters_are_estimated_too():
    """theta_S is frozen while a method adapts its copy; its Fisher is wanted all the same."""
    batch = [(Inputs(z=noise(3, 4)), None)]
    frozen = deep().requires_grad_(False)
    close(diagonal(frozen, discriminator, batch), diagonal_by_loop(deep(), discriminator, batch))
