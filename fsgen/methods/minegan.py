"""MineGAN (Wang et al. 2020): look for the images among what the source draws already, then train it.

A miner M turns z into another latent, and G(M(z)) is what the critic judges. While G is frozen, M can only
move to where the source comes nearest; from there G is trained with it, and has less far to go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fsgen.errors import FsgenError
from fsgen.interfaces import Inputs, Method, MethodContext, NetworkName, TrainingState

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

MINED = ".parametrizations.const"  # in the name of what makes the constant, where that is mined too


class MineGAN(Method):
    """The paper's mining of one generator, then its fine-tuning of miner and generator.

    D is trained from the start. Miner and generator are averaged together, where the published code averages
    G alone and draws with the miner as it is; nor are the miner's gradients added up over the steps, as they
    are there. G is held until 1,000 of the 5,000 steps that the literature's runs have, 1,001 as published.
    """

    name = "minegan"
    summary = "find the right latents of the frozen source by a small network, then fine-tune both"
    paper = "Wang et al. 2020, MineGAN: Effective Knowledge Transfer from GANs, arXiv 1912.05270"
    trained = "the miner and D, then G as well"
    licence = "MIT"
    needs = frozenset({"latent", "discriminator"})
    claims = frozenset({"what latents are drawn"})
    adapts = True

    @dataclass(frozen=True)
    class Options:
        frozen: float = field(
            default=0.2,
            metadata={"help": "Share of the steps, the first ones, in which the generator is frozen."},
        )
        mine: str = field(
            default="latents",
            metadata={
                "help": "What is mined: the latents, or both them and the constant that a StyleGAN2 starts "
                "from, as its published version does.",
                "choices": ("latents", "both"),
            },
        )

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        if not 0 <= self.options.frozen <= 1:
            raise FsgenError(f"--minegan-frozen {self.options.frozen} is no share of the steps: 0 to 1")
        if self.options.mine == "both":
            self.needs = self.needs | {"constant"}
            self.claims = self.claims | {"how weights are held"}  # the constant is none that can be held
        self.seed = 0
        self.until = 0  # the step at which G is trained as well
        self.frozen = False

    def enter(self, context: MethodContext) -> None:
        self.seed = context.seed
        self.until = round(self.options.frozen * context.steps)

    def state(self) -> dict[str, Tensor]:
        import torch

        return {"until": torch.tensor(self.until)}

    def restore(self, state: dict[str, Tensor], context: MethodContext) -> None:
        self.seed = context.seed
        self.until = int(state["until"])  # of the steps first asked for, should it go on for longer

    def fit(self, g: nn.Module, d: nn.Module) -> None:
        import torch
        from torch.nn.utils import parametrize

        from fsgen.nn import miners

        device = next(g.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            g.add_module(self.name, miners.latent_miner(g.z_dim).to(device))
            if self.options.mine == "both":
                block, _, name = g.constant.rpartition(".")
                channels, side, _ = g.get_parameter(g.constant).shape
                constant = miners.ConstantMiner(channels, side).to(device)
                parametrize.register_parametrization(g.get_submodule(block), name, constant)

    def before(self, state: TrainingState) -> None:
        self.frozen = state.step < self.until

    def draw(self, g: nn.Module, inputs: Inputs, rng: torch.Generator, shown: bool) -> Inputs:
        """Latents are mined one by one, then mixed."""
        miner = g.get_submodule(self.name)
        other = g.draw(len(inputs.z), rng).z
        return replace(inputs, z=miner(inputs.z), mix=miner(other))

    def hold(self, network: NetworkName, net: nn.Module) -> None:
        if self.frozen and network == "g":
            for name, parameter in net.named_parameters():
                if not name.startswith(f"{self.name}.") and MINED not in name:
                    parameter.grad = None

    def leave(self, net: nn.Module) -> dict[str, Tensor]:
        from torch.nn.utils import parametrize

        if not hasattr(net, self.name):
            return {}
        miner = net.get_submodule(self.name)
        delattr(net, self.name)
        if self.options.mine == "both":
            block, _, name = net.constant.rpartition(".")
            parametrize.remove_parametrizations(net.get_submodule(block), name)
        return {name: value.detach().clone() for name, value in miner.state_dict().items()}

    @staticmethod
    def feed(stored: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
        """The latents mined. Where such a model is trained further, styles mix with those of other samples:
        the prior's are not mined."""
        import torch

        from fsgen.nn import miners

        with torch.device("meta"):
            miner = miners.latent_miner(inputs.z.shape[1])
        weights = {name: value.to(inputs.z.device) for name, value in stored.items()}
        z = torch.func.functional_call(miner, weights, (inputs.z,))
        return replace(inputs, z=z, mix=z.roll(1, dims=0))
