"""From a comparison's file to its steps: what is trained, mixed, merged, tuned and measured, and from what."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import OutputError, SourceError
from ...evaluation.items import TRAINED
from ...evaluation.suite import H, read_suite
from .bases import base_digest, base_folder
from .config import Lab, Variant
from .graph import Graph
from .tuning import parameter_of
from .work import Step

QUESTIONS = "questions"
_INIT_APART = 1000  # initialisation seeds of different makers


def graph_of(lab: Lab, out: Path) -> Graph:
    """All steps of a comparison, in an order in which each comes after what it reads."""
    return Graph(list(_Builder(lab).steps()), out)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, shortened.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise SourceError(f"{path}: cannot be read: {error.strerror or error}") from None


def check_space(graph: Graph, lab: Lab, jobs: int = 1) -> None:
    """Refuse to begin where the disk cannot hold what is trained, `jobs` at once.

    Raises:
        OutputError: names what is needed and what is free.
    """
    folder = Path(base_folder(lab.base))
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    whole = [
        step for step in graph.steps.values()
        if step.action in ("train", "stage") and step.settings["kind"] == "full"
        and graph.state(step.name).word != "done"
    ]  # fmt: skip
    # a checkpoint in the making holds weights and two moments of the optimiser, twice while one replaces the other
    needed = (len(whole) + 6 * min(jobs, len(whole)) + len(lab.keep)) * size
    place = next(path for path in (graph.out, *graph.out.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise OutputError(
            f"out={str(graph.out)!r}: {len(whole)} whole models need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            "are free; free some, give another --out, or train LoRA only"
        )


class _Builder:
    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.common = {"base": base_digest(lab.base), "seed": lab.seed}
        self.base = {"base": lab.base}
        self.suites = {split: _suite_settings(path) for split, path in lab.suites.items()}
        self.asked = _left_out(lab.experts) | ({} if lab.precision == "float32" else {"precision": lab.precision})
        self.asked |= {"datasets": list(lab.datasets)} if lab.datasets else {}

    def steps(self) -> Iterator[Step]:
        lab = self.lab
        if lab.data:
            digests = {role: file_digest(path) for role, path in lab.data.items()}
            yield Step(QUESTIONS, "questions", {"data": digests}, (), self._data_paths())
        for split in lab.suites:
            yield self._measure(f"measure/{split}/base", split, {})
        for paradigm, kind, label, experts in self._arenas():
            place = f"{paradigm}/{kind}" + (f"/{label}" if label else "")
            yield from self._training(paradigm, kind, label)
            roles = {h: experts[h] for h in H}
            yield from self._arena(place, roles, paradigm, kind, label)
        yield from self._mixtures()

    def _data_paths(self) -> dict[str, str]:
        return {role: str(path) for role, path in self.lab.data.items()}

    def _arenas(self) -> Iterator[tuple[str, str, str, dict[str, dict[str, str]]]]:
        """Where methods meet: paradigm, kind, what is merged, and each H's expert."""
        lab = self.lab
        if lab.experts:
            yield "static", "given", "", {h: {"given": h, "digest": base_digest(lab.experts[h])} for h in H}
        for kind in lab.paradigms.get("static", ()) if lab.data else ():
            yield "static", kind, "", {h: {"step": f"train/static/{kind}/{h}"} for h in H}
        for kind in lab.paradigms.get("continual", ()) if lab.data else ():
            chain = self._chain(kind)
            yield "continual", kind, "checkpoints", {h: {"step": chain[h]} for h in H}
            yield "continual", kind, "stages", {
                h: {"step": chain[h] if number == 0 else f"stage/continual/{kind}/{h}"}
                for number, h in enumerate(lab.order)
            }  # fmt: skip

    def _chain(self, kind: str) -> dict[str, str]:
        """H -> the step that trains its stage; the first is the static paradigm's expert, where there is one."""
        first = self.lab.order[0]
        found = {h: f"train/continual/{kind}/{number}-{h}" for number, h in enumerate(self.lab.order, 1)}
        if kind in self.lab.paradigms.get("static", ()):
            found[first] = f"train/static/{kind}/{first}"
        return found

    def _training(self, paradigm: str, kind: str, label: str) -> Iterator[Step]:
        if kind == "given":
            return
        if paradigm == "static":
            for number, h in enumerate(H):
                yield self._train(f"train/static/{kind}/{h}", kind, h, number)
            return
        chain = self._chain(kind)
        if label == "checkpoints":
            for number, h in enumerate(self.lab.order):
                after = chain[self.lab.order[number - 1]] if number else None
                if number or not chain[h].startswith("train/static"):
                    yield self._train(chain[h], kind, h, number, after=after)
            return
        for before, h in zip(self.lab.order, self.lab.order[1:], strict=False):
            settings = {**self.common, "kind": kind, "now": chain[h], "before": chain[before]}
            yield Step(f"stage/continual/{kind}/{h}", "stage", settings, (chain[h], chain[before]), self.base)

    def _train(
        self, name: str, kind: str, role: str, number: int, *, after: str | None = None, mixture: str | None = None
    ) -> Step:
        settings = asdict(self.lab.training[kind].of(role))
        left_out = ("roles",) if kind == "lora" else ("roles", "rank", "alpha", "seeds")
        settings = {key: value for key, value in settings.items() if key not in left_out}
        apart = _INIT_APART * number if settings.pop("seeds", "shared") == "different" else 0
        settings |= {
            **self.common, "kind": kind, "role": role, "init_seed": self.lab.seed + apart, "after": after,
            "mixture": mixture, "data": None if mixture else file_digest(self.lab.data[role]),
        }  # fmt: skip
        paths = self.base if mixture else {**self.base, "data": str(self.lab.data[role])}
        return Step(name, "train", settings, tuple(each for each in (after, mixture) if each), paths)

    def _measure(
        self,
        name: str,
        split: str,
        settings: Mapping[str, Any],
        inputs: tuple[str, ...] = (),
        limit: int | None = None,
    ) -> Step:
        told = {
            **self.common, **self.suites[split], "limit": self.lab.limit if limit is None else limit, "variant": None,
            "of": None, **self.asked, **settings,
        }  # fmt: skip
        given = (QUESTIONS,) if self.lab.data else ()
        return Step(name, "measure", told, (*given, *inputs), self._paths(split))

    def _paths(self, split: str) -> dict[str, str]:
        return {**self.base, "suite": str(self.lab.suites[split]), **self.lab.experts}

    def _merge(
        self, name: str, split: str, roles: Mapping[str, Mapping[str, str]], variant: Variant, **more: Any
    ) -> Step:
        settings = {"experts": dict(roles), "variant": asdict(variant), **more}
        inputs = tuple(one["step"] for one in roles.values() if "step" in one)
        tuned = (more["tuned"],) if "tuned" in more else ()
        return self._measure(name, split, settings, (*inputs, *tuned))

    def _arena(
        self, place: str, roles: Mapping[str, Mapping[str, str]], paradigm: str, kind: str, label: str
    ) -> Iterator[Step]:
        lab = self.lab
        chosen_in = paradigm == "static"  # one place to choose in: chains are confirmed, never tuned on
        for split in lab.suites if chosen_in else ("test",):
            for h, source in roles.items():
                inputs = (source["step"],) if "step" in source else ()
                yield self._measure(f"measure/{split}/{place}/expert-{h}", split, {"of": source}, inputs)
        for name, variant in lab.methods.items():
            keep = {"keep": True} if name in lab.keep else {}
            yield self._merge(f"measure/test/{place}/{name}", "test", roles, variant, **keep)
        if chosen_in:
            for name, variant in lab.ablation.items():
                yield self._merge(f"measure/development/{place}/{name}", "development", roles, variant)
            yield from self._tuning(place, roles)

    def _tuning(self, place: str, roles: Mapping[str, Mapping[str, str]]) -> Iterator[Step]:
        tuning = self.lab.tuning
        if tuning is None:
            return
        known = {
            "base": "measure/development/base",
            **{h: f"measure/development/{place}/expert-{h}" for h in roles},
        }
        sources = tuple(one["step"] for one in roles.values() if "step" in one)
        for name, variant in self.lab.methods.items():
            parameter = parameter_of(variant)
            if parameter is None or (tuning.methods and name not in tuning.methods):
                continue
            settings = {
                **self.common, **self.suites["development"], **self.asked, **tuning.search, "experts": dict(roles),
                "variant": asdict(variant), "parameter": parameter, "roles": known,
            }  # fmt: skip
            given = (QUESTIONS,) if self.lab.data else ()
            search = f"tune/{place}/{name}"
            yield Step(
                search, "tune", settings, (*given, *sources, *known.values()),
                self._paths("development"),
            )  # fmt: skip
            yield self._merge(f"measure/test/{place}/tuned/{name}", "test", roles, variant, tuned=search)

    def _mixtures(self) -> Iterator[Step]:
        """Mixtures of the size of one expert's training times three: as many examples as all experts saw."""
        lab = self.lab
        for kind in lab.paradigms.get("static", ()) if lab.data else ():
            training = lab.training[kind]
            for number, (strategy, options) in enumerate(lab.mixtures.items()):
                mix, name = f"mix/{kind}/{strategy}", f"train/mixture/{kind}/{strategy}"
                size = training.examples
                settings = {
                    **self.common, "strategy": strategy, "options": options, "size": size,
                    "precision": training.precision,
                    "data": {role: file_digest(path) for role, path in lab.data.items()},
                }  # fmt: skip
                yield Step(mix, "mix", settings, (), {**self.base, **self._data_paths()})
                step = self._train(name, kind, "mixture", number, mixture=mix)
                longer = {**step.settings, "steps": -(-size // training.batch_size)}
                yield Step(step.name, step.action, longer, step.inputs, step.paths)
                yield self._measure(f"measure/test/mixture/{kind}/{strategy}", "test", {"of": {"step": name}}, (name,))


def _left_out(experts: Mapping[str, str]) -> dict[str, Any]:
    """What tells that given experts' training questions, which no model is measured on, are still the same."""
    recorded = {role: Path(folder) / TRAINED for role, folder in experts.items()}
    found = {role: file_digest(path) for role, path in recorded.items() if path.is_file()}
    return {"left_out": found} if found else {}


def _suite_settings(path: Path) -> dict[str, Any]:
    """A suite and the records that lie beside it, by content."""
    suite = read_suite(path)
    files = {
        str(task.source["file"]): file_digest(suite.folder / str(task.source["file"]))
        for task in suite.tasks.values()
        if "file" in task.source
    }
    told = json.dumps([suite.digest, files], sort_keys=True)
    return {"suite": hashlib.sha256(told.encode()).hexdigest()[:16]}
