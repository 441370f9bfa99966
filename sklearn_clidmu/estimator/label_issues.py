"""Labels that look wrong, most suspect first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sklearn_clidmu.estimator.label_report import shorten

N_SHOWN = 10
"""Issues that are printed."""


@dataclass(frozen=True, eq=False, repr=False)
class LabelIssues:
    """Labels that look wrong, from :func:`find_label_issues`; ``len()`` says how many.

    Parameters
    ----------
    mask : ndarray of shape (n_samples,), bool
        Rows that are issues; all arrays of this shape are in the caller's order.
    scores : ndarray of shape (n_samples,)
        Noise scores, in [0, 1]; nan where there is no label.
    given_labels, suggested_labels : ndarray of shape (n_samples,)
        The label, and the one that it should probably be; None where that is not known.
    noise_rate : float
        Estimated share of wrong labels, whatever the threshold.

    Attributes
    ----------
    index : ndarray of shape (n_issues,), int
        Positions of the issues among all rows, most suspect first; what follows is in this order.
    given_label, suggested_label : ndarray of shape (n_issues,)
        The labels of the issues, and those that they should probably have.
    score : ndarray of shape (n_issues,)
        Their noise scores.
    """

    mask: np.ndarray
    scores: np.ndarray
    given_labels: np.ndarray
    suggested_labels: np.ndarray
    noise_rate: float

    @cached_property
    def index(self) -> np.ndarray:
        """Positions of the issues among all rows."""
        rows = np.flatnonzero(self.mask)
        return rows[np.argsort(-self.scores[rows], kind="stable")]

    @property
    def given_label(self) -> np.ndarray:
        """Labels of the issues."""
        return self.given_labels[self.index]

    @property
    def suggested_label(self) -> np.ndarray:
        """Labels that the issues should probably have."""
        return self.suggested_labels[self.index]

    @property
    def score(self) -> np.ndarray:
        """Noise scores of the issues."""
        return self.scores[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        n_labels = np.count_nonzero(~np.isnan(self.scores))
        lines = [
            f"{len(self)} label issues among {n_labels} labels "
            f"(estimated noise rate {self.noise_rate:.0%})"
        ]
        if len(self):
            lines += self._table(slice(N_SHOWN))
        if len(self) > N_SHOWN:
            lines.append(f"and {len(self) - N_SHOWN} more")
        return "\n".join(lines)

    def _table(self, top: slice) -> list[str]:
        columns = [
            ["row", *map(str, self.index[top])],
            ["given label", *map(shorten, self.given_label[top])],
            ["suggested", *map(shorten, self.suggested_label[top])],
            ["score", *(f"{score:.3f}" for score in self.score[top])],
        ]
        aligned = [[text.rjust(max(map(len, column))) for text in column] for column in columns]
        return ["  ".join(cells) for cells in zip(*aligned, strict=True)]

    def to_frame(self) -> Any:
        """Table of all rows, in the caller's order, with the columns that cleanlab uses.

        ``CleanLearning(...).fit(X, y, label_issues=issues.to_frame())`` takes it.

        Returns
        -------
        pandas.DataFrame
            Columns ``is_label_issue`` (bool), ``label_quality`` (one minus the score),
            ``given_label`` and ``predicted_label``.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise ImportError(
                "to_frame needs pandas: pip install pandas, or read the arrays index, "
                "given_label, suggested_label and score."
            ) from error
        return DataFrame(
            {
                "is_label_issue": self.mask,
                "label_quality": 1 - self.scores,
                "given_label": self.given_labels,
                "predicted_label": self.suggested_labels,
            }
        )
