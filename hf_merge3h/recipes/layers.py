"""Which layer a tensor belongs to, and which part of a model: told from names, without a table of architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_HEAD = re.compile(r"(^|\.)(lm_head|output_projection|embed_out)(\.|$)")
_EMBEDDING = re.compile(r"(^|\.)(wte|wpe|shared|tok_embeddings|embed_in|[a-z_]*embed(ding)?s?(_[a-z]+)?)(\.|$)")
_INPUT = re.compile(r"(^|\.)(wte|shared|tok_embeddings|embed_in|embed_tokens|word_embeddings)\.weight$")
_LAST = re.compile(
    r"(^|\.)(head|classifier|score|qa_outputs|cls|pooler|output|ln_f|norm|norm_f|layer_?norm|post_layernorm|final_?\w*)(\.|$)"
)
#: Parts that go by several names: mergekit's name of a module -> components of tensor names.
_PARTS = {
    "multi_modal_projector": ("multi_modal_projector", "mm_projector", "merger", "deepstack_merger_list", "connector"),
    "vision_tower": ("vision_tower", "vision_model", "visual"),
    "vision_model": ("vision_tower", "vision_model", "visual"),
}
#: Modules that get what no other names, the first of them that a recipe has.
_REST = ("default", "text_decoder", "shared", "decoder")
#: Names of modules that editors offer; any word of tensor names will do.
MODULES = ("default", "text_decoder", "encoder", "decoder", *_PARTS)


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in a stack of layers: `prefix.index.rest`, in a stack of `size` layers."""

    prefix: str
    index: int
    rest: str
    size: int
    main: bool

    def at(self, index: int) -> str:
        """The name that the tensor has in another layer."""
        return f"{self.prefix}.{index}{self.rest}"


def find_layers(names: Iterable[str], count: int | None) -> dict[str, Place]:
    """The tensors of a model that belong to layers.

    A stack is a prefix that is followed by the numbers 0 to n - 1. Where a name has several numbers (the experts of a
    mixture, a block's parts), the first counts: T5's decoder has as many parts in a block as its encoder can have
    blocks. The main stacks are those of the config's length; without a config, the longest.

    >>> places = find_layers(["h.0.experts.0.w", "h.0.experts.1.w", "h.0.experts.2.w", "h.1.experts.0.w"], 2)
    >>> places["h.0.experts.2.w"].prefix, places["h.1.experts.0.w"].index
    ('h', 1)
    """
    cuts: dict[str, list[tuple[str, int, str]]] = {}
    numbers: dict[str, set[int]] = {}
    for name in names:
        parts = name.split(".")
        for place, part in enumerate(parts):
            if place and part.isascii() and part.isdigit() and len(part) < 7:
                prefix, rest = ".".join(parts[:place]), "".join(f".{each}" for each in parts[place + 1 :])
                cuts.setdefault(name, []).append((prefix, int(part), rest))
                numbers.setdefault(prefix, set()).add(int(part))
    sizes = {prefix: len(found) for prefix, found in numbers.items() if found == set(range(len(found)))}
    outermost = {name: cut for name, found in cuts.items() if (cut := next((c for c in found if c[0] in sizes), None))}
    lengths = {sizes[prefix] for prefix, _, _ in outermost.values()}
    if count not in lengths:  # the longest stack, but not one that lies within a layer of a stack that has gaps
        first = {found[0][0] for found in cuts.values()}
        count = max((size for prefix, size in sizes.items() if prefix in first), default=max(lengths, default=None))
    return {
        name: Place(prefix, index, rest, sizes[prefix], sizes[prefix] == count)
        for name, (prefix, index, rest) in outermost.items()
    }


def comes_last(name: str) -> bool:
    """Whether a tensor outside the layers stands after them: the last norm, the head.

    >>> [comes_last(name) for name in ("lm_head.weight", "model.norm.weight", "wte.weight", "embeddings.norm.bias")]
    [True, True, False, False]
    """
    return _HEAD.search(name) is not None or (
        _EMBEDDING.search(name) is None and _LAST.search(name.lower()) is not None
    )


def is_vocabulary(name: str) -> bool:
    """Whether the rows of a tensor stand for tokens: an embedding or an output head."""
    return _HEAD.search(name) is not None or _EMBEDDING.search(name) is not None


def tied_to(name: str, shapes: Mapping[str, tuple[int, ...]], wanted: tuple[int, ...] | None) -> str | None:
    """The input embedding that serves as the head `name` in a model without one, or None."""
    if not _HEAD.search(name) or not name.endswith(".weight"):
        return None
    found = [each for each in shapes if _INPUT.search(each)]
    fitting = [each for each in found if wanted is None or len(shapes[each]) == len(wanted)]
    return fitting[0] if len(fitting) == 1 else None


def part_of(name: str, modules: Sequence[str]) -> str | None:
    """Which of a recipe's modules a tensor belongs to.

    >>> part_of("model.visual.blocks.0.w", ["text_decoder", "vision_tower"]), part_of("encoder.block.0.w", ["encoder"])
    ('vision_tower', 'encoder')
    """
    if len(modules) == 1 and modules[0] in ("default", "text_decoder"):
        return modules[0]
    for module in sorted(modules, key=lambda each: each != "multi_modal_projector"):
        for component in _PARTS.get(module, (module,)):
            if f".{component}." in f".{name}":
                return module
    return next((module for module in _REST if module in modules), None)
