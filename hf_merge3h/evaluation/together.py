"""Adapters of one live PeftModel are asked in one batch by their names: its weights are read once for all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .models import Opened, fingerprints, prepared_tokenizer


def together(models: Mapping[str, Any]) -> list[list[str]]:
    """Names of models, those in one list that can be asked in one batch: adapters of the same live PeftModel."""
    found: list[list[str]] = []
    homes: dict[int, list[str]] = {}
    for name, source in models.items():
        live = isinstance(source, tuple) and len(source) == 2 and hasattr(source[0], "peft_config")
        if not live or not (source[1] is None or source[1] in source[0].peft_config):
            found.append([name])
        elif id(source[0]) in homes:
            homes[id(source[0])].append(name)
        else:
            homes[id(source[0])] = [name]
            found.append(homes[id(source[0])])
    whole = [len(names) == 1 or mixes(models[names[0]][0], [models[name][1] for name in names]) for names in found]
    return [
        each for names, one in zip(found, whole, strict=True) for each in ([names] if one else [[n] for n in names])
    ]


@contextlib.contextmanager
def opened_together(name: str, model: Any, adapters: Sequence[str | None], tokenizer: Any = None) -> Iterator[Opened]:
    """A PeftModel with several of its adapters, all asked in one batch: its weights are read once for all of them.

    Args:
        name: what they are called, in messages.
        model: one that `mixes` them; given back as it was.
        adapters: names of loaded ones; None is what is under them.
        tokenizer: where the model does not say where it was loaded from.
    """
    tokens = prepared_tokenizer(name, [getattr(model, "name_or_path", None)], tokenizer)
    was_training = {part: part.training for part in model.modules()}
    model.eval()
    try:
        chat, known = bool(getattr(tokens, "chat_template", None)), tuple(fingerprints(model, adapters))
        yield Opened(model, tokens, chat, known, tuple(adapters))
    finally:
        for part, training in was_training.items():
            part.training = training


def mixes(model: Any, adapters: Sequence[str | None]) -> bool:
    """Whether PEFT can answer with all of these in one batch: plain LoRA, nothing of it added to the weights.

    Others are asked one after the other, each as a copy.
    """
    odd = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters", "alora_invocation_tokens")
    for name in adapters:
        config = model.peft_config[name] if name is not None else None
        if config is not None and (
            getattr(config.peft_type, "value", config.peft_type) != "LORA"
            or getattr(config, "bias", "none") != "none"
            or any(getattr(config, each, None) for each in odd)
        ):
            return False
    return not any(
        getattr(part, "merged", False)
        or any(name in getattr(part, "lora_variant", ()) for name in adapters if name is not None)
        for part in model.modules()
    )
