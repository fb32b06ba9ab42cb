"""EWC: the penalty, and the choice of lambda."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fsgen.interfaces import MethodContext, TrialRun
from fsgen.methods.ewc import EWC, QUANTILE


class Net(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(n)), nn.Parameter(torch.zeros(1))


def context(fisher: torch.Tensor, change: torch.Tensor, pull: torch.Tensor) -> MethodContext:
    """The context of a run with a generator of n + 1 weights."""
    named = [{"a": values[:-1], "b": values[-1:]} for values in (fisher, change, pull)]
    return MethodContext(
        family=None, spec={}, source=Net(len(fisher) - 1), recipe=None, steps=1, shots=1,
        device=torch.device("cpu"), seed=0, fisher=lambda samples, proxy: named[0],
        trial_run=lambda steps: TrialRun(None, None, *named[1:]), information=None,
        frozen_network=None, say=lambda text: None,
    )  # fmt: skip


def chosen_weight(*given: torch.Tensor) -> float:
    method = EWC()
    method.setup(context(*given))
    return method.weight


def test_the_penalty_outweighs_the_pull_in_a_tenth_of_the_pulled_weights():
    rng = torch.Generator().manual_seed(0)
    fisher, change, pull = (torch.rand(1000, generator=rng) + 0.1 for _ in range(3))
    weight = chosen_weight(fisher, change, pull)
    outweighed = 2 * weight * fisher * change >= pull * (1 - 1e-6)
    assert outweighed.float().mean().item() == pytest.approx(QUANTILE, abs=1e-3)
    # rescaling F (of D's logits, say) leaves the penalty as it was
    assert chosen_weight(fisher * 7, change, pull) == pytest.approx(weight / 7)
    # weights that nothing pulls, such as other classes' embeddings, change nothing
    unmoved = torch.zeros(3000)
    wider = [torch.cat([unmoved + 0.5, fisher]), torch.cat([unmoved, change]), torch.cat([unmoved, pull])]
    assert chosen_weight(*wider) == pytest.approx(weight)


def test_the_penalty_is_equation_4_and_its_gradient_twice_that():
    fisher, ones = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3)
    method = EWC(EWC.Options(lambda_="10"))
    method.setup(context(fisher, ones, ones))
    g = Net(2)
    g.a.data, g.b.data = torch.tensor([0.5, -1.0]), torch.tensor([2.0])
    method.before_step(SimpleNamespace(g=g))
    loss = method.loss_terms(SimpleNamespace(g=g))["ewc"]
    assert loss.item() == pytest.approx(10 * (1 * 0.25 + 2 * 1 + 3 * 4))
    loss.backward()
    torch.testing.assert_close(g.a.grad, 20 * fisher[:2] * g.a.data)
