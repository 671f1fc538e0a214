"""`merge_3h` on transformers' `PreTrainedModel` and PEFT's `PeftModel`, our metrics in `evaluate.load`; in any order.

The models' `save_pretrained` gets one more step: what `merge_3h` made is saved with its manifest, `merge3h.json`.
PEFT's `load_adapter` gets one too: it notes where the adapter is from, so that a merge of loaded adapters can say so.

`install` attaches the methods to the classes that are loaded already, and leaves a finder on `sys.meta_path` that
attaches them as soon as one is imported. Nothing heavy is imported here; the methods import the engine when called.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel


def merge_into_model(
    self: PreTrainedModel,
    experts: Mapping[str, Any] | Sequence[Any],
    *,
    method: str = "r_tsvm",
    weights: Sequence[float] | Mapping[str, float] | None = None,
    base: Any = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
    token: str | bool | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    **method_parameters: Any,
) -> PreTrainedModel:
    """Merge experts into this model, in place: all or nothing.

    Args:
        experts: dict of role -> source, or a list of sources. Roles are `helpfulness`, `honesty`, `harmlessness`
            (aliases `helpful`, `honest`, `harmless`) or any other word. A source is a Hub id (`owner/name@revision`),
            a local folder, a live module, or a PEFT adapter (Hub id, folder, or a PeftModel with one active adapter),
            in any mix.
        method: one of `hf_merge3h.list_methods()`.
        weights: one for each expert: a list in their order, or a dict by role. Default: the method's.
        base: the model that the experts were trained from: a live module, Hub id or folder; None for this model as
            it stands.
        seed: of random masks; they go by role, which in a list is an expert's position (or an adapter's name).
        device: where to compute: "auto", "cpu", "cuda", "mps".
        dtype: convert the merged model to this dtype; None keeps each tensor's own.
        progress: show a progress bar.
        token, revision, subfolder, cache_dir, local_files_only: as in `from_pretrained`, for sources on the Hub.
        **method_parameters: the method's own, see `hf-merge3h methods NAME`.

    Returns:
        This model; its `merge_report` tells what the merge did.

    Raises:
        RequestError: the request cannot be carried out; the model is unchanged.
    """
    from .engine.doors import merge_module
    from .models.types import HubOptions

    hub = HubOptions(token, revision, subfolder, cache_dir, local_files_only)
    return merge_module(
        self, experts, method=method, weights=weights, base=base, seed=seed, device=device, dtype=dtype,
        progress=progress, hub=hub, parameters=method_parameters,
    )  # fmt: skip


def merge_into_adapter(
    self: PeftModel,
    adapters: Mapping[str, Any] | Sequence[Any],
    *,
    method: str = "r_tsvm",
    weights: Sequence[float] | Mapping[str, float] | None = None,
    adapter_name: str = "merged",
    rank: int | str | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    progress: bool = True,
    overwrite: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    **method_parameters: Any,
) -> PeftModel:
    """Merge adapters into a new adapter of this model, which becomes the active one.

    Args:
        adapters: names of loaded adapters, or sources of adapters (Hub id, folder), as a list or as a dict by role.
        method: one of `hf_merge3h.list_methods()`.
        weights: one for each adapter: a list in their order, or a dict by role (or adapter name).
        adapter_name: of the result.
        rank: None for the exact result of linear and spectral methods, and the sum of the sources' ranks otherwise;
            a number for the best approximation of that rank; "exact" to keep every singular value.
        seed: of random masks; they go by role, which in a list is an expert's position (or an adapter's name).
        device: where to compute: "auto", "cpu", "cuda", "mps".
        dtype: of the merged adapter; None for the widest of its sources.
        progress: show a progress bar.
        overwrite: replace an adapter that has this name.
        token, revision, subfolder, cache_dir, local_files_only: as in `from_pretrained`, for sources on the Hub.
        **method_parameters: the method's own, see `hf-merge3h methods NAME`.

    Returns:
        This model; its `merge_report` tells what the merge did.

    Raises:
        RequestError: the request cannot be carried out; nothing has changed.
    """
    from .engine.doors import merge_adapters
    from .models.types import HubOptions

    hub = HubOptions(token, revision, subfolder, cache_dir, local_files_only)
    return merge_adapters(
        self, adapters, method=method, weights=weights, adapter_name=adapter_name, rank=rank, seed=seed,
        device=device, dtype=dtype, progress=progress, overwrite=overwrite, hub=hub, parameters=method_parameters,
    )  # fmt: skip


def _saving(save: Callable[..., Any]) -> Callable[..., Any]:
    """`save_pretrained`, and then the manifest of what was merged.

    On the class, not on the merged model: copies and pickles of a model keep it.
    """

    @functools.wraps(save)
    def save_pretrained(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "merge_report" not in vars(self):
            return save(self, *args, **kwargs)
        given = _arguments(save, self, args, kwargs)
        card = _card(given["save_directory"])  # before PEFT writes one of its own
        result = save(self, *args, **kwargs)
        if given.get("is_main_process", True):
            _finish(self, given["save_directory"], given.get("state_dict"), given.get("selected_adapters"), card)
        return result

    save_pretrained.merge_3h = True  # type: ignore[attr-defined]
    return save_pretrained


def _uploading(upload: Callable[..., Any]) -> Callable[..., Any]:
    """What `push_to_hub` uploads is finished first: it has just put its own card there."""

    @functools.wraps(upload)
    def _upload_modified_files(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "merge_report" in vars(self):
            _finish(self, _arguments(upload, self, args, kwargs)["working_dir"], None, None, None)
        return upload(self, *args, **kwargs)

    _upload_modified_files.merge_3h = True  # type: ignore[attr-defined]
    return _upload_modified_files


def _loading(load: Callable[..., Any]) -> Callable[..., Any]:
    """`load_adapter` (`PeftModel.from_pretrained` calls it too), and then a note of what was loaded."""

    @functools.wraps(load)
    def load_adapter(self: Any, model_id: Any, adapter_name: str, *args: Any, **kwargs: Any) -> Any:
        result = load(self, model_id, adapter_name, *args, **kwargs)
        from .models.adapters.loaded import note

        note(self, adapter_name, model_id, kwargs)
        return result

    load_adapter.merge_3h = True  # type: ignore[attr-defined]
    return load_adapter


def _arguments(function: Callable[..., Any], self: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    return inspect.signature(function).bind(self, *args, **kwargs).arguments


def _card(folder: Any) -> str:
    """The card that lies in a folder."""
    from .publishing.card import read_old

    return read_old(Path(folder))


def _finish(model: Any, folder: Any, state: Any, adapters: Sequence[str] | None, card: str | None) -> None:
    from .engine.saved import after_saving

    saved = getattr(model, "peft_config", None) if type(model).__module__.startswith("peft.") else None
    after_saving(model, Path(folder), state, saved and list(saved if adapters is None else adapters), card)


#: Further steps of methods that the classes have.
_STEPS = {"save_pretrained": _saving, "_upload_modified_files": _uploading}
_PEFT_STEPS = {**_STEPS, "load_adapter": _loading}


def refuse_compiled(self: Any, *args: Any, **kwargs: Any) -> Any:
    """What torch.compile returns forwards unknown attributes to the model inside: this one it must not.

    Raises:
        RequestError: always.
    """
    from .errors import RequestError

    raise RequestError(
        f"the model: this {type(self).__name__} was compiled by torch.compile; call merge_3h on the module that was "
        "compiled, model._orig_mod.merge_3h(...), and compile after merging"
    )


#: module that defines the class -> (class, function)
_CLASSES: dict[str, tuple[str, Callable[..., Any]]] = {
    "transformers.modeling_utils": ("PreTrainedModel", merge_into_model),
    "peft.peft_model": ("PeftModel", merge_into_adapter),
    "torch._dynamo.eval_frame": ("OptimizedModule", refuse_compiled),
}
#: modules that something is attached to
_TARGETS = {*_CLASSES, "evaluate.loading"}


def install() -> None:
    """Make `merge_3h` and the metrics known, now and to what is imported later; a second call changes nothing."""
    for name in _TARGETS:
        if name in sys.modules:
            _attach(sys.modules[name])
    if not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _attach(module: ModuleType) -> None:
    if module.__name__ in _CLASSES:
        _give_methods(module, *_CLASSES[module.__name__])
    else:
        from .metrics.loading import attach

        attach(module)


def _give_methods(module: ModuleType, class_name: str, function: Callable[..., Any]) -> None:
    function.__name__, function.__qualname__ = "merge_3h", f"{class_name}.merge_3h"
    if hasattr(module, class_name):  # absent while another thread is still executing the module
        kind = getattr(module, class_name)
        kind.merge_3h = function
        for name, more in (_PEFT_STEPS if class_name == "PeftModel" else _STEPS).items():
            method = getattr(kind, name, None)
            if method is not None and not hasattr(method, "merge_3h"):
                setattr(kind, name, more(method))


class _AfterImport(MetaPathFinder):
    """Finds the target modules through the other finders, and attaches to them once they have been executed."""

    def __init__(self) -> None:
        self._searching = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _TARGETS or getattr(self._searching, "now", False):
            return None
        self._searching.now = True  # find_spec below asks this finder again
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._searching.now = False
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_attach(module: ModuleType) -> None:
            execute(module)
            _attach(module)

        spec.loader.exec_module = execute_and_attach  # type: ignore[method-assign]
        return spec
