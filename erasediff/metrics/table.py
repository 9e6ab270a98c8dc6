"""The one table of metrics: what each is called, means, and is gated by. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

from erasediff.metrics.intervals import Estimate, difference
from erasediff.metrics.rules import GatedMetric, GateRule, Metric, Numbers

#: Pictures without which no number is given of how sets of features lie. With fewer, what they measure is their count:
#: of a Fréchet distance the floor, of neighbours how far these are apart.
OF_SETS = 100
#: Of a single concept: the interval of 5 seen of 10 is half of the scale. A share of many concepts needs 30, where a
#: share near 0 or 1 is known to 11 points.
OF_ONE = 10


def base_recognised(base: Numbers, erased: Numbers, pairing: Numbers) -> Estimate | None:
    """Share of the base's pictures that are recognised, of the forgotten or the retained concepts: the lesser."""
    found = [Estimate.of(base, kept.name) for kept in (RETAIN_ACCURACY, CROSS_DOMAIN) if kept.name in base]
    if UNLEARNING_ACCURACY.name in base:
        found.append(difference(Estimate(1.0, 1.0, 1.0), Estimate.of(base, UNLEARNING_ACCURACY.name)))
    return (
        Estimate(*(min(ends) for ends in zip(*((e.value, e.low, e.high) for e in found), strict=True)))
        if found
        else None
    )


def worst_drop(base: Numbers, erased: Numbers, pairing: Numbers) -> Estimate | None:
    """How much less the pictures of a single retained concept are recognised, of the concept that lost most."""
    names = [name for name in base if name.startswith(f"{KEPT.name}.") and name in erased]
    found = [difference(Estimate.of(base, n), Estimate.of(erased, n), pairing.get(n, 0.0)) for n in names]
    return Estimate(*(max(e) for e in zip(*((e.value, e.low, e.high) for e in found), strict=True))) if found else None


def worst_unlearning(base: Numbers, erased: Numbers, pairing: Numbers) -> Estimate | None:
    """How much is forgotten of the concept that is forgotten least, of several."""
    names = [name for name in erased if name.startswith(f"{UNLEARNED.name}.")]
    found = [Estimate.of(erased, name) for name in names]
    return Estimate(*(min(e) for e in zip(*((e.value, e.low, e.high) for e in found), strict=True))) if found else None


def closeness_rise(base: Numbers, erased: Numbers, pairing: Numbers) -> Estimate | None:
    """How much more retained pictures lie close to training pictures than the base's, or than held-out ones do.

    Nothing where it is less. The more of the two counts: what a bad base drew may come as close as real pictures are.
    """
    name = RETAIN_CLOSE.name
    if name not in base or name not in erased:
        return None
    before = Estimate.of(base, name)
    before = before if before.value > 0.5 else Estimate(0.5, 0.5, 0.5)
    rise = difference(Estimate.of(erased, name), before, 0.0 if before.is_exact else pairing.get(name, 0.0))
    return Estimate(*(max(0.0, end) for end in (rise.value, rise.low, rise.high)))


def distance_rise(base: Numbers, erased: Numbers, pairing: Numbers) -> Estimate | None:
    """How much farther the erased model is from held-out pictures, as a share of the variance of these.

    What a distance of few pictures has too much of it has of both models, and that goes away in the difference.
    """
    name, variance = DISTANCE.name, base.get(HELD_OUT_VARIANCE.name, 0.0)
    if name not in base or name not in erased or variance <= 0:
        return None
    it = difference(Estimate.of(erased, name), Estimate.of(base, name), pairing.get(name, 0.0))
    return Estimate(it.value / variance, it.low / variance, it.high / variance)


RECOGNISED = Metric(
    "recognised",
    # The forgotten concepts too: of the base it is a quality, of the erased model it is none.
    "pictures recognised, all concepts",
    "higher",
    "recognition.recognised",
    compared=False,
)
UNLEARNING_ACCURACY = Metric(
    "unlearning_accuracy",
    "pictures drawn for forgotten concepts in which none of these is recognised",
    "higher",
    "recognition.unlearning_accuracy",
    gate=GateRule(
        "min_unlearning_accuracy",
        "share",
        "{value:.1%} of the pictures drawn for {forgotten} are not recognised as such (at least {limit:.0%})",
        "It forgot too little: raise erase.outer_steps or erase.eta, or try another erase.method.",
    ),
    title="forgotten concepts not recognised",
)
EARLIER_UNLEARNING_ACCURACY = Metric(
    "earlier_unlearning_accuracy",
    "the same of concepts that the base had forgotten before",
    "higher",
    "recognition.earlier_unlearning_accuracy",
    gate=GateRule(
        "min_unlearning_accuracy",
        "share",
        "{value:.1%} of the pictures drawn for what the base had forgotten before are not recognised as such "
        "(at least {limit:.0%})",
        "What the base had forgotten came back: lower erase.learning_rate or erase.outer_steps.",
    ),
    title="concepts forgotten before, not recognised",
)
UNLEARNED = Metric(
    "unlearned",
    "pictures drawn for the forgotten concept in which none of these is recognised",
    "higher",
    "recognition.unlearned",
    per_concept=True,
    least=OF_ONE,
    compared=False,
)
WORST_UNLEARNING = Metric(
    "worst_unlearning_accuracy",
    # All together hide the one that was not forgotten.
    "the same of the concept that is forgotten least, of those now and before",
    "higher",
    gate=GateRule(
        "min_unlearning_accuracy",
        worst_unlearning,
        "Of the concept that is forgotten least, {value:.1%} of the pictures are not recognised as such (at least "
        "{limit:.0%})",
        "One concept was not forgotten: look at the table of concepts, and raise erase.outer_steps or erase.eta.",
        of=("unlearned",),
    ),
    title="the concept that is forgotten least",
)
FORGOTTEN_ELSEWHERE = Metric(
    "forgotten_elsewhere",
    "pictures drawn for retained concepts in which a forgotten one is recognised",
    "lower",
    "recognition.forgotten_elsewhere",
    title="forgotten concepts seen in other pictures",
)
BASE_ACCURACY = Metric(
    "base_accuracy",
    # What the base does not draw would pass as forgotten, or as kept.
    "the base's pictures that are recognised, of forgotten or of retained concepts, the lesser",
    "higher",
    gate=GateRule(
        "min_base_accuracy",
        base_recognised,
        "The base model draws recognisable pictures, both of what was to be forgotten and of the rest ({value:.1%} or "
        "more; a comparison needs {limit:.0%})",
        "The base draws too badly to compare with: raise pretrain.steps, or look at evaluate.inference_steps and "
        "evaluate.guidance_scale.",
        of=("unlearning_accuracy", "in_domain_retain_accuracy", "cross_domain_retain_accuracy"),
    ),
    title="base model's pictures recognised",
)
RETAIN_ACCURACY = Metric(
    "in_domain_retain_accuracy",
    "pictures drawn for retained concepts that are recognised",
    "higher",
    "recognition.in_domain_retain_accuracy",
    gate=GateRule(
        "max_retain_accuracy_drop",
        "drop",
        "{erased:.1%} of the pictures drawn for retained concepts are recognised, of the base's {base:.1%} "
        "(at most {points:g} percentage points less)",
        "It lost too much: lower erase.learning_rate, erase.eta or erase.outer_steps.",
    ),
    title="retained concepts recognised",
)
CROSS_DOMAIN = Metric(
    "cross_domain_retain_accuracy",
    "the same of retained concepts of another domain, as styles where an object was forgotten",
    "higher",
    "recognition.cross_domain_retain_accuracy",
    gate=GateRule(
        "max_retain_accuracy_drop",
        "drop",
        "{erased:.1%} of the pictures drawn for concepts of other domains are recognised, of the base's {base:.1%} "
        "(at most {points:g} percentage points less)",
        "It lost too much of another domain: keep its concepts too, or lower erase.learning_rate or erase.outer_steps.",
    ),
    title="retained concepts of other domains recognised",
)
DISTANCE = Metric(
    "fd_classifier",
    "Fréchet distance of the judge's features, retained concepts, to held-out pictures",
    "lower",
    "distance.fd_classifier",
    kind="set",
    resamples=200,
    least=OF_SETS,
    gate=GateRule(
        "max_distance_ratio",
        "ratio",
        "Retained pictures are {value:.2f} times as far from held-out ones as the base's (at most {limit:g})",
        "Retained pictures became worse: lower erase.learning_rate or erase.eta, or give more pictures to retain.",
    ),
    title="distance to held-out pictures",
)

HELD_OUT_VARIANCE = Metric(
    "held_out_variance",
    "variance of the judge's features of held-out pictures, all entries together",
    "higher",
    "distance.held_out_variance",
    kind="set",
    resamples=2,
    compared=False,
)
DISTANCE_RISE = Metric(
    "distance_rise",
    # A ratio hides a rise behind what both distances have of few pictures.
    "how much farther than the base's retained pictures lie from held-out ones, as a share of the variance of these",
    "lower",
    least=OF_SETS,
    compared=False,
    gate=GateRule(
        "max_distance_rise",
        distance_rise,
        "Retained pictures lie {value:.2%} of the variance of held-out ones farther from these than the base's "
        "(at most {limit:.2%})",
        "Retained pictures became worse: lower erase.learning_rate or erase.eta, or give more pictures to retain.",
        of=(DISTANCE.name,),
        optional=True,
        same_protocol=True,
    ),
    title="rise of the distance to held-out pictures",
)

FORGET_DEGENERATE = Metric(
    "forget_degenerate",
    "pictures drawn for forgotten concepts that are blank, noise, or near-copies of training pictures or of each other",
    "lower",
    "pictures.forget_degenerate",
    gate=GateRule(
        "max_forget_degenerate",
        "share",
        "{value:.1%} of the pictures drawn for {forgotten} are blank, noise or near-copies (at most {limit:.0%})",
        "It draws no pictures for what it forgot: try another erase.forget_target, or raise "
        "verdict.max_forget_degenerate if that is what you want.",
    ),
    title="blank, noise or copies for forgotten concepts",
)
RETAIN_DEGENERATE = Metric(
    "retain_degenerate",
    "pictures drawn for retained concepts that are blank, noise, or near-copies of training pictures or of each other",
    "lower",
    "pictures.retain_degenerate",
    gate=GateRule(
        "max_retain_degenerate_rise",
        "rise",
        "{erased:.1%} of the pictures drawn for retained concepts are blank, noise or near-copies, of the base's "
        "{base:.1%} (at most {points:g} percentage points more)",
        "It copies or repeats itself: lower erase.learning_rate or erase.outer_steps, or give more pictures to retain.",
    ),
    title="blank, noise or copies for retained concepts",
)
RETAIN_CLOSE = Metric(
    "retain_close",
    # Real pictures that no model has seen are about 0.5: a copy under a little noise is no near-copy, and still close.
    "pictures drawn for retained concepts that lie closer to a training picture than half of the held-out ones do",
    "lower",
    "pictures.retain_close",
    title="retained pictures close to training pictures",
)
CLOSENESS_RISE = Metric(
    "retain_closeness_rise",
    "how much more often retained pictures lie close to a training picture than the base's or, if that is more, than "
    "held-out ones do",
    "lower",
    compared=False,
    gate=GateRule(
        "max_retain_closeness_rise",
        closeness_rise,
        "{value:.1%} more of the retained pictures lie close to training pictures than of the base's or of real ones "
        "(at most {limit:.0%})",
        "It draws training pictures again: lower erase.learning_rate or erase.outer_steps, or give more to retain.",
        of=(RETAIN_CLOSE.name,),
        optional=True,
    ),
    title="rise of closeness to training pictures",
)
KEPT = Metric(
    "kept",
    "pictures drawn for the retained concept that are recognised",
    "higher",
    "recognition.kept",
    per_concept=True,
    least=OF_ONE,
    compared=False,
)
WORST_DROP = Metric(
    "worst_concept_drop",
    # What all lose together hides what one of them loses.
    "recognised pictures that a single retained concept lost, of the concept that lost most",
    "lower",
    gate=GateRule(
        "max_concept_drop",
        worst_drop,
        "The retained concept that lost most is recognised in {value:.1%} of its pictures less than before "
        "(at most {limit:.0%})",
        "One retained concept was hit: look at the table of concepts, and lower erase.learning_rate or erase.eta.",
        of=("kept",),
    ),
    title="loss of the retained concept that lost most",
)
ATTACK_RISE = Metric(
    "attack_rise",
    "how much more often an attack finds the forgotten concepts than on a model that never saw them, of the attack "
    "that finds most",
    "lower",
    kind="mean",
    gate=GateRule(
        "max_attack_rise",
        "share",
        "The attack that finds most finds {forgotten} in {value:.1%} of all pictures more than on a model that never "
        "saw it (at most {limit:.0%})",
        "An attack brings it back, the table of attacks says which: raise erase.outer_steps, or forget more words.",
        optional=True,
    ),
    title="what the strongest attack finds",
    compared=False,
)
NEIGHBOUR_ACCURACY = Metric(
    "neighbour_accuracy",
    # Chosen by what the base draws, so that both models are asked about the same ones.
    "pictures recognised of the retained concepts that look most like the forgotten ones",
    "higher",
    title="nearest retained concepts recognised",
)
CHANGE = Metric(
    "retained_change_judge_features",
    "how far a retained picture moved from the base's of the same prompt and seed, in direction of the judge's "
    "features (0: the same, 1: nothing in common)",
    "lower",
    title="change of retained pictures",
    compared=False,
)
CLIP_SCORE = Metric(
    "clip_score",
    "100 × the cosine of picture and prompt by CLIP, retained concepts",
    "higher",
    "similarity.clip_score",
    kind="mean",
    title="CLIP score",
    digits=2,
)
INCEPTION = Metric(
    "fid_inception2048",
    "FID: Fréchet distance of Inception-v3's features, retained concepts, to held-out pictures",
    "lower",
    "distance.fid_inception2048",
    kind="set",
    resamples=20,
    least=OF_SETS,
    title="FID",
    digits=2,
)
#: Fidelity and diversity of pictures drawn for retained concepts, in the judge's features.
FIDELITY = (
    Metric(
        "kid_classifier",
        # The estimate is unbiased for pictures of any concept by chance; of equally many each, pairs within are rarer.
        "kernel distance of the judge's features, retained concepts, to held-out pictures; of the same about 0, and "
        "below it where each concept is drawn equally often: compare it with the base's",
        "lower",
        "distance.kid_classifier",
        kind="set",
        ends=(-math.inf, math.inf),
        least=OF_SETS,
        title="kernel distance to held-out pictures",
        digits=4,
    ),
    Metric(
        "precision_classifier",
        "retained pictures that lie among held-out ones, in the judge's features",
        "higher",
        "manifold.precision_classifier",
        least=OF_SETS,
        title="retained pictures that look real",
    ),
    Metric(
        "recall_classifier",
        "held-out pictures that lie among retained drawn ones, in the judge's features",
        "higher",
        "manifold.recall_classifier",
        kind="set",
        ends=(0.0, 1.0),
        least=OF_SETS,
        title="real variety that is drawn",
    ),
    Metric(
        "density_classifier",
        "how densely held-out pictures lie around a retained drawn one, in the judge's features; about 1 of the same",
        "higher",
        "manifold.density_classifier",
        kind="mean",
        least=OF_SETS,
        title="density around real pictures",
    ),
    Metric(
        "coverage_classifier",
        "held-out pictures with a retained drawn one nearby, in the judge's features",
        "higher",
        "manifold.coverage_classifier",
        kind="set",
        ends=(0.0, 1.0),
        least=OF_SETS,
        title="coverage of real pictures",
    ),
)
#: The parts of :data:`FORGET_DEGENERATE`.
INSTEAD = tuple(
    Metric(
        f"forget_{mark}", f"pictures drawn for forgotten concepts that are {words}", "lower", f"pictures.forget_{mark}",
        compared=False,
    )
    for mark, words in {
        "blank": "blank",
        "noise": "noise",
        "copied": "near-copies of training pictures",
        "repeated": "near-copies of other drawn pictures",
    }.items()
)  # fmt: skip

#: Every metric by its name, in the order in which they are measured and shown.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        RECOGNISED,
        UNLEARNING_ACCURACY,
        Metric(
            "forget_class_probability",
            "mean probability of the forgotten concepts, over the pictures drawn for them",
            "lower",
            "recognition.forget_class_probability",
            kind="mean",
            title="judge's belief in forgotten concepts",
        ),
        Metric(
            "forget_class_entropy_nats",
            "mean entropy of the judge's answer to pictures drawn for forgotten concepts, nats",
            "higher",
            "recognition.forget_class_entropy_nats",
            kind="mean",
            title="judge's doubt about their pictures",
        ),
        EARLIER_UNLEARNING_ACCURACY,
        UNLEARNED,
        WORST_UNLEARNING,
        FORGOTTEN_ELSEWHERE,
        BASE_ACCURACY,
        RETAIN_ACCURACY,
        CROSS_DOMAIN,
        NEIGHBOUR_ACCURACY,
        DISTANCE,
        HELD_OUT_VARIANCE,
        DISTANCE_RISE,
        INCEPTION,
        *FIDELITY,
        CLIP_SCORE,
        CHANGE,
        KEPT,
        WORST_DROP,
        ATTACK_RISE,
        FORGET_DEGENERATE,
        RETAIN_DEGENERATE,
        RETAIN_CLOSE,
        CLOSENESS_RISE,
        *INSTEAD,
        Metric(
            "accuracy",
            "pictures drawn for the concept that are recognised",
            "higher",
            "recognition.accuracy",
            title="pictures recognised",
            per_concept=True,
            least=OF_ONE,
        ),
        # Does not compare: stages run side by side with others.
        Metric("seconds", "time that the evaluation took", "lower", compared=False),
    )
}


def metric_of(name: str) -> Metric | None:
    """The metric that a number belongs to, by the number's name; ``None`` of a spread or an end, or of no metric."""
    head, dot, _ = name.partition(".")
    if dot:  # a concept's name may end in anything
        found = METRICS.get(head)
        return found if found and found.per_concept else None
    found = METRICS.get(name)
    return found if found and not found.per_concept else None


def untold_of(counts: Mapping[str, int]) -> dict[str, str]:
    """Why a metric is not given, by its name: its numbers stand on too few pictures.

    Args:
        counts: pictures by the names of numbers; of single concepts those of the fewest count.
    """
    found = {}
    for name, n in sorted(counts.items(), key=lambda pair: -pair[1]):
        if (metric := metric_of(name)) and (why := metric.untold(n)):
            found[metric.name] = why
    return found


#: Every metric that is a gate, by the gate's name.
GATES: dict[str, GatedMetric] = {
    gated.name: gated for gated in (GatedMetric(m, m.gate) for m in METRICS.values() if m.gate)
}


def gate_of(metric: Metric) -> GatedMetric | None:
    """The gate of a metric that has one."""
    return next((gated for gated in GATES.values() if gated.metric == metric), None)


def compared(base: Numbers, erased: Numbers) -> dict[str, Metric]:
    """The numbers shown side by side, with their metrics: those that both models have, in this table's order."""
    found = {name: metric for name in base if name in erased and (metric := metric_of(name)) and metric.compared}
    order = {name: number for number, name in enumerate(METRICS)}
    return dict(sorted(found.items(), key=lambda pair: order[pair[1].name]))
