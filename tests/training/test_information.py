"""The Fisher information of both players against single backward passes, plain and modulated."""

from __future__ import annotations

import pytest
import torch
from tiny import SPECS
from torch import Tensor, nn

from fsgen import registry
from fsgen.interfaces import Family, Inputs
from fsgen.nn.modulation import modulate
from fsgen.training.fisher import of_both

SAMPLES = 5


def naive(family: Family, g: nn.Module, d: nn.Module, inputs: Inputs, real_images: Tensor) -> dict[str, dict]:
    """Mean of the squared gradients of L_G = loss_g(D(G(z))) and L_D = loss_d(D(x), D(G(z))), one by one."""
    found = {}
    for who, net in (("g", g), ("d", d)):
        names, values = zip(*net.named_parameters(), strict=True)
        total = [torch.zeros_like(value) for value in values]
        for i in range(SAMPLES):
            one = inputs[i : i + 1]
            fake = d(g(one), one)
            loss = family.loss_g(fake) if who == "g" else family.loss_d(d(real_images[i : i + 1], one), fake)
            gradients = torch.autograd.grad(loss, values, allow_unused=True)
            for sum_, gradient in zip(total, gradients, strict=True):
                sum_ += 0 if gradient is None else gradient.square() / SAMPLES
        found[who] = dict(zip(names, total, strict=True))
    return found


@pytest.mark.parametrize("name", [n for n in registry.families() if "filters" in registry.family(n).traits])
@pytest.mark.parametrize("reparametrised", [False, True], ids=["plain", "modulated"])
def test_it_equals_single_backward_passes(name, reparametrised):
    family, rng = registry.family(name)(), torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        g, d = family.build(SPECS[name])
    if reparametrised:
        for net in (g, d):
            modulate(net, [n for n, p in net.named_parameters() if p.ndim != 3], rng)
            with torch.no_grad():
                for key, p in net.named_parameters():
                    if key.endswith((".0.u", ".0.v", ".0.b")):
                        p.add_(0.1 * torch.randn(p.shape, generator=rng))
    g, d = g.double().eval(), d.double().eval()
    z = g.draw(SAMPLES, rng)
    inputs = Inputs(**{key: value.double() for key, value in z.parts().items()})
    side = SPECS[name]["resolution"]
    real_images = torch.rand(SAMPLES, 3, side, side, generator=rng, dtype=torch.float64) * 2 - 1
    wanted = naive(family, g, d, inputs, real_images)
    # not all in one batch: the split does not matter
    found = of_both(family, g, d, [(inputs[:2], real_images[:2]), (inputs[2:], real_images[2:])])
    for who in ("g", "d"):
        assert found[who].keys() == wanted[who].keys()
        assert sum(bool(value.any()) for value in found[who].values()) > len(found[who]) / 2
        for key, value in wanted[who].items():
            torch.testing.assert_close(found[who][key], value, msg=lambda text, key=key: f"{key}: {text}")
