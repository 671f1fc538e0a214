"""Where each merged delta goes in a new adapter: LoRA factors, biases, bare parameters or whole modules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer, MultiheadAttention, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...errors import Problems
from ...linalg.compress import compress
from ...linalg.low_rank import LowRank
from ..weights.quantised import is_quantised
from .read import AdapterDeltas
from .tree import PeftTree

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass
class Layout:
    """What the new adapter holds; all names are the clean model's.

    Attributes:
        lora: factors of a module's weight as it is stored (of a convolution, of its flattened weight).
        biases: what lora_bias adds, by module; modules without an entry add zero.
        parameters: factors of bare parameters (`target_parameters`).
        saved: deltas of whole modules (`modules_to_save`), by module and the parameter's name in it.
        tokens: deltas of an embedding's rows (`trainable_token_indices`), by module: rows and their change.
    """

    lora: dict[str, LowRank] = field(default_factory=dict)
    biases: dict[str, Tensor] = field(default_factory=dict)
    parameters: dict[str, LowRank] = field(default_factory=dict)
    saved: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    tokens: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The greatest rank in it."""
        return max(factors.rank for factors in (*self.lora.values(), *self.parameters.values()))


def lay_out(
    tree: PeftTree,
    deltas: Mapping[str, LowRank | Tensor],
    sources: Sequence[AdapterDeltas],
    heads: Iterable[str] = (),
) -> Layout:
    """Find each delta's place.

    PEFT wraps a module once: where the model holds an adapter in one form already, a new one gets the same form. Else
    whole modules stay whole and trained tokens stay tokens; the rest is LoRA.

    Args:
        tree: the PeftModel that the adapter is for.
        deltas: by the clean model's parameter names, as stored.
        sources: the adapters that were merged.
        heads: last names of modules that PEFT saves wholly of its own accord.

    Raises:
        RequestError: lists every delta that no adapter can hold, with the reason.
    """
    problems = Problems("the merged deltas cannot be written as one adapter")
    spread = {
        alias: deltas[name]
        for name in deltas
        for alias in _aliases(name, sources, problems)
        if _known(alias, tree, problems)
    }
    problems.raise_any()
    tokens = _token_modules(tree, spread, sources)
    whole = _whole_modules(tree, spread, sources, heads)
    layout = Layout(saved={module: {} for module in sorted(whole)})
    for name, delta in spread.items():
        _place(name, delta, layout, tree, tokens, problems)
    for module in layout.biases:
        layout.lora.setdefault(module, _nothing(tree.modules[module]))
    if not layout.lora and not layout.parameters:  # PEFT makes no adapter that targets nothing
        free = (name for name, module in tree.modules.items() if name and takes_lora(module))
        idle = next((name for name in free if name not in tokens and _holder(name, whole) is None), None)
        if idle is None:
            problems.add("no layer of this model takes LoRA, and PEFT makes no adapter without")
        else:
            layout.lora[idle] = _nothing(tree.modules[idle])
    _check(layout, tree, problems)
    problems.raise_any()
    return layout


def _token_modules(
    tree: PeftTree, deltas: Mapping[str, LowRank | Tensor], sources: Sequence[AdapterDeltas]
) -> set[str]:
    """Embeddings whose change is written as trained tokens."""
    forms = dict(tree.layers)
    kinds: dict[str, set[str]] = {}
    for source in sources:
        for name, part in source.parts.items():
            for alias in source.covers.get(name, (name,)):
                kinds.setdefault(alias, set()).add(part.kind)
    found = {name for name, layer in forms.items() if isinstance(layer, TrainableTokensWrapper)}
    found |= {
        tree.owner(name)[0] for name in deltas if kinds.get(name) == {"tokens"} and tree.owner(name)[0] not in forms
    }
    return found


def _whole_modules(
    tree: PeftTree, deltas: Mapping[str, LowRank | Tensor], sources: Sequence[AdapterDeltas], heads: Iterable[str]
) -> set[str]:
    """Modules that are written whole; of nested ones the outer."""
    changed = {tree.owner(name)[0] for name in deltas}
    live = {name for name, layer in tree.layers if isinstance(layer, ModulesToSaveWrapper)}
    others = {name for name, layer in tree.layers if not isinstance(layer, ModulesToSaveWrapper)}
    whole = {part.module for source in sources for part in source.parts.values() if part.kind == "saved"}
    whole |= {name for name in tree.modules if name and name.rpartition(".")[2] in set(heads)}
    whole |= {name for name in live if any(_holder(module, {name}) for module in changed)}
    whole |= {tree.owner(name)[0] for name, delta in deltas.items() if not _fits_lora(name, delta, tree)}
    whole = {name for name in whole if name and not any(_holder(other, {name}) for other in others)}
    return {name for name in whole if _holder(name, whole - {name}) is None}


def _place(
    name: str, delta: LowRank | Tensor, layout: Layout, tree: PeftTree, tokens: set[str], problems: Problems
) -> None:
    module, owner = tree.owner(name)
    key = name.rpartition(".")[2]
    holder = _holder(module, layout.saved)
    if holder is not None:
        layout.saved[holder][name[len(holder) + 1 :]] = _unflattened(delta, tree.parameters[name])
    elif not _changes(delta):
        return
    elif module in tokens:
        change = dense(delta)
        rows = change.any(-1).nonzero().flatten()
        layout.tokens[module] = (rows.cpu(), change[rows])
    elif not _fits_lora(name, delta, tree):
        problems.add(f"{name!r}: PEFT has no LoRA for it, and cannot save {module or 'the model'!r} as a whole here")
    elif key == "bias" and takes_lora(owner):
        layout.biases[module] = dense(delta)
    elif key == "weight" and takes_lora(owner):
        if isinstance(owner, _CONVOLUTIONS) and isinstance(delta, Tensor):
            delta = delta.flatten(1)
        layout.lora[module] = _factors(delta)
    else:
        layout.parameters[name] = _factors(delta)


def _check(layout: Layout, tree: PeftTree, problems: Problems) -> None:
    """Note what PEFT could not make, or could make only wrongly."""
    for module in (*layout.saved, *layout.tokens):
        inside = tree.modules[module]
        if any(is_quantised(each) for each in inside.modules()):
            problems.add(f"{module!r} would be saved as base + delta, but it is quantised")
        if any(parameter.is_meta for parameter in inside.parameters()):
            problems.add(f"{module!r} would be saved as base + delta, but the base has no values (meta device)")
    for name in (*layout.lora, *(tree.owner(name)[0] for name in layout.parameters)):
        parent = tree.modules.get(name.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention) or isinstance(tree.modules[name], nn.MultiheadAttention):
            problems.add(f"{name!r} belongs to an nn.MultiheadAttention, where PEFT's LoRA acts twice on the output")
    embeddings = [name for name in layout.lora if isinstance(tree.modules[name], nn.Embedding)]
    if layout.biases and (embeddings or layout.parameters):
        problems.add(
            f"PEFT's lora_bias, which {sorted(layout.biases)} need, excludes LoRA on embeddings and target_parameters, "
            f"which {sorted([*embeddings, *layout.parameters])} need"
        )


def _holder(module: str, whole: Iterable[str]) -> str | None:
    """Which of these modules is, or contains, the one called `module`."""
    return next((each for each in whole if module == each or module.startswith(f"{each}.")), None)


def dense(delta: LowRank | Tensor) -> Tensor:
    """Multiplied out."""
    return delta.dense() if isinstance(delta, LowRank) else delta


def _unflattened(delta: LowRank | Tensor, parameter: Tensor) -> Tensor:
    """Multiplied out, in the shape of the parameter (a packed one says nothing of its shape)."""
    whole = dense(delta)
    return whole.reshape(parameter.shape) if whole.numel() == parameter.numel() else whole


def _aliases(name: str, sources: Sequence[AdapterDeltas], problems: Problems) -> tuple[str, ...]:
    """The names under which a delta is written: all of a tied parameter's, if its sources changed all alike."""
    forms = {source.covers.get(name, (name,)) for source in sources if name in source.parts}
    if len(forms) > 1:
        problems.add(f"{name!r} is tied to others; some adapters change all of them, some only this one")
    return max(forms, key=len, default=(name,))


def _known(name: str, tree: PeftTree, problems: Problems) -> bool:
    if name in tree.parameters:
        return True
    problems.add(f"{name!r} is no parameter of this model")
    return False


def _fits_lora(name: str, delta: LowRank | Tensor, tree: PeftTree) -> bool:
    """Whether LoRA, in one of its forms, can hold this delta."""
    module, owner = tree.owner(name)
    key = name.rpartition(".")[2]
    if key in ("weight", "bias") and takes_lora(owner):
        return True
    # Factors of a flattened kernel are no matrix that `target_parameters` could mean.
    return module != "" and delta.ndim in (2, 3) and delta.ndim >= tree.parameters[name].ndim


def takes_lora(module: nn.Module) -> bool:
    """Whether PEFT has a LoRA layer for this module, exact when merged."""
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == 1 and set(module.dilation) == {1} and module.padding_mode == "zeros"
    if isinstance(module, (nn.Linear, Conv1D, nn.Embedding)):
        return True
    return is_quantised(module) and hasattr(module, "in_features")


def _changes(delta: LowRank | Tensor) -> bool:
    if isinstance(delta, LowRank):
        return delta.rank > 0
    return bool(delta.any())


def _factors(delta: LowRank | Tensor) -> LowRank:
    """Factors of a matrix or a stack of matrices, exact: a dense one is decomposed at its numerical rank."""
    factors = delta if isinstance(delta, LowRank) else compress(delta, None)[0]
    return factors if factors.rank else _pad(factors, 1)


def _nothing(module: Any) -> LowRank:
    """A zero change, of rank 1, for a module that takes LoRA."""
    if is_quantised(module):
        return _pad(LowRank.zeros((module.out_features, module.in_features)), 1)
    shape = module.weight.shape
    return _pad(LowRank.zeros((shape[0], math.prod(shape[1:]))), 1)


def _pad(factors: LowRank, rank: int) -> LowRank:
    more = rank - factors.rank
    return LowRank(
        torch.nn.functional.pad(factors.left, (0, more)), torch.nn.functional.pad(factors.right, (0, 0, 0, more))
    )


def padded(factors: LowRank, rank: int) -> LowRank:
    """The same product at a greater rank, filled up with zeros."""
    return factors if factors.rank == rank else _pad(factors, rank)


def lora_layers(tree: PeftTree) -> dict[str, Any]:
    """PEFT's LoRA layers by what they hold: a module's name, or a parameter's for `target_parameters`."""
    found: dict[str, Any] = {}
    for name, layer in tree.layers:
        if isinstance(layer, ParamWrapper):
            found[f"{name}.{layer.parameter_name}"] = layer
        elif isinstance(layer, LoraLayer) and not isinstance(layer, MultiheadAttention):
            found[name] = layer
    return found
