"""A baseline for contradictions in the data: cleanlab's label issues (Northcutt et al. 2021, arXiv 1911.00068).

The fine-tuning rows are taken as a classification problem: the prompt is the text, the response its class. A row's
class probabilities come from a model that has not seen the row: logistic regression on TF-IDF of words and pairs
of words, five folds by row. A row's twins are thus mostly in training, which is what lets its label be doubted.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ilp_service.attribution.rules import UNATTRIBUTED
from ilp_service.benchmark.handed_in import PREDICTIONS
from ilp_service.benchmark.plants import INCONSISTENT
from ilp_service.benchmark.signals import Findings
from ilp_service.samples.sample import Sample

Array = npt.NDArray[np.float64]

_FOLDS = 5


def installed() -> bool:
    """Whether cleanlab is there; it comes with the extra ``bench``."""
    return find_spec("cleanlab") is not None


def label_issues(findings: Findings, seed: int = 0) -> pa.Table:
    """``data_inconsistency`` for every unlearned sample whose label cleanlab doubts, with one minus its quality."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    samples = findings.study.samples
    chances, labels = out_of_sample(samples, seed)
    flagged = find_label_issues(labels, chances, n_jobs=1)
    quality = get_label_quality_scores(labels, chances)
    place = {sample.sample_id: row for row, sample in enumerate(samples)}
    keys = findings.evidence.table["sample_id"].to_pylist()
    rows = [place[key] for key in keys]
    return pa.table(
        [
            [findings.built.name] * len(keys),
            keys,
            [INCONSISTENT if flagged[row] else UNATTRIBUTED for row in rows],
            [float(np.clip(1 - quality[row], 0, 1)) for row in rows],
        ],
        schema=PREDICTIONS,
    )


def out_of_sample(samples: Sequence[Sample], seed: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Class probabilities of every row from a model that has not seen it, and its class.

    Returns:
        Array of shape ``(samples, classes)``, rows summing to 1, and one of shape ``(samples,)``.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold

    classes, labels = np.unique([" ".join(sample.response.split()) for sample in samples], return_inverse=True)
    texts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(s.prompt for s in samples)
    chances = np.zeros((len(samples), len(classes)))
    for seen, unseen in KFold(_FOLDS, shuffle=True, random_state=seed).split(texts):
        model = LogisticRegression(C=10.0, max_iter=200).fit(texts[seen], labels[seen])
        chances[np.ix_(unseen, model.classes_)] = model.predict_proba(texts[unseen])
    return chances, labels.astype(np.int64)
