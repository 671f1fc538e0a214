"""How many layers each stack of the output has, and where its config says so.

A model with several parts has several stacks, and its config a number for each of them: in a section of the part's own
(`vision_config`), or beside the others (`decoder_layers`). Which is which is told from the stack's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..models.sources import LAYER_KEYS, SourceModel
from ..recipes.layers import find_layers

if TYPE_CHECKING:
    from .stream_plan import Step

_ENCODER, _DECODER = ("encoder_layers", "num_encoder_layers"), ("decoder_layers", "num_decoder_layers")
_SEEN, _HEARD = re.compile(r"(^|\.)(vision|visual|image)"), re.compile(r"(^|\.)(audio|speech)")
#: What a stack's name has of a part -> the sections of a config that can be about that part.
_SECTIONS = (
    (_SEEN, ("vision_config",)),
    (_HEARD, ("audio_config",)),
    (re.compile(r"(^|\.)encoder(\.|$)"), ("encoder",)),
    (re.compile(r"(^|\.)decoder(\.|$)"), ("decoder",)),
)
#: Lists that have one entry for each layer by chance only.
_NO_LAYERS = re.compile(r"_token_ids?$|^architectures$")


@dataclass(frozen=True)
class Stack:
    """A stack of layers whose number changes.

    Attributes:
        prefix: what stands before the number in its tensors' names.
        before: layers in the model whose config the output gets.
        origins: for each layer of the output, the layer of its first input.
        main: whether the number of layers that is told of the whole model is this one's.
    """

    prefix: str
    before: int
    origins: tuple[int, ...]
    main: bool


def changed_stacks(main: SourceModel, steps: Sequence[Step]) -> tuple[Stack, ...]:
    """The stacks that are deeper or shallower than in the model whose config the output gets."""
    if {step.job.name for step in steps} == main.specs.keys():
        return ()
    old = {place.prefix: place for place in find_layers(main.specs, main.layers).values()}
    origins: dict[str, dict[int, int]] = {}
    inside = find_layers((step.job.name for step in steps), main.layers)
    there: dict[int, Mapping[str, Any]] = {}
    for step in steps:
        place, source = inside.get(step.job.name), step.inputs[0]
        if place is not None:
            if id(source.model) not in there:
                there[id(source.model)] = find_layers(source.model.specs, source.model.layers)
            origin = there[id(source.model)].get(source.name)
            origins.setdefault(place.prefix, {}).setdefault(
                place.index, place.index if origin is None else origin.index
            )
    return tuple(
        Stack(prefix, old[prefix].size, tuple(found[layer] for layer in sorted(found)), old[prefix].main)
        for prefix, found in origins.items()
        if prefix in old and len(found) != old[prefix].size
    )


def set_depths(config: dict[str, Any], stacks: Sequence[Stack]) -> list[Stack]:
    """Write each stack's number of layers into a config, and every list that has one entry for each layer.

    Returns:
        The stacks of which the config says nowhere how deep they are.
    """
    unsaid = []
    for stack in stacks:
        said = False
        for part, keys in _places(config, stack.prefix):
            known = [key for key in keys if isinstance(part.get(key), int)]
            part.update(dict.fromkeys(known, len(stack.origins)))
            said = said or bool(known)
            for key, value in part.items() if known else ():
                if isinstance(value, list) and len(value) == stack.before and not _NO_LAYERS.search(key):
                    part[key] = [value[origin] for origin in stack.origins if origin < len(value)]
        if not said:
            unsaid.append(stack)
    return unsaid


def _places(config: dict[str, Any], prefix: str) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Where a stack's depth stands: parts of a config, and the keys there."""
    words, sensed = prefix.split("."), any(each.search(prefix) for each in (_SEEN, _HEARD))
    for pattern, names in _SECTIONS:
        sections = [config[name] for name in names if isinstance(config.get(name), dict)]
        if pattern.search(prefix) and sections:
            for section in sections:
                yield section, (*LAYER_KEYS, "depth")
            return
    several = any(key in config for key in _DECODER)
    if "decoder" in words and several:
        yield config, _DECODER
    elif "encoder" in words and several:
        yield config, (*_ENCODER, *LAYER_KEYS)
    else:
        yield config, LAYER_KEYS
        if isinstance(config.get("text_config"), dict) and not sensed:
            yield config["text_config"], LAYER_KEYS
