"""What must fit between models beside plain shapes: tied output heads, and vocabularies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..errors import Problems, RequestError
from ..models.sources import SourceModel, skeleton_of
from ..models.weights.compare import equal

_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_projection)\.weight$")
_INPUT = re.compile(r"(^|\.)(embed_tokens|wte|shared|word_embeddings|embed_in|tok_embeddings)\.weight$")


def drop_tied_copies(models: Sequence[SourceModel], main: int, label: str) -> None:
    """Leave out an output head that only repeats the input embedding, where the main model has none of its own.

    Saving keeps one of two tied tensors; files of older versions hold both. What differs from its embedding is no copy:
    it stays, and the plan then says that the main model has no such tensor.

    Raises:
        RequestError: an expert's head differs from its embedding, and the main model ties them.
    """
    ours = models[main]
    problems = Problems(f"{label}: these models tie their weights differently")
    if not any(_may_repeat(model, ours) for model in models):
        return  # the usual case, which needs no look at the model's class
    ties = _ties(ours)
    if ours.config.get("tie_word_embeddings", ours.text_config.get("tie_word_embeddings")):
        _drop(ours, _copies(ours, ties))
    for model in models:
        found = _copies(model, ties) if model is not ours else {}
        extra = {name: kept for name, kept in found.items() if name not in ours.specs}
        for name, kept in extra.items():
            if not _same(model, name, kept):
                problems.add(
                    f"{model.label}: {name!r} and {kept!r} differ, and {ours.label} ties them; save it with "
                    "tie_word_embeddings=False first"
                )
        _drop(model, extra)
    problems.raise_any()


def _may_repeat(model: SourceModel, main: SourceModel) -> bool:
    """Whether a model has what the main one has not, or the main one two tensors with a row for each token."""
    if model is not main:
        return bool(model.specs.keys() - main.specs.keys())
    size = main.checkpoint.vocabulary
    return size is not None and sum(spec.shape[:1] == (size,) for spec in main.specs.values()) > 1


def _ties(model: SourceModel) -> Mapping[str, str] | None:
    """Names on disk that tied tensors could have besides their own, as the model's class says; None without a class."""
    from ..models.weights.names import NameMap

    try:
        return NameMap(skeleton_of(model.found.folder, model.config, model.label)).aliases
    except RequestError:  # code of its own, or a config that is no model's
        return None


def _copies(model: SourceModel, ties: Mapping[str, str] | None) -> Mapping[str, str]:
    """Tensors that could be another's copy, and that other: by the ties, else heads by the embedding's shape."""
    specs = model.specs
    if ties:
        pairs = {name: kept for name, kept in ties.items() if name in specs and kept in specs}
        return {name: kept for name, kept in pairs.items() if specs[name].shape == specs[kept].shape}
    inputs = [name for name in specs if _INPUT.search(name)]
    return {
        name: inputs[0]
        for name, spec in specs.items()
        if _HEAD.search(name) and len(inputs) == 1 and spec.shape == specs[inputs[0]].shape
    }


def _drop(model: SourceModel, names: Mapping[str, str]) -> None:
    different = [name for name, kept in names.items() if not _same(model, name, kept)]
    model.checkpoint.without([name for name in names if name not in different])
    for name in names:
        if name not in different:
            model.specs.pop(name, None)


def _same(model: SourceModel, name: str, kept: str) -> bool:
    return equal(model.checkpoint.load(name), model.checkpoint.load(kept))


def shape_problem(
    name: str, main: SourceModel, ours: tuple[int, ...], other: SourceModel, theirs: tuple[int, ...]
) -> str:
    """What to say of two shapes; a differing vocabulary is called one."""
    size = main.checkpoint.vocabulary
    if ours[1:] == theirs[1:] and size is not None and ours[:1] == (size,):
        return (
            f"{other.label}: {name!r}: a vocabulary of {theirs[0]} tokens, {main.label} has {ours[0]}; "
            "tokenizer_source (base, union or a model) matches rows by their tokens"
        )
    return f"{other.label}: {name!r} has shape {list(theirs)}, {main.label} has {list(ours)}"
