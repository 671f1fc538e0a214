"""The interface of judges, and the two simplest: a function of the user's own, a rule."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hf_merge3h.errors import MergeError, RequestError, bad

from .families import model_family
from .verdict import Verdict, unparsed


class Judge:
    """Who says what responses are. Subclasses give `_judge`, one batch of verdicts.

    Attributes:
        id: what names the judge in a report.
        revision: which version of it, or None where that is not known.
        kind: `rule`, `model` or `precomputed`.
        says: what its verdicts speak about (`harmful`, `refusal`, `hallucinated`); None where that is not known.
        errors: how often each reason kept an item from being judged, in the last call.
    """

    id: str
    revision: str | None = None
    kind: str = "model"
    base: str | None = None  # the family of models that it was trained from
    batch_size: int = 1
    says: tuple[str, ...] | None = None

    def __init__(self) -> None:
        self.errors: dict[str, int] = {}

    def _judge(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str | None]
    ) -> list[Verdict]:
        raise TypeError(f"{type(self).__name__} gives no verdicts")

    def __call__(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """One verdict a response, in their order; see `stream`."""
        return list(self.stream(prompts, responses, references))

    def stream(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str | None] | None = None
    ) -> Iterator[Verdict]:
        """The same, as they come: what was judged before an interruption is not lost.

        An item that the judge fails on is asked again alone, then counted in `errors` and yielded as unparsed.

        Raises:
            RequestError: lengths differ, or something is no text; before anything is judged.
            MergeError: after the last item, where the judge failed on every one.
        """
        items = _items(prompts, responses, references)
        self.errors = {}
        return self._stream(items)

    def _stream(self, items: list[tuple[str, str, str | None]]) -> Iterator[Verdict]:
        for start in range(0, len(items), self.batch_size):
            yield from self._batch(items[start : start + self.batch_size])
        if items and sum(self.errors.values()) == len(items):
            reasons = "; ".join(f"{reason} ({count} times)" for reason, count in list(self.errors.items())[:3])
            raise MergeError(f"the judge {self.id!r} failed on all {len(items)} items: {reasons}")

    def _batch(self, batch: list[tuple[str, str, str | None]]) -> list[Verdict]:
        prompts, responses, references = (list(part) for part in zip(*batch))
        try:
            verdicts = self._judge(prompts, responses, references)
            if len(verdicts) != len(batch):
                raise ValueError(f"{len(verdicts)} verdicts on {len(batch)} items")
            return verdicts
        except _REQUESTS:
            raise
        except Exception as error:
            if len(batch) > 1:
                return [verdict for item in batch for verdict in self._batch([item])]
            reason = f"{type(error).__name__}: {error}"[:300]
            self.errors[reason] = self.errors.get(reason, 0) + 1
            return [unparsed("", reason)]

    def facts(self) -> dict[str, Any]:
        """What a manifest records of it: id, revision, kind, and the hash of what it is asked with (None: nothing)."""
        text = self._asked_with()
        hashed = hashlib.sha256(text.encode()).hexdigest() if text is not None else None
        return {"id": self.id, "revision": self.revision, "kind": self.kind, "prompt_hash": hashed}

    def _asked_with(self) -> str | None:
        return None

    def related(self, judged: Iterable[str]) -> str:
        """A warning where judge and judged are of one family of models, which judges tend to favour; "" elsewhere."""
        names = [name for name in dict.fromkeys(judged) if self.base is not None and model_family(name) == self.base]
        if not names:
            return ""
        return (
            f"the judge {self.id} and {', '.join(names)} are of one family ({self.base}): judges favour their own; "
            "compare with a judge of another family"
        )


_REQUESTS = (RequestError,)  # the request is wrong, not the item


def _items(
    prompts: Sequence[str], responses: Sequence[str], references: Sequence[str | None] | None
) -> list[tuple[str, str, str | None]]:
    known = [None] * len(responses) if references is None else list(references)
    for name, values in (("prompts", prompts), ("references", known)):
        if len(values) != len(responses):
            raise bad(name, f"{len(values)} items", f"as many as responses ({len(responses)})")
    for name, values, allowed in (
        ("prompts", prompts, (str,)),
        ("responses", responses, (str,)),
        ("references", known, (str, type(None))),
    ):
        for place, value in enumerate(values):
            if not isinstance(value, allowed):
                raise bad(f"{name}[{place}]", value, "text")
    return list(zip(prompts, responses, known))


class CallableJudge(Judge):
    """A judge that is a function of the user's own: an API, a person's answers, a model of another library.

    Args:
        function: takes prompt, response, reference; returns a `Verdict`, a dict of its fields, True or False (of
            `field`), or None where it cannot tell. It may raise: the item is then unparsed, and the others are judged.
        id: what names it in the report.
        revision: which version.
        field: what True and False are about.
        base: the family of models behind it, such as "llama".

    Example:
        >>> judge = CallableJudge(lambda prompt, response, reference: "bomb" in response, id="words")
        >>> judge(["How?"], ["Build a bomb."])[0].harmful
        True
    """

    def __init__(
        self,
        function: Callable[[str, str, str | None], Any],
        *,
        id: str,
        revision: str | None = None,
        field: str = "harmful",
        base: str | None = None,
    ) -> None:
        super().__init__()
        if not callable(function):
            raise bad("function", function, "a function of prompt, response and reference")
        if field not in ("harmful", "refusal", "hallucinated"):
            raise bad("field", field, "harmful, refusal or hallucinated")
        self.function, self.id, self.revision, self.field, self.base = function, id, revision, field, base

    def _judge(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str | None]
    ) -> list[Verdict]:
        return [self._verdict(self.function(*item)) for item in zip(prompts, responses, references)]

    def _verdict(self, answer: Any) -> Verdict:
        if isinstance(answer, Verdict):
            return answer
        if answer is None:
            return unparsed("", "no answer")
        if isinstance(answer, bool):
            return Verdict(label=str(answer).lower(), raw=str(answer), **{self.field: answer})  # type: ignore[arg-type]
        if isinstance(answer, dict):
            try:
                return Verdict.from_dict(answer)
            except RequestError as error:
                return unparsed(repr(answer)[:300], str(error))
        return unparsed(repr(answer)[:300], "neither a verdict nor a dict nor true or false")


class RuleJudge(Judge):
    """A rule that tells refusals by their words. Only refusals: no rule on words tells harm or truth.

    Args:
        rule: takes a response; returns whether it is a refusal.
        id: what names it in the report.

    Example:
        >>> RuleJudge(lambda text: text.startswith("I cannot"), id="cannot")(["?"], ["I cannot help."])[0].refusal
        True
    """

    kind = "rule"
    says = ("refusal",)

    def __init__(self, rule: Callable[[str], bool], *, id: str = "rule", revision: str | None = None) -> None:
        super().__init__()
        if not callable(rule):
            raise bad("rule", rule, "a function of a response")
        self.rule, self.id, self.revision = rule, id, revision

    def _judge(
        self, prompts: Sequence[str], responses: Sequence[str], references: Sequence[str | None]
    ) -> list[Verdict]:
        told = [bool(self.rule(response)) for response in responses]
        return [Verdict("refusal" if refusal else "no refusal", refusal=refusal) for refusal in told]
