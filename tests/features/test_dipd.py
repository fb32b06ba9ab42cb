from __future__ import annotations

import pytest
import torch
from refusals import refused

from fsgen.errors import Code
from fsgen.features.dipd import Dipd
from fsgen.features.lpips_network import Lpips
from fsgen.features.torchvision_shim import import_torchvision


@pytest.fixture(scope="module")
def dipd(vgg16_file):
    return Dipd(Lpips("vgg", vgg16_file))


def pictures(n: int, seed: int, height: int = 48, width: int = 64) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, height // 8, width // 8, generator=rng) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)


def test_it_is_the_distance_of_torchvisions_conv5_in_which_each_map_is_normalised(dipd, vgg16_file):
    network = import_torchvision().models.vgg16(weights=None).features.eval()
    state = torch.load(vgg16_file, weights_only=True)
    network.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if "features" in k})
    mean, std = (torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    a, b = pictures(2, 0), pictures(2, 1)
    maps = []
    with torch.no_grad():
        for images in (a, b):
            x = network[:30](((images + 1) / 2 - mean) / std).double()  # 29 is relu5_3
            assert x.shape[1:] == (512, 3, 4)
            spread = x.var(dim=(2, 3), unbiased=False, keepdim=True) + 1e-5
            maps.append((x - x.mean(dim=(2, 3), keepdim=True)) / spread.sqrt())
        expected = (maps[0] - maps[1]).pow(2).mean(dim=(1, 2, 3))
        torch.testing.assert_close(dipd(a, b), expected.float(), rtol=1e-3, atol=1e-4)


class Maps:
    """A backbone that returns given maps."""

    net = "vgg"

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros(1), images]


def test_neither_mean_nor_contrast_of_a_map_counts():
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 40, 64, 64, generator=rng)
    scale, shift = torch.rand(2, 3, 40, 1, 1, generator=rng) + 0.5
    dipd = Dipd(Maps())
    assert dipd(a, scale * a + 5 * shift).max() < 1e-6
    torch.testing.assert_close(dipd(a, b), torch.full((3,), 2.0), rtol=0.02, atol=0)  # unrelated
    torch.testing.assert_close(dipd(a, b), dipd(scale * b, shift * a))


def test_gradients_flow_and_a_picture_is_at_no_distance_from_itself(dipd):
    a, b = pictures(2, 2), pictures(2, 3).requires_grad_()
    assert torch.equal(dipd(a, a), torch.zeros(2))
    dipd(a, b).sum().backward()
    assert b.grad.isfinite().all() and b.grad.abs().sum() > 0


def test_refuses_pictures_of_which_nothing_would_be_left(dipd, alexnet_file):
    with refused(Code.INCOMPATIBLE, "DIPD", "32", "64x16"):
        dipd(torch.zeros(1, 3, 64, 16), torch.zeros(1, 3, 64, 16))
    with pytest.raises(ValueError, match="alex"):
        Dipd(Lpips("alex", alexnet_file))
