"""FastGAN in plain PyTorch, with the keys of the published code: an independent construction to import from.

Spectral norm is PyTorch's own (the classic hook), a block a Sequential. Written from the description of the
architecture alone.
"""

from __future__ import annotations

import re
import warnings
from itertools import pairwise

import torch
from torch import Tensor, nn

M = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
M_D = M | {8: 16, 16: 8, 32: 4}
GATES_G = {64: 4, 128: 8, 256: 16, 512: 32}
State = dict[str, Tensor]


def conv(*shape: int, transposed: bool = False, **options: int) -> nn.Module:
    made = (nn.ConvTranspose2d if transposed else nn.Conv2d)(*shape, bias=False, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer PyTorch has another spectral norm as well
        return nn.utils.spectral_norm(made)


class Noise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * torch.randn(len(x), 1, *x.shape[2:])


class Main(nn.Module):
    """A Sequential under the name ``main``, as the published blocks have it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


def glu(inputs: int, outputs: int, *between: nn.Module) -> list[nn.Module]:
    return [conv(inputs, 2 * outputs, 3, padding=1), *between, nn.BatchNorm2d(2 * outputs), nn.GLU(1)]


def up(inputs: int, outputs: int, *, deep: bool) -> nn.Sequential:
    if not deep:
        return nn.Sequential(nn.Upsample(scale_factor=2), *glu(inputs, outputs))
    both = *glu(inputs, outputs, Noise()), *glu(outputs, outputs, Noise())
    return nn.Sequential(nn.Upsample(scale_factor=2), *both)


def gate(inputs: int, outputs: int) -> Main:
    pool = nn.AdaptiveAvgPool2d(4)
    return Main(pool, conv(inputs, outputs, 4), nn.SiLU(), conv(outputs, outputs, 1), nn.Sigmoid())


class Generator(nn.Module):
    def __init__(self, side: int, ngf: int, nz: int, nc: int = 3) -> None:
        super().__init__()
        c = {r: int(m * ngf) for r, m in M.items()}
        self.side = side
        first = [conv(nz, 2 * c[4], 4, transposed=True), nn.BatchNorm2d(2 * c[4]), nn.GLU(1)]
        self.init = nn.Module()
        self.init.init = nn.Sequential(*first)
        for r in [r for r in c if 4 < r <= side]:
            self.add_module(f"feat_{r}", up(c[r // 2], c[r], deep=r in (8, 32, 128, 512)))
        for r, low in GATES_G.items():
            if r <= side:
                self.add_module(f"se_{r}", gate(c[low], c[r]))
        self.to_128 = conv(c[128], nc, 1)
        self.to_big = conv(c[side], nc, 3, padding=1)

    def forward(self, z: Tensor) -> list[Tensor]:
        x = {4: self.init.init(z[:, :, None, None])}
        r = 8
        while r <= self.side:
            x[r] = self.get_submodule(f"feat_{r}")(x[r // 2])
            if r in GATES_G:
                x[r] = x[r] * self.get_submodule(f"se_{r}")(x[GATES_G[r]])
            r *= 2
        found = [self.to_big(x[self.side]), self.to_128(x[128])]
        return [image.tanh() for image in found] if self.side == 1024 else found


def leaky(*layers: nn.Module) -> list[nn.Module]:
    return [*layers, nn.LeakyReLU(0.2)]


def half(inputs: int, outputs: int) -> list[nn.Module]:
    return leaky(conv(inputs, outputs, 4, stride=2, padding=1), nn.BatchNorm2d(outputs))


class Down(Main):
    def __init__(self, inputs: int, outputs: int) -> None:
        same = leaky(conv(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))
        super().__init__(*half(inputs, outputs), *same)
        self.direct = nn.Sequential(
            nn.AvgPool2d(2), *leaky(conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.direct(x)) / 2


def decoder(inputs: int, nc: int) -> Main:
    widths = [inputs, 128, 64, 64, 32]
    ups = [up(a, b, deep=False) for a, b in pairwise(widths)]
    return Main(nn.AdaptiveAvgPool2d(8), *ups, conv(32, nc, 3, padding=1), nn.Tanh())


class Discriminator(nn.Module):
    def __init__(self, side: int, ndf: int, nc: int = 3) -> None:
        super().__init__()
        c = {r: int(m * ndf) for r, m in M_D.items()}
        self.side = side
        if side == 256:
            stem = leaky(conv(nc, c[512], 3, padding=1))
        elif side == 512:
            stem = leaky(conv(nc, c[512], 4, stride=2, padding=1))
        else:
            stem = [*leaky(conv(nc, c[1024], 4, stride=2, padding=1)), *half(c[1024], c[512])]
        self.down_from_big = nn.Sequential(*stem)
        for name, before, after in ((4, 512, 256), (8, 256, 128), (16, 128, 64), (32, 64, 32), (64, 32, 16)):
            self.add_module(f"down_{name}", Down(c[before], c[after]))
        self.se_2_16, self.se_4_32 = gate(c[512], c[64]), gate(c[256], c[32])
        self.se_8_64 = gate(c[128], c[16])
        self.rf_big = nn.Sequential(*leaky(conv(c[16], c[8], 1), nn.BatchNorm2d(c[8])), conv(c[8], 1, 4))
        halves = [Main(*half(c[a], c[b])) for a, b in ((256, 128), (128, 64), (64, 32))]
        self.down_from_small = nn.Sequential(*leaky(conv(nc, c[256], 4, stride=2, padding=1)), *halves)
        self.rf_small = conv(c[32], 1, 4)
        self.decoder_big, self.decoder_small = decoder(c[16], nc), decoder(c[32], nc)
        self.decoder_part = decoder(c[32], nc)

    def forward(self, big: Tensor, small: Tensor, part: int) -> tuple[Tensor, list[Tensor]]:
        """[50 n] logits, and the three pictures decoded."""
        stem = self.down_from_big(big)
        one = self.down_4(stem)
        two = self.down_8(one)
        three = self.down_16(two)
        three = three * self.se_2_16(stem)
        four = self.down_32(three)
        four = four * self.se_4_32(one)
        five = self.down_64(four)
        five = five * self.se_8_64(two)
        low = self.down_from_small(small)
        logits = torch.cat([self.rf_big(five).flatten(), self.rf_small(low).flatten()])
        piece = [four[:, :, :8, :8], four[:, :, :8, 8:], four[:, :, 8:, :8], four[:, :, 8:, 8:]][part]
        return logits, [self.decoder_big(five), self.decoder_small(low), self.decoder_part(piece)]


def perturbed(net: nn.Module, seed: int = 0) -> nn.Module:
    """``net`` with no parameter or buffer at its initial value."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if key.endswith("num_batches_tracked"):
                value.fill_(7)
            elif key.endswith(("running_var", "weight_u", "weight_v")):
                value.mul_(1 + 0.2 * torch.rand(value.shape, generator=rng))
            else:
                value.add_(0.1 * torch.randn(value.shape, generator=rng))
    return net


def hub(state: State) -> State:
    """G's keys as the generators on the Hugging Face Hub have them, by the public text of their code."""
    out = {}
    for key, value in state.items():
        if not key.startswith("init."):
            key = re.sub(r"^feat_(\d+)\.", r"_upsample_\1._layers.", key)
            key = re.sub(r"^se_(\d+)\.main\.", r"_sle_\1._layers.", key)
            key = key.replace("to_128.", "_out_128.0.").replace("to_big.", "_out_1024.0.")
        key = key.replace("init.init.", "_init._layers.")
        key = re.sub(r"\.(weight_(?:orig|u|v))$", r"._conv.\1", key)
        if value.shape == (1,) and key.endswith(".weight"):
            key = key.removesuffix("weight") + "_weight"
        out[key] = value
    return out
