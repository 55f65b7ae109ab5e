"""Hierarchical attention fusion (section 3.5 of arXiv 2511.13731); every part can be switched off."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from merc.batch import ConversationBatch
from merc.fusion.base import FusionHead, FusionOutput
from merc.fusion.context import ConversationAttention
from merc.kernels import Dropout
from merc.labels import IGNORE_INDEX


class MixtureOfExperts(nn.Module):
    """Projects a modality through the ``top_k`` of ``experts`` linear experts that a router chooses.

    All experts are computed in one matrix product and weighted by the router's softmax over the chosen ones.

    Args:
        dim_in: Width of the modality.
        dim_out: Common width.
        experts: Number of experts; 0 is a plain projection.
        top_k: Experts used per utterance.

    Raises:
        ValueError: ``top_k`` is not in ``1..experts``.
    """

    def __init__(self, dim_in: int, dim_out: int, experts: int = 4, top_k: int = 2) -> None:
        super().__init__()
        if experts and not 1 <= top_k <= experts:
            raise ValueError(f"top_k must be between 1 and experts={experts}, got {top_k}.")
        self.experts = experts
        self.top_k = top_k
        self.project = nn.Linear(dim_in, dim_out * max(experts, 1))
        self.route = nn.Linear(dim_in, experts) if experts else None

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Project ``(N, dim_in)`` to ``(N, dim_out)``; also the load-balancing loss (arXiv 2101.03961, eq. 4).

        Args:
            x: Features of one modality.
            present: ``(N,)`` booleans: which utterances count in the balance.
        """
        if self.route is None:
            return self.project(x), x.new_zeros(())
        probability = self.route(x).float().softmax(-1)
        weight, chosen = probability.topk(self.top_k, dim=-1)
        weight = torch.zeros_like(probability).scatter(-1, chosen, weight / weight.sum(-1, keepdim=True))
        outputs = self.project(x).unflatten(-1, (self.experts, -1))
        mixed = torch.einsum("ne,ned->nd", weight.to(outputs.dtype), outputs)
        count = present.sum().clamp(min=1)
        share = ((weight > 0) * present[:, None]).sum(0) / (count * self.top_k)
        mean_probability = (probability * present[:, None]).sum(0) / count
        return mixed, self.experts * (share.detach() * mean_probability).sum()


class ModalityQuality(nn.Module):
    r"""How much to trust a modality, per utterance (eq. 11-14 of arXiv 2511.13731).

    .. math::
        Q = \mathrm{clamp}(\sigma(W_q [q_{stats}; q_{entropy}; q_{neural}]), 0.1, 1)

    with q_stats the inter-class over the intra-class variance, q_entropy the entropy of the modality's own
    classifier and q_neural a learned sigmoid of the representation. The paper computes them over the
    batch. Here a prediction must not depend on the rest of the batch: q_stats comes from running averages of class
    prototypes and variances over training labels, and the other two depend on the utterance alone. A network that
    predicts numbers alone has no classes: q_stats and q_entropy are 0, and Q is learned from the representation alone.

    Args:
        dim: Width of the representation.
        num_classes: Number of emotions C.
        momentum: Share of a new batch in the running averages.
    """

    prototype: Tensor
    variance: Tensor
    frequency: Tensor

    def __init__(self, dim: int, num_classes: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.momentum = momentum
        self.neural = nn.Linear(dim, 1)
        self.combine = nn.Linear(3, 1)
        self.register_buffer("prototype", torch.zeros(num_classes, dim))
        self.register_buffer("variance", torch.zeros(num_classes))  # 0: no batch had two utterances of the class yet
        self.register_buffer("frequency", torch.zeros(num_classes))

    @torch.no_grad()
    def observe(self, hidden: Tensor, label: Tensor, present: Tensor) -> None:
        """Update the running prototypes, variances and class frequencies with a labelled training batch."""
        valid = present & (label != IGNORE_INDEX)
        prototype, variance, frequency = self._averages()
        one_hot = F.one_hot(label[valid], len(frequency)).to(prototype)
        values = hidden[valid].to(prototype)
        with torch.autocast(hidden.device.type, enabled=False):  # sums of squares in half precision cancel to noise
            sums = torch.cat([one_hot.sum(0)[:, None], one_hot.T @ values], dim=1)
            squares = one_hot.T @ values.square().sum(-1)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(squares)
        count = sums[:, 0]
        seen = count > 0
        mean = sums[:, 1:] / count.clamp(min=1)[:, None]
        rate = torch.where(frequency > 0, self.momentum, 1.0).to(mean) * seen
        self.prototype.copy_(prototype.lerp(mean, rate[:, None]))
        # Over n - 1: a batch has few utterances of a rare emotion, and none says how far a single one is from others.
        spread = (squares - count * mean.square().sum(-1)).clamp(min=0) / (count - 1).clamp(min=1) / hidden.shape[1]
        rate = torch.where(variance > 0, self.momentum, 1.0).to(mean) * (count > 1)
        self.variance.copy_(variance.lerp(spread, rate))
        share = count / count.sum().clamp(min=1)
        # A batch without labels leaves the frequencies as they are.
        rate = torch.where(frequency.any(), self.momentum, 1.0).to(mean) * seen.any()
        self.frequency.copy_(frequency.lerp(share, rate))

    def _averages(self) -> tuple[Tensor, Tensor, Tensor]:
        """The running averages in float32 at least: sums and squares in half precision are noise."""
        wide = torch.promote_types(self.prototype.dtype, torch.float32)
        return self.prototype.to(wide), self.variance.to(wide), self.frequency.to(wide)

    def separation(self) -> Tensor:
        """q_stats: variance between the class prototypes over the mean variance within classes (eq. 12).

        A class whose variance is not known yet counts as the mean of the others.
        """
        prototype, variance, frequency = self._averages()
        weight = frequency / frequency.sum().clamp(min=1e-6)
        centre = (weight[:, None] * prototype).sum(0)
        between = (weight * (prototype - centre).square().mean(-1)).sum()
        within = (weight * variance).sum() / (weight * (variance > 0)).sum().clamp(min=1e-6)
        return between / (within + 1e-6)

    def forward(self, hidden: Tensor, logits: Tensor) -> Tensor:
        """Q ``(N, 1)`` in [0.1, 1] from representations ``(N, dim)`` and the modality's logits ``(N, C)``."""
        entropy = torch.special.entr(logits.float().softmax(-1)).sum(-1, keepdim=True)
        stats = self.separation().expand_as(entropy)
        indicators = torch.cat([stats, entropy, torch.sigmoid(self.neural(hidden)).float()], dim=-1)
        return torch.sigmoid(self.combine(indicators.to(self.combine.weight.dtype))).clamp(0.1, 1.0)


class CrossAttention(nn.Module):
    """Every modality attends to the others: multi-head attention with separate weights per query modality (eq. 18).

    There is always an additional key of zeros, so that a modality can attend to none of the others and has an output
    where it is alone. One tensor holds the weights of all modalities. Keys and values are projected on the side of the
    query, ``q (W x) = (q W) x``: once per query modality instead of once per pair of modalities.

    Args:
        modalities: Number of modalities M.
        dim: Width of a token.
        heads: Attention heads, a divisor of ``dim``.
        dropout: Probability on the attention weights.

    Raises:
        ValueError: ``heads`` does not divide ``dim``.
    """

    diagonal: Tensor

    def __init__(self, modalities: int, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim must be divisible by attention_heads, got {dim} and {heads}.")
        self.project = nn.Parameter(torch.empty(3, modalities, heads, dim // heads, dim))
        self.bias = nn.Parameter(torch.zeros(3, modalities, heads, dim // heads))
        self.join = nn.Parameter(torch.empty(modalities, dim, dim))
        self.join_bias = nn.Parameter(torch.zeros(modalities, dim))
        # Initialise as nn.MultiheadAttention: Xavier over the three projections of a modality, uniform for the join.
        nn.init.uniform_(self.project, -((1.5 / dim) ** 0.5), (1.5 / dim) ** 0.5)
        nn.init.uniform_(self.join, -(dim**-0.5), dim**-0.5)
        self.dropout = Dropout(dropout)
        self.register_buffer("diagonal", torch.eye(modalities, dtype=torch.bool), persistent=False)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Attend from the tokens ``(N, M, dim)`` to those that are ``present (N, M)``; returns ``(N, M, dim)``."""
        query_weight, key_weight, value_weight = self.project
        query_bias, key_bias, value_bias = self.bias
        query = torch.einsum("nmd,mhwd->nmhw", tokens, query_weight) + query_bias
        on_tokens = torch.einsum("nmhw,mhwd->nmhd", query, key_weight)
        score = torch.einsum("nmhd,nod->nmho", on_tokens, tokens) + (query * key_bias).sum(-1, keepdim=True)
        barred = (self.diagonal | ~present[:, None])[:, :, None]
        score = score.masked_fill(barred, torch.finfo(score.dtype).min)
        score = F.pad(score * query.shape[-1] ** -0.5, (0, 1))  # the key of zeros
        weight = self.dropout(score.softmax(-1))[..., :-1]
        attended = torch.einsum("nmho,nod->nmhd", weight, tokens)
        answer = torch.einsum("nmhd,mhwd->nmhw", attended, value_weight) + weight.sum(-1, keepdim=True) * value_bias
        return torch.einsum("nmd,med->nme", answer.flatten(2), self.join) + self.join_bias


class AttentionPooling(nn.Module):
    """Learnable queries attend to the modality tokens; their outputs are concatenated and projected.

    Args:
        dim: Width of a token.
        queries: Number of queries.
    """

    def __init__(self, dim: int, queries: int = 3) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, dim) * dim**-0.5)
        self.key = nn.Linear(dim, dim, bias=False)  # a bias adds the same to every score, which the softmax removes
        self.join = nn.Linear(queries * dim, dim)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Pool ``(N, M, dim)`` tokens, those of ``present (N, M)``, to ``(N, dim)``."""
        query = self.queries @ self.key.weight  # q (K x) = (q K) x, and there are fewer queries than tokens
        score = (query @ tokens.transpose(1, 2)) * tokens.shape[-1] ** -0.5
        weight = score.masked_fill(~present[:, None], torch.finfo(score.dtype).min).softmax(-1)
        pooled: Tensor = self.join((weight @ tokens).flatten(1))
        return pooled


class HierarchicalFusion(FusionHead):
    r"""Projection, quality gates, cross-modal attention, transformer, attention pooling, ensemble of heads.

    1. A mixture of experts projects every modality to the common width.
    2. Gates (eq. 11-17): qualities Q weight the context :math:`C = \sum_m Q^m H^m / \sum_m Q^m`, and
       :math:`G^m = \sigma(W_g [H^m; C])` scales the modality.
    3. Cross-modal attention (eq. 18): :math:`\alpha^m \mathrm{CrossAttn}(H^m_{gated}) + \beta^m H^m_{gated}`; the query
       is the modality, the keys are the others, and alpha and beta are learned, starting at 0.7 and 0.3.
    4. A transformer encoder over the modality tokens of the utterance.
    5. Attention pooling with learnable queries, optionally attention along the conversation, then linear heads whose
       logits are averaged; their disagreement and the entropy of the average are the ``uncertainty``.

    A missing modality is masked everywhere. Every subset of the modalities gives a prediction, even the empty one.

    Args:
        dims: Width of every modality.
        num_classes: Number of emotions C.
        dim: Common width, a multiple of ``attention_heads``.
        experts: Experts of each projection; 0 is a plain projection.
        top_k: Experts used per utterance.
        gating: Quality gates (ablation: off).
        cross_attention: Cross-modal attention (ablation: off).
        scope: ``utterance``: the fusion reads one utterance; ``conversation``: the fused utterance then attends along
            its conversation (:class:`merc.fusion.context.ConversationAttention`).
        layers: Layers of the transformer encoder.
        attention_heads: Heads of every attention.
        queries: Queries of the pooling.
        ensemble: Linear heads.
        dropout: Probability.
    """

    def __init__(
        self,
        dims: dict[str, int],
        num_classes: int,
        dim: int = 256,
        experts: int = 4,
        top_k: int = 2,
        gating: bool = True,
        cross_attention: bool = True,
        scope: Literal["utterance", "conversation"] = "utterance",
        layers: int = 1,
        attention_heads: int = 4,
        queries: int = 3,
        ensemble: int = 3,
        dropout: float = 0.35,
    ) -> None:
        super().__init__(dims, num_classes)
        if scope not in ("utterance", "conversation"):
            raise ValueError(f"scope must be 'utterance' or 'conversation', got {scope!r}.")
        names = list(dims)
        self.project = nn.ModuleDict({m: MixtureOfExperts(dims[m], dim, experts, top_k) for m in names})
        self.norm = nn.ModuleDict({m: nn.LayerNorm(dim) for m in names})
        self.auxiliary = nn.ModuleDict({m: nn.Linear(dim, num_classes) for m in names})
        self.quality = nn.ModuleDict({m: ModalityQuality(dim, num_classes) for m in names}) if gating else None
        self.gate = nn.ModuleDict({m: nn.Linear(2 * dim, dim) for m in names}) if gating else None
        self.cross = (
            CrossAttention(len(names), dim, attention_heads, dropout) if cross_attention and len(names) > 1 else None
        )
        self.alpha = nn.Parameter(torch.full((len(names),), 0.7)) if self.cross else None
        self.beta = nn.Parameter(torch.full((len(names),), 0.3)) if self.cross else None
        self.encoder = nn.ModuleList(_encoder_layer(dim, attention_heads, dropout) for _ in range(layers))
        self.along = ConversationAttention(dim, attention_heads, dropout=dropout) if scope == "conversation" else None
        self.pool = AttentionPooling(dim, queries)
        self.pool_norm = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)
        self.heads = nn.ModuleList(
            nn.Sequential(
                Dropout(dropout), nn.Linear(dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, num_classes)
            )
            for _ in range(ensemble)
        )

    def forward(self, batch: ConversationBatch) -> FusionOutput:
        """Fuse the modalities of every utterance; losses: ``balance``, the load balancing of the experts."""
        present = torch.stack([batch.present[m] for m in self.dims], dim=1)
        hidden: dict[str, Tensor] = {}
        balance: list[Tensor] = []
        for name in self.dims:
            here = batch.present[name]
            mixed, load = self.project[name](self.dropout(batch.features[name]), here)
            hidden[name] = F.gelu(self.norm[name](mixed)) * here[:, None]
            balance.append(load)
        aux_logits = {name: self.auxiliary[name](self.dropout(hidden[name])) for name in self.dims}
        gated = self._gated(batch, hidden, aux_logits)
        tokens = self._crossed(gated, present)
        for layer in self.encoder:
            # The token of a missing modality stays zero and is masked as a key. Attention without any key is undefined:
            # if all are missing, none is masked, and all of them are zero.
            padding = ~present & present.any(1, keepdim=True)
            tokens = layer(tokens, src_key_padding_mask=padding) * present[..., None]
        fused = self.pool(tokens, present)
        if self.along is not None:
            fused = self.along(fused, batch)
        fused = self.pool_norm(fused)
        votes = torch.stack([head(fused) for head in self.heads])
        logits = votes.mean(0)
        chances = self.emotion_logits(votes.detach()).float().softmax(-1)
        return FusionOutput(
            logits=logits,
            losses={"balance": torch.stack(balance).mean()},
            aux_logits=aux_logits,
            embeddings=fused,
            votes=votes,
            uncertainty={
                "disagreement": chances.var(0, unbiased=False).sum(-1),
                "entropy": torch.special.entr(self.emotion_logits(logits.detach()).float().softmax(-1)).sum(-1),
            },
        )

    def _gated(
        self, batch: ConversationBatch, hidden: dict[str, Tensor], aux_logits: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.quality is None or self.gate is None:
            return hidden
        if self.training:
            for name, quality in self.quality.items():
                cast(ModalityQuality, quality).observe(hidden[name], batch.label, batch.present[name])
        trust = {
            m: self.quality[m](h, self.emotion_logits(aux_logits[m])) * batch.present[m][:, None]
            for m, h in hidden.items()
        }
        total = torch.stack(list(trust.values())).sum(0).clamp(min=1e-6)
        context = torch.stack([trust[m] * h for m, h in hidden.items()]).sum(0) / total
        return {m: torch.sigmoid(self.gate[m](torch.cat([h, context.to(h)], -1))) * h for m, h in hidden.items()}

    def _crossed(self, gated: dict[str, Tensor], present: Tensor) -> Tensor:
        tokens = torch.stack(list(gated.values()), dim=1)
        if self.cross is None or self.alpha is None or self.beta is None:
            return tokens
        mixed: Tensor = self.alpha[:, None] * self.cross(tokens, present) + self.beta[:, None] * tokens
        return mixed * present[..., None]


def _encoder_layer(dim: int, heads: int, dropout: float) -> nn.TransformerEncoderLayer:
    layer = nn.TransformerEncoderLayer(
        dim, heads, dim_feedforward=2 * dim, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
    )
    layer.dropout = layer.dropout1 = layer.dropout2 = Dropout(dropout)  # stateless: one instance serves all three
    return layer
