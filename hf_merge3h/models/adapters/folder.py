"""A PEFT adapter that lies in a folder: loaded by PEFT itself, onto a copy of the model that holds no weights."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, PeftType
from peft.auto import MODEL_TYPE_TO_PEFT_MODEL_MAPPING
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.save_and_load import set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...errors import Problems, RequestError, SourceError, nearest, one_line_of, show
from ..lock import PATCHED_TORCH
from ..weights.headers import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from .checks import check_config
from .read import AdapterDeltas, collect
from .tree import PeftTree, named_tensors

_PICKLE = "adapter_model.bin"
_CONFIG_LIMIT = 4_000_000  # bytes; a config that lists each of ten thousand modules has about one million
_NAME = "expert"  # the adapter's name on the copy
# Model classes of PEFT that wrap a classification head of their own accord, as the saved adapter then has it.
_WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")


def meta_copy(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters lie on the meta device: its structure, without its weights.

    Tied parameters stay tied. Buffers are shared with the original: do not write into them.
    """
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"),
            requires_grad=parameter.requires_grad,
        )
    for buffer in module.buffers():
        memo[id(buffer)] = buffer
    return copy.deepcopy(module, memo)


def load_adapter(folder: Path, skeleton: nn.Module, label: str) -> AdapterDeltas:
    """Read an adapter from a local folder, for a base of this structure.

    PEFT loads it onto a copy of the skeleton without weights, so every rule of PEFT's holds (patterns, renamed modules,
    fused experts) and no base weight is read. Where the adapter needs them (DoRA, modules_to_save), `delta` asks.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        skeleton: the base, on any device (meta too), without PEFT's layers; it is not changed.
        label: how messages call the adapter.

    Raises:
        SourceError: a file is missing, broken, or does not fit the skeleton.
        RequestError: an adapter without an exact delta, with the reason.
    """
    config = read_config(folder, label)
    check_config(label, config, loaded=False)
    state = _read_weights(folder, label)
    if any(isinstance(module, BaseTunerLayer) for module in skeleton.modules()):
        raise RequestError(
            f"adapter {label!r}: the model already has PEFT layers; give the plain base (get_base_model)"
        )
    with PATCHED_TORCH:
        model = _load(config, state, skeleton, label)
    tree = PeftTree.of(model.get_base_model())
    tree.ties = PeftTree.of(skeleton).ties  # loading the file may have undone them
    return collect(model, _NAME, label, tree, _replaced(model, skeleton))


def host_model(skeleton: nn.Module) -> PeftModel:
    """A PeftModel over a copy without weights, into which `write_adapter` can write; its one adapter means nothing."""
    linear = next((name for name, module in skeleton.named_modules() if isinstance(module, (nn.Linear, Conv1D))), None)
    if linear is None:
        raise RequestError(f"a {type(skeleton).__name__} has no linear layer that an adapter could be on")
    config = LoraConfig(r=1, target_modules=[linear])
    with PATCHED_TORCH, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        return PeftModel(meta_copy(skeleton), config, _NAME, autocast_adapter_dtype=False, low_cpu_mem_usage=True)


def read_config(folder: Path, label: str) -> PeftConfig:
    """The adapter's configuration, from a file that is not trusted.

    Raises:
        SourceError: missing, too large, no JSON object, of an unknown kind, or with fields PEFT does not take.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise SourceError(
            f"adapter {label!r}: no {ADAPTER_CONFIG} in {folder}; expected a folder written by save_pretrained"
        )
    if path.stat().st_size > _CONFIG_LIMIT:
        raise SourceError(
            f"adapter {label!r}: {path} has {path.stat().st_size:,} bytes, more than any adapter's config"
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise SourceError(f"adapter {label!r}: {path} is no JSON: {error}") from None
    if not isinstance(fields, dict):
        raise SourceError(f"adapter {label!r}: {path} holds {show(fields)}, expected a JSON object")
    kind = fields.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        hint = nearest(str(kind), [str(each.value) for each in PEFT_TYPE_TO_CONFIG_MAPPING])
        raise SourceError(f"adapter {label!r}: peft_type={show(kind)} in {path} is none that PEFT knows; {hint}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of fields that another version of PEFT wrote; weights are checked below
            config = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind)].from_pretrained(str(folder))
    except Exception as error:  # whatever a constructor makes of hostile values
        raise SourceError(f"adapter {label!r}: PEFT cannot use {path}: {one_line_of(error)}") from error
    config.inference_mode = True
    return config


def _read_weights(folder: Path, label: str) -> dict[str, Tensor]:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        if (folder / _PICKLE).is_file():
            raise SourceError(
                f"adapter {label!r}: {folder} has only {_PICKLE}, a pickle, which can run code when it is opened; "
                'where you trust it, convert it: python -c "import torch, safetensors.torch as s; '
                f"s.save_file(torch.load('{_PICKLE}', weights_only=True), '{ADAPTER_WEIGHTS}')\""
            )
        raise SourceError(
            f"adapter {label!r}: no {ADAPTER_WEIGHTS} in {folder}; expected a folder written by save_pretrained"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise SourceError(
            f"adapter {label!r}: {path} is corrupted or truncated ({one_line_of(error)}); download or save it again"
        ) from None


def _load(config: PeftConfig, state: dict[str, Tensor], skeleton: nn.Module, label: str) -> PeftModel:
    """PEFT's model over a meta copy, with the adapter's real tensors in it."""
    task = str(getattr(config.task_type, "value", config.task_type))
    wrapper = MODEL_TYPE_TO_PEFT_MODEL_MAPPING[task] if task in _WITH_HEAD else PeftModel
    problems = Problems(f"adapter {label!r} does not fit this base", SourceError)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # what PEFT only warns of is checked here, and is an error
        try:
            model = wrapper(meta_copy(skeleton), config, _NAME, autocast_adapter_dtype=False, low_cpu_mem_usage=True)
        except Exception as error:  # PEFT raises of many kinds: no module matches, shapes, broken patterns
            raise SourceError(f"adapter {label!r} does not fit this base: {one_line_of(error)}") from error
        module: Any
        for module in model.modules():
            if _NAME in getattr(module, "ranknum", {}):
                # AdaLoRA's files do not hold it: PEFT sets it to the rank, and then moves it to the base's device.
                module.ranknum[_NAME] = nn.Parameter(torch.tensor([float(module.r[_NAME])]), requires_grad=False)
            if hasattr(module, "_move_adapter_to_device_of_base_layer"):
                # PEFT would move and round the weights it has just loaded to the base's device (here: meta) and dtype.
                module._move_adapter_to_device_of_base_layer = lambda *args, **kwargs: None
        try:
            result: Any = set_peft_model_state_dict(model, state, _NAME, low_cpu_mem_usage=True)
        except KeyError as error:
            raise SourceError(f"adapter {label!r} does not fit this base: {ADAPTER_WEIGHTS} has no {error}") from None
        except Exception as error:
            for line in [line.strip() for line in str(error).splitlines() if "size mismatch" in line]:
                problems.add(line.replace(f".{_NAME}.", "."))
            problems.raise_any()
            raise SourceError(f"adapter {label!r} does not fit this base: {one_line_of(error)}") from error
    for key in result.unexpected_keys:
        problems.add(f"{ADAPTER_WEIGHTS} has {key.replace(f'.{_NAME}', '')!r}, for which the base has no place")
    for name, layer in PeftTree.of(model.get_base_model()).layers:
        for key, tensor in named_tensors(layer, _NAME):
            if tensor.is_meta and "trainable_tokens_original" not in key:
                problems.add(f"{ADAPTER_WEIGHTS} lacks {f'{name}.{key}'.replace(f'.{_NAME}', '')!r}")
    problems.raise_any()
    return model


def _replaced(model: PeftModel, skeleton: nn.Module) -> dict[str, Tensor]:
    """Tensors of the base that the adapter's file brought: biases, and embeddings saved beside the adapter.

    Those that equal the skeleton's are left out: PEFT saves embeddings whenever an adapter targets them.
    """
    tree = PeftTree.of(model.get_base_model())
    before = dict(skeleton.named_parameters(remove_duplicate=False))
    replaced: dict[str, Tensor] = {}
    for name, parameter in tree.parameters.items():
        if parameter.is_meta:
            continue
        known = before[name]
        value = parameter.detach()
        if known.is_meta or not torch.equal(known.detach().cpu(), value.to(known.dtype)):
            replaced[name] = value
    return replaced
