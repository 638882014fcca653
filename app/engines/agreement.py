"""Agreement: how far answers are from those to the same pictures that are the right ones.

What a release is accepted by says the same of what travels over HTTP (`module_utils/golden.py` of the collection, which
has nothing of the image at hand); a test holds the two together.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Ranking(NamedTuple):
    """The best classes of one image, best first."""

    class_ids: list[int]
    probabilities: list[float]


def disagreement(expected: Sequence[Ranking], actual: Sequence[Ranking]) -> float:
    """The largest change of a probability; infinite when a best class changed."""
    return max((_change(*pair) for pair in zip(expected, actual, strict=True)), default=0.0)


def _change(reference: Ranking, ranking: Ranking) -> float:
    if reference.class_ids[0] != ranking.class_ids[0]:
        return float("inf")
    found = dict(zip(ranking.class_ids, ranking.probabilities, strict=True))
    least = ranking.probabilities[-1]
    worst = 0.0
    for class_id, probability in zip(reference.class_ids, reference.probabilities, strict=True):
        # A class that is not named any more has at most the probability of the last one that is.
        change = abs(found[class_id] - probability) if class_id in found else probability - least
        if not change <= worst:
            worst = change if change == change else float("inf")
    return worst
