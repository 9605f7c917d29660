"""Make the judge that a concept names, such as `words:glad,happy` or `classifier:MODEL=LABEL`."""

from __future__ import annotations

from collections.abc import Callable

from steer.base.errors import UsageError
from steer.measures import concepts
from steer.measures.concepts import Judge


def judge_of(
    concept: str,
    judge_model: str | None = None,
    judge_url: str | None = None,
    seed: int = 0,
    warn: Callable[[str], None] = lambda text: None,
) -> Judge:
    """The judge that a concept names. Loads a classifier; sends one test request to an endpoint.

    judge_model, judge_url: for `judge:...`, the model and the address of its server.

    Raises:
        UsageError: the concept is invalid, or the judge lacks a model or a label.
        ModelError: the classifier cannot be loaded.
        SteerError: the judge does not answer.
    """
    kind, rest = concepts.parse_concept(concept)
    if kind == "words":
        return concepts.by_words(rest)
    if kind == "grammar":
        return concepts.by_grammar(rest)
    if kind == "judge":
        from steer.evaluation.endpoint import Grader, GraderModel

        if not judge_model:
            raise UsageError(
                "a judge needs a model", hint="pass --judge-model, or set $STEER_JUDGE_MODEL"
            )
        return Grader(GraderModel(judge_model, judge_url, seed), rest, warn)
    location, equals, label = rest.rpartition("=")
    if not equals:
        raise UsageError("a classifier needs a label", hint=f"write classifier:{rest}=LABEL")
    from steer.evaluation.classifier import load

    return concepts.by_classifier(load(location), label)
