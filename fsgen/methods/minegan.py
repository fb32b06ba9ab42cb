"""MineGAN (Wang et al. 2020): find the source's latents that come nearest to the shots, then train G.

A miner M maps z to another latent, and the discriminator sees G(M(z)). While G is frozen, M can only move to
where the source comes nearest to the shots; from there both are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fsgen.config import check_range
from fsgen.errors import Code, FsgenError
from fsgen.interfaces import Claim, Inputs, Method, MethodContext, Module, NetworkName, TrainingState, Trait

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MINED = ".parametrizations.const"  # in the names of the parameters that make the constant, where it is mined


@dataclass(frozen=True)
class MineGANOptions:
    frozen: float = field(
        default=0.2,
        metadata={"help": "Share of the steps, the first ones, in which the generator is frozen."},
    )
    mine: str = field(
        default="latents",
        metadata={
            "help": "latents, or both: also the constant that a StyleGAN2 starts from, as in the published "
            "code for it.",
            "choices": ("latents", "both"),
        },
    )
    hidden: str = field(
        default="auto", metadata={"help": "Hidden units of the miner: auto (as many as z has), or a number."}
    )
    code: int = field(default=8, metadata={"help": "Channels of the learned code behind a mined constant."})
    widths: str = field(
        default="32,128", metadata={"help": "Channels of the layers from that code to the constant."}
    )


class MineGAN(Method[MineGANOptions]):
    """The paper's mining of one generator, then fine-tuning of miner and generator.

    D is trained from the start. The moving average covers miner and generator; the published code averages G
    alone, draws with the live miner and accumulates the miner's gradients over the steps. G is frozen for
    1,000 of the 5,000 steps of the literature's runs; published: 1,001.
    """

    name = "minegan"
    summary = "map latents to the region nearest to the shots by a small network, then fine-tune both"
    paper = "Wang et al. 2020, MineGAN: Effective Knowledge Transfer from GANs, arXiv 1912.05270"
    trained = "the miner and D, then G as well"
    licence = "MIT"
    needs = frozenset({Trait.LATENT, Trait.DISCRIMINATOR})
    claims = frozenset({Claim.LATENTS})
    adapts = True
    Options = MineGANOptions

    def __init__(self, options: MineGANOptions | None = None) -> None:
        super().__init__(options)
        check_range("--minegan-frozen", self.options.frozen, 0, 1)
        if self.options.mine == "both":
            self.needs = self.needs | {Trait.CONSTANT}
            self.claims = self.claims | {Claim.FREEZING}  # the constant is no parameter any more
        self.hidden = (
            _sizes("--minegan-hidden", self.options.hidden)[0] if self.options.hidden != "auto" else 0
        )
        self.widths = _sizes("--minegan-widths", self.options.widths)
        check_range("--minegan-code", self.options.code, 1)
        self.seed = 0
        self.until = 0  # the step at which G is trained as well
        self.frozen = False

    def setup(self, context: MethodContext) -> None:
        import torch

        self.seed = context.seed
        # A resumed run keeps its number of frozen steps, also if it is extended.
        self.buffers.setdefault("until", torch.tensor(round(self.options.frozen * context.steps)))
        self.until = int(self.buffers["until"])

    def add_modules(self, g: Any, d: Module) -> None:
        import torch
        from torch.nn.utils import parametrize

        from fsgen.nn import miners

        device = next(g.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            g.add_module(self.name, miners.latent_miner(g.z_dim, self.hidden or g.z_dim).to(device))
            if self.options.mine == "both":
                block, _, name = g.constant.rpartition(".")
                channels, side, _ = g.get_parameter(g.constant).shape
                constant = miners.ConstantMiner(channels, side, self.options.code, self.widths).to(device)
                parametrize.register_parametrization(g.get_submodule(block), name, constant)

    def before_step(self, state: TrainingState) -> None:
        self.frozen = state.step < self.until

    def transform_inputs(self, inputs: Inputs, g: Any, rng: torch.Generator, shown: bool) -> Inputs:
        """Mine each latent, then mix styles."""
        assert inputs.z is not None
        miner = g.get_submodule(self.name)
        other = g.draw(len(inputs.z), rng).z
        return replace(inputs, z=miner(inputs.z), mix=miner(other))

    def mask_gradients(self, network: NetworkName, net: Module) -> None:
        if self.frozen and network == "g":
            for name, parameter in net.named_parameters():
                if not name.startswith(f"{self.name}.") and MINED not in name:
                    parameter.grad = None

    def export(self, net: Any) -> dict[str, Tensor]:
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
    def prepare_inputs(stored: Mapping[str, Tensor], inputs: Inputs) -> Inputs:
        """Mine the latents. If such a model is trained further, styles mix with those of other samples in the
        batch: those from the prior are not mined."""
        assert inputs.z is not None
        import torch

        from fsgen.nn import miners

        with torch.device("meta"):
            hidden, z_dim = stored["0.weight"].shape
            miner = miners.latent_miner(z_dim, hidden)
        weights = {name: value.to(inputs.z.device) for name, value in stored.items()}
        z = torch.func.functional_call(miner, weights, (inputs.z,))
        return replace(inputs, z=z, mix=z.roll(1, dims=0))


def _sizes(flag: str, text: str) -> list[int]:
    """Whole numbers of at least 1, separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise FsgenError(f"{flag} {text} is no list of widths", code=Code.OUT_OF_RANGE, where=flag)
    return [int(part) for part in parts]
