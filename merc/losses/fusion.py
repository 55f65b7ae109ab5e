"""The loss of the fusion stage: a weighted sum of classification, smoothing and contrast."""

from __future__ import annotations

from torch import Tensor, nn

from merc.losses._checks import full_precision, require_range, require_rows
from merc.losses.classification import (
    ClassificationLoss,
    LabelSmoothingCrossEntropy,
    PolynomialCrossEntropy,
    mean_over_labelled,
)
from merc.losses.contrastive import SupervisedContrastiveLoss


class FusionLoss(nn.Module):
    r"""The loss of the modality fusion.

    .. math:: L_{fusion} = \alpha L_{comp} + (1 - \alpha) L_{smooth} + \lambda L_{cont}(g(h))

    Eq. 20 of arXiv 2511.13731; g is the two-layer projection of eq. 25, which is part of this module: pass
    its parameters to the optimizer of the network. Without contrast (``lambda_cont=0``) there is no
    projection and the loss has no parameters. Ablations: ``alpha_comp=1, lambda_cont=0`` with
    ``comp=PolynomialCrossEntropy(alpha=0)`` is plain cross-entropy.

    Args:
        dim: Width of the embeddings; :class:`merc.tasks.FusionTask` passes that of its head. 0 if there are none.
        alpha_comp: :math:`\alpha`, the share of ``comp`` against ``smooth``, in 0..1.
        lambda_cont: :math:`\lambda`, weight of the contrastive term, at least 0.
        projection_dim: Width of the projections.
        comp: Main classification loss. Default: :class:`PolynomialCrossEntropy` (eq. 19).
        smooth: Smoothing loss. Default: :class:`LabelSmoothingCrossEntropy` (eq. 23, 24).
        cont: Contrastive loss. Default: :class:`SupervisedContrastiveLoss` (eq. 26).

    Raises:
        ValueError: An option is out of its range, or the contrast lacks embeddings.
    """

    def __init__(
        self,
        dim: int,
        alpha_comp: float = 0.8,
        lambda_cont: float = 0.1,
        projection_dim: int = 128,
        comp: ClassificationLoss | None = None,
        smooth: ClassificationLoss | None = None,
        cont: SupervisedContrastiveLoss | None = None,
    ) -> None:
        super().__init__()
        self.dim = int(require_range("FusionLoss", "dim", dim, 0))
        self.alpha_comp = require_range("FusionLoss", "alpha_comp", alpha_comp, 0.0, 1.0)
        self.lambda_cont = require_range("FusionLoss", "lambda_cont", lambda_cont, 0.0)
        require_range("FusionLoss", "projection_dim", projection_dim, 1)
        if lambda_cont and not dim:
            raise ValueError(
                f"FusionLoss contrasts embeddings (lambda_cont is {lambda_cont}), but the head returns none. "
                "Set lambda_cont to 0, or let the head return embeddings."
            )
        self.comp = comp or PolynomialCrossEntropy()
        self.smooth = smooth or LabelSmoothingCrossEntropy()
        self.cont = cont or SupervisedContrastiveLoss()
        self.projection = (
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, projection_dim)) if lambda_cont else None
        )

    def forward(self, logits: Tensor, label: Tensor, embeddings: Tensor | None = None) -> dict[str, Tensor]:
        """The weighted terms, whose sum is the loss.

        Args:
            logits: ``(N, C)``; half precision is widened to float32.
            label: ``(N,)`` ids in ``0..C-1``, -100 for unlabelled.
            embeddings: ``(N, dim)``, the fused representation before the classifier; may be ``None``
                without contrast.

        Returns:
            Scalars ``comp``, ``smooth`` and ``cont``. A term of weight 0 is left out; a term without
            utterances is 0 and still part of the autograd graph.

        Raises:
            ValueError: The shapes do not match, or required embeddings are missing.
        """
        require_rows("FusionLoss", "logits", logits, label)
        projections = None
        if self.projection is not None:
            if embeddings is None or embeddings.shape != (len(label), self.dim):
                found = "none" if embeddings is None else f"shape {tuple(embeddings.shape)}"
                raise ValueError(
                    f"FusionLoss: expected embeddings of shape ({len(label)}, {self.dim}), got {found}. "
                    "Build the loss for this width, or set lambda_cont to 0 for a head without embeddings."
                )
            projections = self.projection(embeddings)
        return self._terms(logits, label, projections)

    @full_precision
    def _terms(self, logits: Tensor, label: Tensor, projections: Tensor | None) -> dict[str, Tensor]:
        log_probabilities = logits.log_softmax(-1)
        terms = {}
        for name, loss, weight in (
            ("comp", self.comp, self.alpha_comp),
            ("smooth", self.smooth, 1 - self.alpha_comp),
        ):
            if weight:
                terms[name] = weight * mean_over_labelled(loss.per_utterance(log_probabilities, label), label)
        if projections is not None:
            terms["cont"] = self.lambda_cont * self.cont(projections, label)
        return terms
