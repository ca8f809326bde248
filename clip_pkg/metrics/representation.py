"""Quality of features without the classifier: spread, alignment, neighbours, a linear probe.

Legend: N images, D size of a feature, C classes, K neighbours.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # rows whose distances to all others are held at once
NEIGHBOURS = 20
NEIGHBOUR_TEMPERATURE = 0.07  # of the votes, as in Wu et al. 2018
RIDGE = 0.01  # weight of the penalty, per image


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of the two views [N, D] of an image on the sphere; 0 is perfect.

    Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", equation 1, α = 2.
    """
    a, b = _unit(first), _unit(second)
    return float((a - b).square().sum(dim=1).mean())


def uniformity(features: Tensor) -> float | None:
    """Log of the mean Gaussian kernel over all pairs of [N, D] on the sphere; less is more uniform.

    Wang and Isola 2020, equation 2, t = 2. 0 if all features are equal; None without a pair.
    """
    x = _unit(features)
    count = len(x)
    if count < 2:
        return None
    total = sum(float(torch.exp(4 * (rows @ x.T) - 4).sum()) for rows in torch.split(x, CHUNK))
    # Each pair was counted twice, and each feature with itself, which is e⁰.
    mean = max(total - count, 0.0) / (count * (count - 1))
    return float(torch.tensor(mean, dtype=torch.float64).log())


def effective_rank(features: Tensor) -> float:
    """Dimensions that the features [N, D] use, 1 … min(N, D).

    e to the entropy of the singular values, as shares of their sum: Roy and Vetterli 2007, "The
    effective rank: A measure of effective dimensionality", EUSIPCO, definition 1. The features
    are not centred, so that equal features use one dimension.
    """
    x = features.double()
    small = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T
    values = torch.linalg.eigvalsh(small).clamp(min=0).sqrt()
    total = values.sum()
    if total == 0:
        return 1.0
    shares = values / total
    return float(torch.special.entr(shares).sum().exp())


def feature_std(features: Tensor) -> float:
    """Mean over the D dimensions of the standard deviation of [N, D] on the sphere.

    1/√D if the features are spread over the sphere, 0 if they are equal: Chen and He
    2021, "Exploring Simple Siamese Representation Learning", section 4.1.
    """
    return float(_unit(features).std(dim=0, unbiased=False).mean())


def neighbour_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
) -> float:
    """Share of queries whose nearest neighbours in a bank of other images vote for their class.

    The K nearest by cosine vote with e^(cosine/0.07): Wu et al. 2018, "Unsupervised Feature
    Learning via Non-Parametric Instance Discrimination", section 3.4.

    Args:
        bank: [N, D].
        bank_labels: [N] int64.
        queries: [M, D].
        labels: [M] int64, of the queries.
        neighbours: K, or N where that is less.
    """
    known = _unit(bank)
    classes = int(torch.cat([bank_labels, labels]).max()) + 1
    correct = 0
    for rows, answers in zip(
        torch.split(_unit(queries), CHUNK), torch.split(labels, CHUNK), strict=True
    ):
        nearest, places = (rows @ known.T).topk(min(neighbours, len(known)), dim=1)
        votes = torch.exp((nearest - nearest[:, :1]) / NEIGHBOUR_TEMPERATURE)
        counts = votes.new_zeros(len(rows), classes)
        counts.scatter_add_(1, bank_labels[places], votes)
        correct += int((counts.argmax(dim=1) == answers).sum())
    return correct / len(labels)


def probe_accuracy(features: Tensor, labels: Tensor, others: Tensor, answers: Tensor) -> float:
    """Share of `others` that a linear classifier of `features` classifies correctly.

    A ridge regression on standardised features, in closed form: it solves one D × D system of
    equations, while a logistic regression takes longer than a small training.

    Args:
        features: [N, D].
        labels: [N] int64.
        others: [M, D].
        answers: [M] int64, of the others.
    """
    x = features.double()
    mean, std = x.mean(dim=0), x.std(dim=0, unbiased=False)
    std = torch.where(std > 0, std, 1.0)
    x = (x - mean) / std
    classes = int(torch.cat([labels, answers]).max()) + 1
    y = F.one_hot(labels, classes).double()
    intercept = y.mean(dim=0)
    penalty = RIDGE * len(x) * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (y - intercept))
    scores = ((others.double() - mean) / std) @ weights + intercept
    return float((scores.argmax(dim=1) == answers).double().mean())


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.double(), dim=1)
