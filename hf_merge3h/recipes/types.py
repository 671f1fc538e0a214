"""What a recipe says, after reading: plain data between the reader of YAML and the engine.

The reader knows YAML and mergekit's meaning of it; the engine knows tensors. This is all that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import RequestError
from .marks import Marked, Path

#: The method of a job that copies its one input, times `scale` where its parameters name one.
PASSTHROUGH = "passthrough"
SEED_BITS = 63


@dataclass(frozen=True)
class ModelReference:
    """One model that a recipe names.

    Attributes:
        source: folder or Hub id, `@revision` included.
        adapters: PEFT adapters applied to it, in order (`model+lora`, or our `adapters:`).
        given: as the file says it.
        role: ours: helpfulness, honesty, ...; else a name by position.
        path: where the recipe names it first.
        adapter_paths: where it names each adapter.
    """

    source: str
    adapters: tuple[str, ...] = ()
    given: str = ""
    role: str = ""
    path: Path = field(default=(), compare=False)
    adapter_paths: tuple[Path, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class TensorJob:
    """How one tensor of the output is made.

    Attributes:
        name: in the output.
        method: registered name of the method ("passthrough" is one too: a copy, times `scale`).
        inputs: the tensors that go in: (index into `Recipe.models`, name of the tensor in that model), experts in
            order. A head that a model does not have is its input embedding, which it is tied to.
        base: the same for the base's tensor, or None where the method is applied without one.
        weights: one for each input, as the method takes them.
        parameters: as `Method.bind` takes them, mergekit's defaults already filled in for a mergekit file.
        optional: leave the output tensor out where no input has it.
    """

    name: str
    method: str
    inputs: tuple[tuple[int, str], ...]
    base: tuple[int, str] | None
    weights: tuple[float, ...]
    parameters: Mapping[str, Any]
    optional: bool = False


@dataclass(frozen=True)
class Recipe:
    """A recipe that makes sense in itself; nothing of the models has been opened.

    Attributes:
        models: all that it names, the base among them, each once; one that only the tokenizer names is among them too,
            has no role and is in no job.
        base: index of the base in `models`, or None.
        jobs: given the tensors' names and shapes of each model (and the number of layers in its config), the jobs of
            the output, in order; raises one RequestError that lists all problems.
        layers: given the models' layer counts, that of the output (None where it is the base's).
        dtype, out_dtype: of computing and storing, as torch names ("bfloat16"), or None: each tensor's own.
        tokenizer: `tokenizer_source` or `tokenizer` in one form, or None (then the base's, or the first model's, is
            taken as it is): {"source": "base", "union" or an index into `models`, "tokens": {token: {"source": None,
            {"kind": "zero"}, {"kind": "model", "model": index} or {"kind": "model_token", "model": index, "token" or
            "token_id": ...}, "force": bool}}, "pad_to_multiple_of": int or None}. Where there is one, tensors whose
            rows stand for tokens may differ in their number of rows, and the jobs leave the matching to the engine.
        chat_template: as given.
        seed: of random masks.
        out: "weights" or "adapter".
        given: the YAML as plain data.
        label: file name for messages.
        method: `merge_method` as given.
        warnings: what a careful user should know of this recipe, one line each (options that change nothing, ...).
        text: the document, which knows its lines.
    """

    models: tuple[ModelReference, ...]
    base: int | None
    jobs: Callable[[Sequence[Mapping[str, tuple[int, ...]]], Sequence[int | None]], tuple[TensorJob, ...]]
    layers: Callable[[Sequence[int | None]], int | None]
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: Any = None
    chat_template: str | None = None
    seed: int = 0
    out: str = "weights"
    given: Mapping[str, Any] = field(default_factory=dict)
    label: str = "recipe"
    method: str = ""
    warnings: tuple[str, ...] = ()
    text: Marked = field(default=Marked({}, "recipe"), compare=False, repr=False)

    def at(self, *path: str | int) -> str:
        """File and line of what these keys and indices lead to, or of the nearest thing around it."""
        return self.text.where(path)

    def told(self, model: ModelReference, error: RequestError) -> RequestError:
        """An error in opening a model, or the adapter that it is about, with the place where the recipe names that."""
        adapters = dict(zip(model.adapters, model.adapter_paths, strict=False))
        path = model.path if error.within is None else adapters.get(error.within, model.path)
        return type(error)(self.text.told(path, error))
