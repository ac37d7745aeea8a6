"""The Inception score: how sure a classifier is of each image, and how varied its answers are."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minidiff.errors import InputError
from minidiff.metrics.arrays import check_features


class Score(NamedTuple):
    """Mean and standard deviation over the splits (0 for one split)."""

    mean: float
    std: float


def inception_score(probabilities: Any, *, splits: int = 1) -> Score:
    """exp(mean over images of KL(p(y | x) || p(y))), with p(y) the mean of all p(y | x).

    Salimans et al. 2016, section 4. It lies between 1, if the classifier gives the same answer for
    all images, and K, if it is sure of each and all K classes are as many. Its logarithm is the
    entropy of p(y) less the mean entropy of p(y | x): variety less doubt. It knows nothing of
    real images, and nothing of variety within a class.

    Parameters
    ----------
    probabilities : array of shape (N, K)
        p(y | x) for each image: numbers >= 0, of which each row sums to 1.
    splits : int, 1 <= splits <= N
        The images are cut into that many parts, in their order, each with its own p(y); the paper
        has 10 of 5,000 images. Images that are sorted by class must be shuffled before.

    Returns
    -------
    Score
    """
    p = check_features(probabilities, "probabilities", least=1)
    if p.min() < 0 or np.abs(p.sum(1) - 1).max() > 1e-4:
        raise InputError(
            "probabilities must be >= 0 and sum to 1 in each row; of logits take the softmax first"
        )
    if not isinstance(splits, int | np.integer) or isinstance(splits, bool):
        raise InputError(f"splits must be a whole number, got {splits!r}")
    if not 1 <= splits <= len(p):
        raise InputError(f"splits must lie in 1..{len(p)}, the number of images, got {splits}")
    scores = np.array([_score(part) for part in np.array_split(p, splits)])
    return Score(float(scores.mean()), float(scores.std()))


def _score(p: NDArray[np.float64]) -> float:
    p = p / p.sum(1, keepdims=True)
    p_y = np.broadcast_to(p.mean(0), p.shape)
    ratio = np.divide(p, p_y, out=np.ones_like(p), where=p > 0)  # 0 log 0 = 0
    return float(np.exp((p * np.log(ratio)).sum(1).mean()))
