"""Every place of a backbone where an adapter may change what is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from adapterhub.engine.adapted_norm import AdaptedNorm
from adapterhub.engine.lora_embedding import LoraEmbedding
from adapterhub.engine.lora_linear import LoraLinear, install_sites, remove_sites
from adapterhub.kernels.linear.cpu import OneDnnLinear

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from adapterhub.backbones.backbone import Backbone
    from adapterhub.kernels.lora.plan import LoraKernel

#: What transformers' classes call the layer that gives the vocabulary's logits.
OUTPUT_NAME = "lm_head"


@dataclass(frozen=True, slots=True, eq=False)
class AdaptedLayers:
    """The sites of a backbone.

    Args:
        body: that they are in.
        linear: by module path below the body, numbered from 0 on.
        embeddings: by module path below the body.
        output: of a decoder; its tables are made when an adapter has it.
        norms: by module path below the body; numbered last.
    """

    body: nn.Module
    linear: Mapping[str, LoraLinear]
    embeddings: Mapping[str, LoraEmbedding]
    output: LoraLinear | None
    norms: Mapping[str, AdaptedNorm]

    @property
    def pairs(self) -> dict[str, LoraLinear | LoraEmbedding]:
        """All sites of low-rank pairs by path, in the order of their numbers."""
        outputs = {} if self.output is None else {OUTPUT_NAME: self.output}
        return {**self.linear, **self.embeddings, **outputs}

    @property
    def hooked(self) -> list[int]:
        """Numbers of the sites that work by hooks."""
        embeddings = [site.number for site in self.embeddings.values()]
        return embeddings + [site.number for site in self.norms.values()]

    def close(self) -> None:
        """Give the body back as it was."""
        for embedding in self.embeddings.values():
            embedding.close()
        for norm in self.norms.values():
            norm.close()
        remove_sites(self.body, dict(self.linear))


def adapt_layers(backbone: Backbone, dtype: torch.dtype, kernel: LoraKernel) -> AdaptedLayers:
    """Put sites into a backbone's body and around its output layer.

    Args:
        backbone: whose body changes until ``close``.
        dtype: compute type.
        kernel: adds the products of linear layers.
    """
    body = backbone.base_model
    found = [(path, each) for path, each in body.named_modules() if isinstance(each, nn.Embedding)]
    # of pictures, rows are not told apart in norm layers
    readable = [] if backbone.kind == "vision" else list(body.named_modules())
    norms = [(path, each) for path, each in readable if "Norm" in type(each).__name__]
    linear = install_sites(body, dtype, kernel)
    number = len(linear)
    embeddings = {
        path: LoraEmbedding(each, at, dtype) for at, (path, each) in enumerate(found, start=number)
    }
    number += len(embeddings)
    output = None
    if backbone.lm_head is not None:
        head = backbone.lm_head
        # its weight is mostly the embedding's too, which stays as it is
        base = OneDnnLinear(head, keep=True) if OneDnnLinear.supports(head) else head
        output = LoraLinear(base, number, dtype, kernel, lazy=True)
        number += 1
    gemma = str(getattr(body.config, "model_type", "")).startswith("gemma")
    return AdaptedLayers(
        body,
        linear,
        embeddings,
        output,
        {
            path: AdaptedNorm(each, at, heads_first=gemma and path.endswith(("q_norm", "k_norm")))
            for at, (path, each) in enumerate(norms, start=number)
        },
    )
