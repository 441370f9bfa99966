"""How surely predictions know the given labels better than the class frequencies do."""

from __future__ import annotations

from torch import Tensor

from sklearn_clidmu.clid.weighted import class_sums, shares


def label_z_score(proba: Tensor, targets: Tensor, sample_weight: Tensor) -> float:
    """Excess of the given labels' probabilities over chance, in standard deviations of chance.

    Under chance, labels are drawn from the class frequencies, whatever the row. Predictions that
    are the same for all rows have 0, also if all of them are of the most frequent class. Those that
    give rare labels a higher probability where they occur have much, even if they never predict
    these. Unlike a difference of log losses, it does not count the certainty of predictions, which
    noisy labels belie.
    """
    proba, weight = proba.double(), shares(sample_weight.double())
    frequencies = class_sums(weight, targets, proba.shape[1])
    proba = proba - weight @ proba
    excess = weight @ proba.gather(1, targets[:, None])[:, 0]
    spread = (proba.square() @ frequencies - (proba @ frequencies).square()).clamp_min(0)
    chance = (weight.square() @ spread).sqrt()
    if not chance > 1e-9 * weight.square().sum().sqrt():  # rounding, or not a number
        return 0.0
    return float(excess / chance)
