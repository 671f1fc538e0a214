"""From a recipe to jobs: which tensors of which models make each tensor of the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import Problems, RequestError, near, nearest
from .body import Body, Module, Slice, Source
from .jobs import JobMaker
from .layers import MODULES, Place, comes_last, find_layers, is_vocabulary, part_of, tied_to
from .parameters import Levels
from .types import PASSTHROUGH, TensorJob

Shapes = Mapping[str, tuple[int, ...]]

#: Buffers that some checkpoints hold and others do not; none of them is trained.
_BUFFERS = (".inv_freq", ".position_ids", ".masked_bias")


@dataclass(frozen=True)
class Opened:
    """A model's tensors by the part of the recipe that treats them, and their layers."""

    shapes: Shapes
    places: Mapping[str, Place]
    count: int | None


def make_jobs(body: Body, shapes: Sequence[Shapes], counts: Sequence[int | None]) -> tuple[TensorJob, ...]:
    """The jobs of the whole output.

    Raises:
        RequestError: lists all that does not fit.
    """
    if len(shapes) != len(body.labels) or len(counts) != len(body.labels):
        raise ValueError(f"{len(body.labels)} models, but {len(shapes)} headers and {len(counts)} layer counts")
    problems = Problems(f"{body.text.label} does not fit its models")
    names = [module.name for module in body.modules]
    maker = JobMaker(body, problems)
    jobs: list[TensorJob] = []
    for module in body.modules:
        opened = []
        for own, count in zip(shapes, counts, strict=True):
            part = {name: shape for name, shape in own.items() if part_of(name, names) in (module.name, None)}
            opened.append(Opened(part, find_layers(part, count), count))
        jobs += _ModuleJobs(body, module, opened, maker, problems)()
        used = {source.model for slice_ in module.slices for source in slice_.sources}
        if module.path and not any(part_of(name, names) == module.name for model in used for name in shapes[model]):
            hint = f"; {nearest(module.name, MODULES)}" if near(module.name, MODULES) else ""
            problems.add(body.text.say(module.path, f"is part of no tensor's name in its models{hint}"))
    for model in {source.model for module in body.modules for slice_ in module.slices for source in slice_.sources}:
        lost = [name for name in shapes[model] if part_of(name, names) is None]
        if lost:
            what = f"{len(lost)} tensors, {lost[0]} the first, belong to none of the modules {', '.join(names)}"
            where = body.text.where(("modules",))
            problems.add(f"{where}: {body.labels[model]}: {what}; add a module `default`")
    problems.raise_any()
    seen: set[str] = set()
    for job in jobs:
        if job.name in seen:
            problems.add(f"{job.name} would be made twice")
        seen.add(job.name)
    if not jobs:
        problems.add("the models have no tensors in common with the recipe")
    problems.raise_any()
    return tuple(jobs)


def output_layers(body: Body, counts: Sequence[int | None]) -> int | None:
    """The output's number of layers, None where it is the base's."""
    main = next((each for each in body.modules if each.name in ("default", "text_decoder")), body.modules[0])
    return main.length


@dataclass
class _ModuleJobs:
    body: Body
    module: Module
    opened: Sequence[Opened]
    maker: JobMaker
    problems: Problems
    asked: int = 0  # jobs that were to be made
    refused: dict[str, list[str]] = field(default_factory=dict)  # the tensors of the others, by what is wrong with them

    def __call__(self) -> Iterator[TensorJob]:
        yield from self._all()
        for problem, names in self.refused.items():
            some = f" (at {len(names)} tensors, {names[0]} the first)" if len(names) < self.asked else ""
            self.problems.add(problem + some)

    def _all(self) -> Iterator[TensorJob]:
        if self.module.length is None:
            yield from self._whole(self.module.slices[0])
            return
        if not self._ranges_fit() or not self._stack_fits():
            return
        first, last = self.module.slices[0], self.module.slices[-1]
        yield from self._loose(first, lambda name: not comes_last(name))
        offset = 0
        for slice_ in self.module.slices:
            yield from self._layers(slice_, offset)
            offset += slice_.length or 0
        yield from self._loose(last, comes_last)
        for name in self._tied_heads(last):
            yield from self._job(last, name, [(source, name) for source in last.sources], 0.0)

    def _whole(self, slice_: Slice) -> Iterator[TensorJob]:
        counts = {self._count(source) for source in slice_.sources}
        if len(counts) > 1:
            each = ", ".join(f"{self.body.labels[s.model]} has {self._count(s)}" for s in slice_.sources)
            self._say(slice_.sources[0], f"models of different depth cannot be merged whole: {each} layers; use slices")
            return
        for name in self._names(slice_.sources):
            holder = next(s for s in self._leading(slice_.sources) if name in self.opened[s.model].shapes)
            place = self.opened[holder.model].places.get(name)
            yield from self._job(slice_, name, [(source, name) for source in slice_.sources], _way(place))

    def _loose(self, slice_: Slice, belongs: object) -> Iterator[TensorJob]:
        """The tensors outside the main stack of layers, from the first slice or the last."""
        for name in self._names(slice_.sources):
            inside = any(
                (place := self.opened[source.model].places.get(name)) is not None and place.main
                for source in slice_.sources
            )
            if not inside and belongs(name):  # type: ignore[operator]
                yield from self._job(slice_, name, [(source, name) for source in slice_.sources], 0.0)

    def _tied_heads(self, last: Slice) -> list[str]:
        """Heads that the output's config asks for, and the last slice's models have in their embeddings only."""
        theirs = [self.opened[source.model].shapes for source in last.sources]
        return [
            name
            for name, shape in self._main.shapes.items()
            if all(name not in shapes and tied_to(name, shapes, shape) for shapes in theirs)
        ]

    def _layers(self, slice_: Slice, offset: int) -> Iterator[TensorJob]:
        length = slice_.length or 0
        by_layer: dict[int, dict[int, dict[tuple[str, str], Place]]] = {}
        for source in slice_.sources:
            found = by_layer.setdefault(source.model, {})
            for place in self.opened[source.model].places.values():
                if place.main:
                    found.setdefault(place.index, {})[place.prefix, place.rest] = place
        for step in range(length):
            t = step / (length - 1) if length > 1 else 1.0
            rows = {}
            for source in self._leading(slice_.sources):
                rows.update(by_layer[source.model].get((source.layers or (0, 0))[0] + step, {}))
            for place in rows.values():
                inputs = [(source, place.at((source.layers or (0, 0))[0] + step)) for source in slice_.sources]
                yield from self._job(slice_, place.at(offset + step), inputs, t)

    def _job(self, slice_: Slice, name: str, wanted: Sequence[tuple[Source, str]], t: float) -> Iterator[TensorJob]:
        inputs, absent = [], []
        shape = next((self.opened[s.model].shapes[n] for s, n in wanted if n in self.opened[s.model].shapes), None)
        for source, own in wanted:
            shapes = self.opened[source.model].shapes
            found = own if own in shapes else tied_to(own, shapes, shape)
            if found is None:
                absent.append((source, own))
            else:
                inputs.append((source, found))
        if absent:
            if name.endswith(_BUFFERS):
                source, own = inputs[0]
                yield TensorJob(name, PASSTHROUGH, ((source.model, own),), None, (1.0,), {"scale": 1.0})
                return
            for source, own in absent:
                self._say(source, f"{self.body.labels[source.model]} has no tensor {own}, which another model has")
            return
        if not self._shapes_fit(name, inputs):
            return
        around = ((part.parameters, part.path) for part in (slice_, self.module))
        levels = Levels((*around, (self.body.parameters, ())))
        self.asked += 1
        try:
            yield self.maker(name, inputs, levels, t)
        except RequestError as error:
            path, exact = self.maker.where(error, inputs, levels, t) or (slice_.path, False)
            text = self.body.text
            said = text.told(path, error) if exact else text.told_near(path, error)
            self.refused.setdefault(said, []).append(name)

    def _shapes_fit(self, name: str, inputs: Sequence[tuple[Source, str]]) -> bool:
        shapes = {self.body.labels[s.model]: self.opened[s.model].shapes[own] for s, own in inputs}
        if len({tuple(shape) for shape in shapes.values()}) == 1:
            return True
        rows_only = len({tuple(shape[1:]) for shape in shapes.values()}) == 1
        if rows_only and is_vocabulary(name):
            if self.body.matched:
                return True
            remedy = "; the vocabularies differ: tokenizer_source (base, union or a model) matches rows by their tokens"
        else:
            remedy = ""
        each = ", ".join(f"{list(shape)} in {label}" for label, shape in shapes.items())
        self._say(inputs[0][0], f"{name} has different shapes: {each}{remedy}")
        return False

    def _ranges_fit(self) -> bool:
        fits = True
        for _, source in self._sources():
            low, high = source.layers or (0, 0)
            count = self._count(source)
            if not count:
                self._say(source, f"{self.body.labels[source.model]} has no layers that its tensor names show")
                fits = False
            elif high > count:
                path = (*source.path, "layer_range")
                expected = f"numbers of at most {count}, the layers there"
                self.problems.add(self.body.text.bad(path, [low, high], expected))
                fits = False
        return fits

    def _stack_fits(self) -> bool:
        """What is stacked has the shapes that it has in the model whose config the output gets."""
        first, last = self.module.slices[0], self.module.slices[-1]
        stacked = {(source.model, slice_ is first, slice_ is last): source for slice_, source in self._sources()}
        fits = True
        for (model, begins, ends), source in stacked.items():
            for name, shape in self.opened[model].shapes.items():
                place, wanted = self.opened[model].places.get(name), self._main.shapes.get(name)
                used = place.main if place is not None else ends if comes_last(name) else begins
                if used and wanted is not None and tuple(wanted) != tuple(shape):
                    main = Source(self.body.base or 0, source.path)
                    if not self._shapes_fit(name, [(source, name), (main, name)]):
                        fits = False
                        break  # the others differ with it
        return fits

    def _sources(self) -> Iterator[tuple[Slice, Source]]:
        return ((slice_, source) for slice_ in self.module.slices for source in slice_.sources)

    @property
    def _main(self) -> Opened:
        """The model whose config the output gets."""
        return self.opened[self.body.base or 0]

    def _count(self, source: Source) -> int:
        return max((place.size for place in self.opened[source.model].places.values() if place.main), default=0)

    def _say(self, source: Source, problem: str) -> None:
        self.problems.add(f"{self.body.text.where(source.path)}: {problem}")

    def _leading(self, sources: Sequence[Source]) -> list[Source]:
        """The base first: the output's tensors stand in its order."""
        return sorted(sources, key=lambda source: source.model != self.body.base)

    def _names(self, sources: Sequence[Source]) -> list[str]:
        return list(
            dict.fromkeys(name for source in self._leading(sources) for name in self.opened[source.model].shapes)
        )


def _way(place: Place | None) -> float:
    """How far through the layers a tensor is; what stands outside them counts as the beginning, as in mergekit."""
    if place is None:
        return 0.0
    return place.index / (place.size - 1) if place.size > 1 else 1.0
