"""A suite is data: which sets, from where, asked how, scored by what. This reads one and checks it wholly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import Problems, SourceError, bad, nearest, show
from ..metrics import get, list_metrics

HERE = Path(__file__).parent / "suites"
H = ("helpfulness", "honesty", "harmlessness")
FORMS = ("generate", "choices", "likelihood", "code", "judged")
#: scored here and not by a metric of ours: mean log-likelihood a token of the gold answer
LIKELIHOOD = "gold_log_likelihood"
_SOURCES = ("hub", "wheel", "file")
#: why a data set of the suite is not evaluated where the user named others
NOT_ASKED = "not asked for"
#: metrics that ask a judge, and what of its verdict they count
JUDGED = {"safety_rate": "harmful", "hallucination_rate": "hallucinated"}


@dataclass(frozen=True)
class Task:
    """One data set of a suite, and what is done with it.

    Attributes:
        name: what reports call it.
        title: the data set in words.
        h, dimension: what it measures.
        metric, key, options: how it is scored; `key` is the figure that stands for it.
        direction: "higher" or "lower" is better.
        form: how models are asked (generate, choices, likelihood, code, judged).
        source: where the records are: `hub`, `wheel` or `file`, with revision, split, licence.
        fields: our names of a record's parts -> its own.
        where: values that a record must have to be taken (of a list, one of them).
        label: "safe" or "unsafe", where all prompts are one of them.
        prompt: how a question is put to a model, with `{question}`.
        few_shot: questions and answers that precede it where a model has no chat template.
        stop: texts at which an answer ends.
        max_new_tokens, samples, temperature: of generation; temperature 0 is greedy.
        averaged: whether it counts for its H.
        items: how many are asked at most; all by default.
    """

    name: str
    title: str
    h: str
    dimension: str
    metric: str
    key: str
    direction: str
    form: str
    source: Mapping[str, Any]
    fields: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    where: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    prompt: str = "{question}"
    few_shot: tuple[Mapping[str, str], ...] = ()
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 256
    samples: int = 1
    temperature: float = 0.0
    averaged: bool = True
    items: int | None = None

    @property
    def dataset_id(self) -> str:
        """Where the records are from, in one word."""
        source = self.source
        return str(source.get("hub") or source.get("of") or source.get("wheel") or source["file"])

    @property
    def most_tokens(self) -> int:
        """How much a model may write for one item; nothing where it is only measured."""
        return 0 if self.form in ("choices", "likelihood") else self.max_new_tokens * self.samples

    def at_most(self, limit: int | None) -> int | None:
        """How many items are asked where a run allows `limit`; None where nothing limits them."""
        return min((one for one in (limit, self.items) if one is not None), default=None)

    @property
    def revision(self) -> str | None:
        """The revision, version or hash that the records are pinned to."""
        source = self.source
        found = source.get("revision") or source.get("version") or source.get("sha256")
        return None if found is None else str(found)


@dataclass(frozen=True)
class Suite:
    """Tasks by name, and what the suite says about itself.

    `lacks` names what it does not measure, with reasons.
    """

    name: str
    about: str
    tasks: Mapping[str, Task]
    lacks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    folder: Path = HERE
    text: str = ""

    @property
    def digest(self) -> str:
        """Hash of the file that says all this."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def shortened(suite: Suite, tokens: Mapping[str, int]) -> Suite:
    """The suite with shorter answers to some of its data sets.

    Args:
        tokens: data set -> tokens that an answer may have.

    Raises:
        RequestError: no such data set, one that is not answered in words, or no number of tokens.
    """
    tasks = dict(suite.tasks)
    for name, count in tokens.items():
        if name not in tasks:
            raise bad("shorten", name, f"a data set of {suite.name}", nearest(name, tasks))
        if not tasks[name].most_tokens:
            raise bad("shorten", name, "a data set that models answer in words", f"{name} has them choose or read")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise bad(f"shorten[{name!r}]", count, "a whole number, 1 or more")
        if count < tasks[name].max_new_tokens:
            title = f"{tasks[name].title}, answers of {count} tokens"
            tasks[name] = replace(tasks[name], max_new_tokens=count, title=title)
    return replace(suite, tasks=tasks)


def list_suites() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(path.stem for path in HERE.glob("*.yaml"))


def read_suite(given: str | Path | Suite) -> Suite:
    """A suite by its name, or from a YAML file.

    Raises:
        RequestError: something in it is wrong; all that is wrong at once.
        SourceError: no such suite or file.
    """
    if isinstance(given, Suite):
        return given
    path = HERE / f"{given}.yaml" if str(given) in list_suites() else Path(given)
    if not path.is_file():
        raise SourceError(f"suite={show(str(given))}: no such suite or file; {nearest(str(given), list_suites())}")
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SourceError(f"{path}: cannot be read as YAML: {show(str(error))}") from None
    return _suite(content, path, text)


def _suite(content: Any, path: Path, text: str) -> Suite:
    tasks = content.get("datasets") if isinstance(content, Mapping) else None
    if not isinstance(tasks, Mapping) or not tasks:
        raise bad(f"suite {path}", tasks, "`datasets:` with at least one data set", "see `hf-merge3h suites show 3h`")
    problems = Problems(f"suite {path} cannot be used")
    found = {str(name): _task(str(name), facts, problems) for name, facts in tasks.items()}
    problems.raise_any()
    return Suite(
        str(content.get("name", path.stem)),
        str(content.get("about", "")).strip(),
        {name: task for name, task in found.items() if task is not None},
        content.get("lacks") or {},
        path.parent,
        text,
    )


def _task(name: str, facts: Any, problems: Problems) -> Task | None:
    before = len(problems.found)
    if not isinstance(facts, Mapping):
        problems.add(f"{name}={show(facts)}: expected a mapping")
        return None
    known = {one for one in Task.__dataclass_fields__ if one != "name"}
    for key in facts:
        if key not in known:
            problems.add(f"{name}.{key}: no such key; {nearest(str(key), known)}")
    for key in ("title", "h", "dimension", "metric", "key", "direction", "form", "source", "fields"):
        if key not in facts:
            problems.add(f"{name}: lacks `{key}`")
    _one_of(problems, f"{name}.h", facts.get("h"), H)
    _one_of(problems, f"{name}.form", facts.get("form"), FORMS)
    _one_of(problems, f"{name}.direction", facts.get("direction"), ("higher", "lower"))
    _one_of(problems, f"{name}.metric", facts.get("metric"), [*(one.name for one in list_metrics()), LIKELIHOOD])
    if facts.get("form") in FORMS and (facts["form"] == "judged") != (facts.get("metric") in JUDGED):
        problems.add(f"{name}.form={show(facts['form'])}: expected judged for {', '.join(JUDGED)}, and for them alone")
    source = facts.get("source")
    if not isinstance(source, Mapping) or len([one for one in _SOURCES if one in source]) != 1:
        problems.add(f"{name}.source={show(source)}: expected one of hub, wheel, file")
    if not isinstance(facts.get("fields"), Mapping):
        problems.add(f"{name}.fields={show(facts.get('fields'))}: expected a mapping of our names to the record's")
    warm, samples = facts.get("temperature", 0), facts.get("samples", 1)
    if isinstance(warm, bool) or not isinstance(warm, (int, float)) or not 0 <= warm < float("inf"):
        problems.add(f"{name}.temperature={show(warm)}: expected a number, 0 (greedy) or more")
    elif samples != 1 and (warm == 0 or facts.get("form") != "code"):
        problems.add(
            f"{name}.samples={show(samples)}: expected 1, but for form: code with a temperature above 0; greedy "
            "samples are all the same, and the other metrics score one answer"
        )
    if facts.get("label") not in (None, "safe", "unsafe"):
        problems.add(f"{name}.label={show(facts.get('label'))}: expected safe or unsafe")
    for key in ("max_new_tokens", "samples", "items"):
        if not isinstance(facts.get(key, 1), int) or facts.get(key, 1) < 1:
            problems.add(f"{name}.{key}={show(facts[key])}: expected a whole number, 1 or more")
    if len(problems.found) > before:
        return None
    if facts["metric"] != LIKELIHOOD and facts["key"] not in get(facts["metric"]).returns:
        problems.add(
            f"{name}.key={show(facts['key'])}: {facts['metric']} gives {', '.join(get(facts['metric']).returns)}"
        )
        return None
    listed = {key: tuple(facts[key]) for key in ("few_shot", "stop") if key in facts}
    return Task(name, **{**facts, **listed})


def _one_of(problems: Problems, where: str, value: Any, known: Any) -> None:
    if value is not None and value not in known:
        problems.add(f"{where}={show(value)}: {nearest(str(value), known)}")


def settings_hash(task: Task) -> str:
    """Hash of all that makes a model's answers what they are; answers under other settings are not mixed with these."""
    told = {name: getattr(task, name) for name in
            ("prompt", "few_shot", "stop", "max_new_tokens", "samples", "temperature", "form")}  # fmt: skip
    text = json.dumps(
        told, sort_keys=True, default=lambda value: list(value) if isinstance(value, tuple) else dict(value)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
