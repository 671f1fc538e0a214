"""Vocabularies that differ: one for the output, and each model's rows in its order, matched by the tokens' texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import Problems, RequestError, near, nearest, show
from ..models.rows import Filling, Rows
from ..models.sources import TOKENIZER_FILES, SourceModel
from ..models.tokens import Tokens, read_tokens, union, with_tokens
from ..models.types import TensorSpec
from ..recipes.layers import is_vocabulary, tied_to
from ..recipes.types import Recipe


@dataclass(frozen=True)
class Vocabulary:
    """The output's tokens.

    Attributes:
        tokens: its tokenizer.
        source: index of the model whose tokenizer it is, or which it began with.
        made: it is no model's own: tokenizer.json has to be written.
        rows: of embeddings and head, padding included.
    """

    tokens: Tokens
    source: int
    made: bool
    rows: int


def match_vocabularies(
    recipe: Recipe, models: Sequence[SourceModel]
) -> tuple[Vocabulary | None, tuple[SourceModel, ...]]:
    """The output's vocabulary as `tokenizer` and `tokenizer_source` say, and the models with their rows in its order.

    Raises:
        RequestError: tokens or models that there are not, tokenizers that cannot be read; all of them listed.
    """
    if recipe.tokenizer is None:
        return None, tuple(models)
    matcher = _Matcher(recipe, models)
    vocabulary = matcher.vocabulary()
    return vocabulary, tuple(matcher.matched(index, vocabulary) for index in range(len(models)))


@dataclass
class _Matcher:
    recipe: Recipe
    models: Sequence[SourceModel]
    tokens: list[Tokens] = field(default_factory=list)

    def __post_init__(self) -> None:
        problems = Problems(f"{self.recipe.label}: vocabularies cannot be matched")
        for named, model in zip(self.recipe.models, self.models, strict=True):
            model.side_files(TOKENIZER_FILES)
            try:
                self.tokens.append(read_tokens(model.found.folder, model.label))
            except RequestError as problem:
                problems.add(str(self.recipe.told(named, problem)))
        problems.raise_any()

    @property
    def main(self) -> int:
        return self.recipe.base or 0

    def vocabulary(self) -> Vocabulary:
        wanted = self.recipe.tokenizer
        source = wanted["source"]
        start = source if isinstance(source, int) else self.main
        found = self.tokens[start]
        if source == "union":
            merged = [index for index in range(len(self.models)) if index != start and self.recipe.models[index].role]
            found = union(found, [self.tokens[index] for index in merged])
        self._check_tokens(wanted["tokens"])
        found = with_tokens(found, list(wanted["tokens"]))
        made = found.ids != self.tokens[start].ids
        multiple = wanted["pad_to_multiple_of"] or 1
        return Vocabulary(found, start, made, -(-found.rows // multiple) * multiple)

    def _check_tokens(self, asked: Mapping[str, Any]) -> None:
        """What the recipe says of single tokens can be done, whether or not it is needed."""
        problems = Problems(f"{self.recipe.label}: tokens cannot be made as tokenizer.tokens says")
        for text, setting in asked.items():
            source = setting["source"]
            if source is not None and source["kind"] != "zero":
                model = self.models[source["model"]]
                for name in filter(lambda name: is_row_tensor(model, name), model.specs):
                    try:
                        self._chosen(text, source, name)
                    except RequestError as problem:
                        problems.add(str(problem))
            elif source is None and not any(text in tokens.ids for tokens in self.tokens):
                problems.add(f"{show(text)}: no model has it; source: {{kind: zero}}, or model_token, what it is like")
        problems.raise_any()

    def matched(self, index: int, vocabulary: Vocabulary) -> SourceModel:
        """The model with its rows in the output's order."""
        model, rows = self.models[index], {}
        for name in model.specs:
            if is_row_tensor(model, name):
                rows[name] = self._rows(index, name, vocabulary)
        specs = {
            name: TensorSpec((vocabulary.rows, *spec.shape[1:]), spec.dtype) if name in rows else spec
            for name, spec in model.specs.items()
        }
        return model.with_rows(rows, specs)

    def _rows(self, index: int, name: str, vocabulary: Vocabulary) -> Rows:
        count = self.models[index].specs[name].shape[0]
        own = [-1] * vocabulary.rows
        fillings: list[Filling] = []
        asked = self.recipe.tokenizer["tokens"]
        for text, place in vocabulary.tokens.ids.items():
            mine = self.tokens[index].ids.get(text, count)
            setting = asked.get(text)
            if mine < count and not (setting and setting["force"]):
                own[place] = mine
                continue
            sources = self._sources(text, setting, name)
            if sources == [(index, mine)]:
                own[place] = mine
            elif sources:
                fillings.append(Filling(place, tuple((self._reader(other, name), row) for other, row in sources)))
        return Rows(tuple(own), tuple(fillings), vocabulary.rows - vocabulary.tokens.rows)

    def _reader(self, other: int, name: str) -> tuple[SourceModel, str]:
        return self.models[other], self._named(other, name) or name

    def _sources(self, text: str, setting: Mapping[str, Any] | None, name: str) -> list[tuple[int, int]]:
        """Where the row of a token comes from that a model lacks: models and rows, to be averaged; nothing is zero."""
        chosen = setting["source"] if setting else None
        if chosen is not None:
            return [] if chosen["kind"] == "zero" else [self._chosen(text, chosen, name)]
        holders = [
            (other, row)
            for other in range(len(self.models))
            if self.recipe.models[other].role
            and (row := self.tokens[other].ids.get(text)) is not None
            and row < self._count(other, name)
        ]
        base = [each for each in holders if each[0] == self.recipe.base]
        return base or holders

    def _chosen(self, text: str, chosen: Mapping[str, Any], name: str) -> tuple[int, int]:
        model = chosen["model"]
        label, ids = self.models[model].label, self.tokens[model].ids
        wanted = chosen.get("token", text)
        row = chosen["token_id"] if chosen.get("token_id") is not None else ids.get(wanted)
        where = f"tokenizer.tokens[{show(text)}].source"
        if row is None:
            last = list(ids)[-200:]  # where added tokens stand
            remedy = nearest(wanted, last) if near(wanted, last) else "its tokenizer.json lists those that it has"
            raise RequestError(f"{where}: {label} has no token {show(wanted)}; {remedy}")
        if row >= self._count(model, name):
            raise RequestError(f"{where}: {label} has no row {row}: its {name} has {self._count(model, name)}")
        return model, row

    def _named(self, other: int, name: str) -> str | None:
        specs = self.models[other].specs
        if name in specs:
            return name
        return tied_to(name, {each: spec.shape for each, spec in specs.items()}, None)

    def _count(self, other: int, name: str) -> int:
        found = self._named(other, name)
        return 0 if found is None else self.models[other].specs[found].shape[0]


def is_row_tensor(model: SourceModel, name: str) -> bool:
    """Whether a tensor has a row for each token: an input embedding, an output head, its bias."""
    shape = model.specs[name].shape
    if not is_vocabulary(name) or not shape or "wpe" in name or "position" in name:
        return False
    return shape[0] == model.checkpoint.vocabulary
