"""A PEFT adapter as an expert: its exact change of each parameter of the base."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn

from ...errors import Problems, RequestError, bad, nearest
from ...linalg.low_rank import LowRank
from ..origin import Origin
from ..types import ReadBase, TensorSpec
from .checks import ADDITIVE, check_config, check_finite, check_peft_model
from .layers import NoDeltaError, Part, merged_parts, replaced_part, saved_parts, token_parts
from .lora import lora_parts
from .tree import PeftTree


class AdapterDeltas:
    """The task vectors of one adapter, by the clean base model's parameter names.

    It keeps PEFT's own tensors and reads them when asked. A parameter with two names (tied) is listed once, under the
    name that `named_parameters` gives it, where the adapter changes it under all its names alike; else see `partial`.

    Attributes:
        label: how the user named the adapter.
        config: its PeftConfig.
        origin: where it came from.
        parts: what is changed, by name.
        partial: names of changes that touch only one side of a tied parameter, with the reason why no dense model
            with that tie can hold them. An adapter can.
        covers: for a tied parameter that is changed as a whole, all its names.
    """

    def __init__(self, label: str, config: Any, parts: Iterable[Part], tree: PeftTree) -> None:
        self.label, self.config = label, config
        self.origin = Origin(label, label, card_known=False, live=True, adapter=True)
        self.parts: dict[str, Part] = {part.name: part for part in parts}
        self.partial: dict[str, str] = {}
        self.covers: dict[str, tuple[str, ...]] = {}
        self._join_ties(tree)

    @property
    def base_name(self) -> str | None:
        """The base that the adapter's config records."""
        return getattr(self.config, "base_model_name_or_path", None) or None

    @property
    def rank(self) -> int | None:
        """The greatest rank among its low-rank changes; None where there is none."""
        return max((part.spec.rank for part in self.parts.values() if part.spec.rank is not None), default=None)

    @property
    def dtype(self) -> torch.dtype:
        """The widest dtype among its tensors."""
        return widest(part.spec.dtype for part in self.parts.values())

    @cached_property
    def _specs(self) -> Mapping[str, TensorSpec]:
        return {name: part.spec for name, part in self.parts.items()}

    def specs(self) -> Mapping[str, TensorSpec]:
        """The parameters that this adapter changes."""
        return self._specs

    def whole_names(self) -> frozenset[str]:
        """Parameters whose change is held as a whole tensor, not as factors: saved modules, replaced tensors."""
        return frozenset(name for name, part in self.parts.items() if part.kind in ("saved", "replaced"))

    def stack_names(self) -> frozenset[str]:
        """Parameters that are stacks of matrices [expert, m, n], as `target_parameters` says of them."""
        return frozenset(
            name for name, part in self.parts.items() if part.kind == "parameter" and len(part.spec.shape) == 3
        )

    def rank_of(self, name: str) -> int | None:
        """The greatest rank that a change can have, of a convolution's kernel in its flattened form [out, in * k].

        0 where the adapter leaves the parameter alone, None where nothing bounds it (whole tensors, DoRA). Unlike
        `TensorSpec.rank` it does not say that `delta` gives factors.
        """
        part = self.parts.get(name)
        if part is None:
            return 0
        return part.factor_rank if part.spec.rank is None else part.spec.rank

    def needs_base(self, name: str) -> bool:
        """Whether `delta(name, base)` asks for the base's values."""
        return name in self.parts and self.parts[name].needs_base

    def delta(self, name: str, base: ReadBase) -> Tensor | LowRank | None:
        """The change of one parameter, float32, as the base stores it (None: the adapter leaves it alone).

        Raises:
            RequestError: entries that are not finite, in the change or in the base's values that it depends on.
        """
        part = self.parts.get(name)
        if part is None:
            return None
        with torch.no_grad():
            delta = part.read(base)
            if isinstance(delta, LowRank) and not part.needs_base:  # its factors were looked through when it was read
                return delta
            if all(bool(torch.isfinite(each).all()) for each in _tensors(delta)):
                return delta
            if part.needs_base and not torch.isfinite(base()).all():
                raise RequestError(
                    f"the base: tensor {name!r} has entries that are not finite, and the change that adapter "
                    f"{self.label!r} makes to it depends on its values; repair the base, or give another"
                )
        raise RequestError(f"adapter {self.label!r}: the change of {name!r} has entries that are not finite")

    def weight(self, name: str, base: ReadBase) -> Tensor:
        """The base's parameter with the change in it, float32."""
        before, delta = base().float(), self.delta(name, base)
        if delta is None:
            return before
        return before + (delta.dense() if isinstance(delta, LowRank) else delta)

    def _join_ties(self, tree: PeftTree) -> None:
        """Find out, for each tied parameter, whether all its names are changed alike."""
        for group in {group for group in tree.ties.values() if len(group) > 1}:
            touched = [name for name in group if name in self.parts]
            if not touched:
                continue
            first = self.parts[touched[0]]
            if len(touched) == len(group) and all(_alike(first, self.parts[name]) for name in touched[1:]):
                for name in touched[1:]:
                    del self.parts[name]
                self.covers[touched[0]] = group
                continue
            for name in touched:
                others = ", ".join(repr(other) for other in group if other != name)
                self.partial[name] = (
                    f"adapter {self.label!r} changes {name!r} but not, or not alike, {others}, to which it is tied"
                )


def _tensors(delta: Tensor | LowRank) -> tuple[Tensor, ...]:
    return (delta.left, delta.right) if isinstance(delta, LowRank) else (delta,)


def _alike(one: Part, other: Part) -> bool:
    """Whether two parts make the same change, told without the base's values."""
    if one.kind != other.kind or one.spec.shape != other.spec.shape:
        return False
    first, second = (part.read(lambda: torch.zeros(one.spec.shape)) for part in (one, other))
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        return bool((LowRank.cat([first, -1.0 * second]).norm() <= 1e-6 * first.norm()).all())
    return isinstance(first, Tensor) and isinstance(second, Tensor) and torch.equal(first, second)


def read_adapter(peft_model: Any, adapter_name: str, label: str | None = None) -> AdapterDeltas:
    """The exact deltas of an adapter that is loaded in a PeftModel; no weight of the base is read.

    PEFT's own layers are read, so patterns, `set_scale` and the like count as PEFT resolved them.

    Args:
        peft_model: a PeftModel; it is not changed, whatever its active adapter.
        adapter_name: of the adapter.
        label: how messages call it (its name, if left out).

    Raises:
        RequestError: no such adapter, one without an exact delta (with the reason), merged adapters, non-finite values.
    """
    label = label or adapter_name
    tree = check_peft_model(peft_model)
    if adapter_name not in peft_model.peft_config:
        raise bad(
            "adapter", adapter_name, "the name of a loaded adapter", nearest(adapter_name, peft_model.peft_config)
        )
    check_config(label, peft_model.peft_config[adapter_name], loaded=True)
    return collect(peft_model, adapter_name, label, tree, replaced={})


def collect(
    peft_model: Any,
    adapter: str,
    label: str,
    tree: PeftTree,
    replaced: Mapping[str, Tensor],
) -> AdapterDeltas:
    """Read the layers of a PeftModel.

    Args:
        peft_model: the model.
        adapter: its name in there.
        label: how messages call it.
        tree: where the model's layers sit, with the ties of its parameters before the adapter came.
        replaced: tensors of the base that the adapter's file brought.
    """
    config = peft_model.peft_config[adapter]
    check_finite(label, tree.layers, adapter)
    parts: dict[str, Part] = {}
    problems = Problems(f"adapter {label!r} has no exact delta")
    for name, layer in tree.layers:
        try:
            for part in _parts(name, layer, adapter, config):
                parts[part.name] = part
        except NoDeltaError as reason:
            problems.add(str(reason))
    problems.raise_any()
    for name, value in replaced.items():
        parts[name] = replaced_part(name, name.rpartition(".")[0], value, parts.get(name))
    if not parts:
        raise RequestError(f"adapter {label!r} changes nothing: no layer of this model holds it")
    return AdapterDeltas(label, config, parts.values(), tree)


def _parts(name: str, layer: nn.Module, adapter: str, config: Any) -> Iterable[Part]:
    if isinstance(layer, ModulesToSaveWrapper):
        return saved_parts(name, layer, adapter)
    if isinstance(layer, TrainableTokensWrapper):
        return token_parts(name, layer.token_adapter, adapter)
    if isinstance(layer, TrainableTokensLayer):
        return token_parts(name, layer, adapter)
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind == "LORA" and isinstance(layer, LoraLayer):
        return lora_parts(name, layer, adapter)
    if isinstance(layer, BaseTunerLayer) and adapter in layer._get_available_adapters():
        return merged_parts(
            name, layer, adapter, additive=kind in ADDITIVE, only=("weight",) if kind in ADDITIVE else ()
        )
    return ()


def base_names(sources: Sequence[AdapterDeltas]) -> dict[str, str]:
    """The base that each adapter records, by label; adapters that record none are left out."""
    return {source.label: source.base_name for source in sources if source.base_name}


def widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    """The narrowest floating-point dtype that holds all of these (float32 for bfloat16 with float16)."""
    result: torch.dtype | None = None
    for dtype in dtypes:
        result = dtype if result is None else torch.promote_types(result, dtype)
    return result or torch.float32
