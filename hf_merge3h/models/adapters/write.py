"""A merged adapter, made in a live PeftModel."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Embedding, ParamWrapper
from peft.utils.other import ModulesToSaveWrapper, TrainableTokensWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...errors import RequestError, bad
from ...linalg.low_rank import LowRank
from ...linalg.parallel import one_thread
from ..lock import PATCHED_TORCH
from .attach import attach
from .checks import check_config, check_peft_model, finite
from .layout import Layout, lay_out, lora_layers, padded
from .read import AdapterDeltas, widest
from .rollback import all_or_nothing, restore_gradients
from .targets import rank_pattern, target_modules
from .tree import PeftTree, named_tensors, part_names


def write_adapter(
    peft_model: Any,
    adapter_name: str,
    deltas: Mapping[str, LowRank | Tensor],
    *,
    sources: Sequence[AdapterDeltas],
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    checked: PeftTree | None = None,
    then: Callable[[], None] | None = None,
) -> None:
    """Make a LoRA adapter whose effective delta is the one given, and activate it; all or nothing.

    Its scaling is 1 everywhere, its ranks are those of the factors. What its sources hold as whole modules
    (`modules_to_save`) it holds so too, as base plus delta. Other adapters are not touched.

    Args:
        peft_model: a PeftModel of LoRA adapters.
        adapter_name: of the new adapter.
        deltas: by the clean base model's parameter names, as the parameter is stored; a LowRank, whose factors are
            written as they are, or a dense tensor, which is decomposed at its numerical rank (for a convolution's
            kernel also a LowRank of its flattened form [out, in * k]).
        sources: the adapters that were merged, for what their configs record.
        dtype: of the factors; None for the widest of the sources'.
        overwrite: replace an adapter of this name.
        checked: what `check_writable` gave, where nothing has changed since.
        then: what belongs to it: if it fails (or Ctrl-C comes), the model and its attributes go back too.

    Raises:
        RequestError: the name is taken or cannot be one, or a delta has no place in an adapter (all are listed).
    """
    tree = checked or check_writable(peft_model, adapter_name, overwrite=overwrite)
    layout = lay_out(tree, deltas, sources, getattr(peft_model, "classifier_module_names", None) or ())
    dtype = dtype or widest(source.dtype for source in sources)
    config = _config(peft_model, tree, layout, sources)
    with (
        PATCHED_TORCH,
        one_thread(),
        all_or_nothing(peft_model) as gradients,
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
    ):
        # PEFT warns of what is meant here: deleting the active adapter, targets that are tied.
        warnings.simplefilter("ignore")
        if adapter_name in peft_model.peft_config:
            peft_model.delete_adapter(adapter_name)
        attach(peft_model, adapter_name, config, tree, layout)
        _fill(PeftTree.of(peft_model.get_base_model()), adapter_name, layout, dtype)
        peft_model.set_adapter(adapter_name, inference_mode=True)
        restore_gradients(gradients)
        if then is not None:
            then()


def check_writable(peft_model: Any, adapter_name: str, *, overwrite: bool) -> PeftTree:
    """Whether an adapter of this name can be made; to be asked before any long work.

    Returns:
        Where the model's layers sit.

    Raises:
        RequestError: the name is taken or no good, or the model holds adapters of another kind than LoRA.
    """
    tree = check_peft_model(peft_model)
    existing = peft_model.peft_config
    if not isinstance(adapter_name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", adapter_name):
        raise bad("adapter_name", adapter_name, "letters, digits, _ and -, for it names a folder and a module")
    if adapter_name in existing and not overwrite:
        raise bad("adapter_name", adapter_name, "a new name", "or pass overwrite=True")
    kind = str(getattr(peft_model.peft_type, "value", peft_model.peft_type))
    if kind != "LORA":
        for name, config in existing.items():  # a kind that nothing can merge has a reason of its own
            check_config(name, config, loaded=True)
        raise RequestError(
            f"adapter_name={adapter_name!r}: this PeftModel holds {kind} adapters, and PEFT keeps one kind in a "
            "model; merge them into a model with LoRA adapters, or into whole weights"
        )
    # PEFT finds an adapter's tensors by its name between dots: a name that occurs in the model's own would mix them up.
    parts = part_names(peft_model) - set(existing)
    if adapter_name in parts or adapter_name in "lora_" or hasattr(nn.ModuleDict, adapter_name):
        raise bad("adapter_name", adapter_name, "a name that is no part of the model's own parameter names")
    return tree


def _config(peft_model: Any, tree: PeftTree, layout: Layout, sources: Sequence[AdapterDeltas]) -> LoraConfig:
    rank = layout.rank
    ranks = rank_pattern({name: factors.rank for name, factors in layout.lora.items()}, rank)
    kept = [*(source.config for source in sources), *peft_model.peft_config.values()]
    return LoraConfig(
        r=rank,
        lora_alpha=rank,
        rank_pattern=dict(ranks),
        alpha_pattern=dict(ranks),
        target_modules=target_modules(list(layout.lora), tree.modules) if layout.lora else [],
        target_parameters=_target_parameters(peft_model, layout, sources),
        modules_to_save=_by_ending(tree, layout.saved) or None,
        trainable_token_indices=_token_indices(tree, layout),
        fan_in_fan_out=any(isinstance(tree.modules[name], Conv1D) for name in layout.lora),
        lora_bias=bool(layout.biases),
        inference_mode=True,
        task_type=next((config.task_type for config in kept if config.task_type), None),
        base_model_name_or_path=next(
            (config.base_model_name_or_path for config in kept if config.base_model_name_or_path), None
        ),
        revision=next((config.revision for config in kept if getattr(config, "revision", None)), None),
    )


def _target_parameters(peft_model: Any, layout: Layout, sources: Sequence[AdapterDeltas]) -> list[str] | None:
    """What `target_parameters` must say; PEFT wants it equal in all adapters of one model that have any."""
    if not layout.parameters:
        return None
    configs = [*peft_model.peft_config.values(), *(source.config for source in sources)]
    for config in configs:
        known = getattr(config, "target_parameters", None)
        if known and all(any(f".{name}".endswith(f".{each}") for each in known) for name in layout.parameters):
            return list(known)
    taken = next((config.target_parameters for config in configs if getattr(config, "target_parameters", None)), None)
    if taken:
        raise RequestError(
            f"the merged adapter would change the parameters {sorted(layout.parameters)}, but another adapter of this "
            f"model has target_parameters={sorted(taken)}, and PEFT wants them equal; merge into a PeftModel without it"
        )
    return sorted(layout.parameters)


def _by_ending(tree: PeftTree, names: Iterable[str]) -> list[str]:
    """Full names of modules; PEFT matches these as plain endings, with no dot before."""
    names = list(names)
    for name in names:
        others = [other for other in tree.modules if other.endswith(name) and other not in names]
        if others:
            raise RequestError(
                f"the merged adapter would save the module {name!r}, but by that name PEFT would also take {others}"
            )
    return names


def _token_indices(tree: PeftTree, layout: Layout) -> dict[str, list[int]] | None:
    """Rows by embedding; of tied ones PEFT wants the first, and ties the others to it."""
    first = {name for name in layout.tokens if tree.canonical(f"{name}.weight") == f"{name}.weight"}
    chosen = [name for name in layout.tokens if name in first or not _first_tied(tree, name, first)]
    return {name: layout.tokens[name][0].tolist() for name in _by_ending(tree, chosen)} or None


def _first_tied(tree: PeftTree, name: str, first: set[str]) -> bool:
    return tree.canonical(f"{name}.weight").rpartition(".")[0] in first


def _fill(tree: PeftTree, adapter: str, layout: Layout, dtype: torch.dtype) -> None:
    layers = lora_layers(tree)
    factors = {**layout.lora, **layout.parameters}
    made = {name for name, layer in layers.items() if adapter in layer.r}
    for name in sorted(made | set(factors)):
        if name not in made or (name not in factors and not isinstance(layers[name], ParamWrapper)):
            raise RuntimeError(f"PEFT read the adapter's targets otherwise than meant, at {name!r}: please report this")
        layer = layers[name]
        # A source's target_parameters may name parameters that the merge leaves alone; each rank there is the greatest.
        value = factors.get(name) or LowRank.zeros(layer.get_param().shape)
        _fill_layer(layer, adapter, padded(value, layer.r[adapter]), layout.biases.get(name), dtype)
    for name, layer in tree.layers:
        if isinstance(layer, ModulesToSaveWrapper) and adapter in layer.modules_to_save:
            copied = layer.modules_to_save[adapter]
            for key, delta in layout.saved.get(name, {}).items():
                parameter = copied.get_parameter(key)
                parameter.data = (parameter.float() + delta.to(parameter.device)).to(parameter.dtype)
        if isinstance(layer, TrainableTokensWrapper) and name in layout.tokens and not layer.token_adapter.tied_adapter:
            rows = layer.token_adapter.trainable_tokens_delta[adapter]
            rows.data = (rows.float() + layout.tokens[name][1].to(rows.device)).to(rows.dtype)
        for key, tensor in named_tensors(layer, adapter):
            if not finite(tensor):
                raise RequestError(f"the merged adapter's {name}.{key} does not fit into {dtype}; choose a wider dtype")


def _fill_layer(layer: Any, adapter: str, factors: LowRank, bias: Tensor | None, dtype: torch.dtype) -> None:
    """Put factors, as the parameter is stored, into a LoRA layer of scaling 1."""
    left, right = factors.left, factors.right
    weight = layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
    device = torch.device("cpu") if weight.is_meta else weight.device

    def parameter(value: Tensor) -> nn.Parameter:
        return nn.Parameter(value.to(device, dtype).contiguous(), requires_grad=False)

    if isinstance(layer, Embedding):
        layer.lora_embedding_A[adapter] = parameter(left.mT)
        layer.lora_embedding_B[adapter] = parameter(right.mT)
        return
    if isinstance(layer, ParamWrapper):
        A, B = _unstacked(layer, left, right)
    elif getattr(layer, "fan_in_fan_out", False):
        A, B = left.mT, right.mT
    else:
        A, B = right, left
    shapes = layer.lora_A[adapter].weight.shape, layer.lora_B[adapter].weight.shape
    layer.lora_A[adapter].weight = parameter(A.reshape(shapes[0]))
    layer.lora_B[adapter].weight = parameter(B.reshape(shapes[1]))
    if layer.lora_B[adapter].bias is not None:
        layer.lora_B[adapter].bias = parameter(torch.zeros(B.shape[0]) if bias is None else bias)


def _unstacked(layer: ParamWrapper, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """A [expert * r, in] and B [out, r * expert] from the factors of a stack (PEFT orders the two differently)."""
    if left.ndim == 2:
        return right, left
    A, B = (right, left) if layer._did_swap_in_out_features else (left.mT, right.mT)
    return A.flatten(0, 1), B.permute(1, 2, 0).flatten(1)
