"""One arm's final loss against another's: paired and Welch's t-tests, 95 % intervals, Holm's adjustment of p."""

import math
from dataclasses import dataclass
from statistics import fmean

from scipy.stats import t as student

from comparable import HASH, why_not
from study import rate_groups


@dataclass
class Comparison:
    """An arm's final loss minus a reference's, with its 95 % interval; `test` says how p was found, or why not."""
    reference: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    test: str = ""  # "paired", "Welch", "identical" (all seeds alike: nothing to test) or "" (too few seeds)
    p: float | None = None
    p_holm: float | None = None
    reason: str = ""  # why the two cannot be compared: then all numbers are None


def compare(arm, reference, loss):
    """Mean loss of `arm` minus that of `reference`, 95 % interval and two-sided p."""
    result = Comparison(reference.label(), reason=why_not(arm, reference, loss))
    if result.reason or arm.mean is None or reference.mean is None:
        return result
    result.difference = arm.mean - reference.mean
    n, m = len(arm.losses), len(reference.losses)
    if n < 2 or m < 2:
        return result
    if arm.losses.keys() == reference.losses.keys():
        differences = [arm.losses[seed] - reference.losses[seed] for seed in arm.losses]
        result.test, result.difference, freedom = "paired", fmean(differences), n - 1
        error = math.sqrt(math.fsum((d - result.difference) ** 2 for d in differences) / (n - 1) / n)
        if not any(differences):
            result.test = "identical"
    else:
        a, b = arm.sd**2 / n, reference.sd**2 / m
        result.test, error = "Welch", math.sqrt(a + b)
        freedom = (a + b) ** 2 / (a * a / (n - 1) + b * b / (m - 1)) if error else 1
    if not error:  # no spread at all: t is not defined
        return result
    quantile = student.ppf(0.975, freedom)  # good to ten digits in scipy 1.10: Newton's step makes it fifteen
    reach = error * (quantile - (student.cdf(quantile, freedom) - 0.975) / student.pdf(quantile, freedom))
    # Ten digits: the last ones depend on the version of scipy, and a committed summary must come out the same.
    result.low, result.high, result.p = (float(f"{value:.10g}") for value in (
        result.difference - reach, result.difference + reach, 2 * student.sf(abs(result.difference) / error, freedom)))
    return result


def adjust_by_holm(comparisons):
    """Holm's step-down p: the smallest times k, the next times k - 1 ..., never falling, at most 1."""
    tested, highest = sorted((c for c in comparisons if c.p is not None), key=lambda c: c.p), 0.0
    for rank, comparison in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * comparison.p))
        comparison.p_holm = float(f"{highest:.10g}")


def compare_arms(study):
    """Fills `against` of each arm: the families of comparisons that the tables show."""
    for arm in study.arms:
        arm.unlike = {loss: why_not(arm, study.baseline, loss) for loss in HASH}
        if arm is not study.baseline:
            arm.against["baseline"] = compare(arm, study.baseline, study.loss)
        twin = same_settings_twin(study, arm)
        if twin and arm.strategy != study.baseline.strategy:
            arm.against["same settings"] = compare(arm, twin, study.loss)
    best = {id(best): best for best, _ in best_rates(study)}
    reference = next((b for b, group in best_rates(study) if study.baseline in group), None)
    for arm in best.values():
        if reference and arm is not reference:
            arm.against["best rate"] = compare(arm, reference, study.loss)
    for family in ("baseline", "same settings", "best rate"):
        adjust_by_holm([arm.against[family] for arm in study.arms if family in arm.against])


def same_settings_twin(study, arm):
    """The arm of the baseline's precision whose other settings are those of `arm`."""
    own = [key for key in study.keys if key.startswith("precision.")]
    others = [key for key in study.keys if key not in own]
    return next((twin for twin in study.arms if all(twin.settings[key] == arm.settings[key] for key in others)
                 and all(twin.settings[key] == study.baseline.settings[key] for key in own)), None)


def best_rates(study):
    """(best arm, its group) where several rates were tried, and of the baseline's group: lowest mean loss, of the arms
    without a diverged or failed run if there are such. A group whose arms cannot be compared has no best."""
    result = []
    for group in rate_groups(study.arms):
        if len(group) == 1 and study.baseline not in group:
            continue
        if any(why_not(arm, group[0], study.loss) for arm in group):
            continue
        sound = [arm for arm in group if arm.losses and not arm.count("diverged") + arm.count("failed")]
        candidates = sound or [arm for arm in group if arm.losses]
        result += [(min(candidates, key=lambda arm: arm.mean), group)] if candidates else []
    return result
