"""Letting models speak: base models are loaded once and shared, read-only, by all visits; adapters are put on and off.

One prompt is answered by all adapters of a base in one batch, token by token, so that answers grow side by side.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import places

MOST_TOKENS = 160
MOST_CHARACTERS = 2000
#: Bytes of weights of a model that may be loaded to speak.
MOST_SPOKEN = int(float(os.environ.get("SPACE_CHAT_GB", "4")) * 1e9)
NO_ADAPTER = "__base__"  # peft's own word for what is under the adapters
#: A chat template is a program of strangers; one that takes longer than this would keep all others from answers.
_TEMPLATE_SECONDS = 5.0
_KEPT_MODELS = 2
_KEPT_ADAPTERS = 12


@dataclass(frozen=True)
class Speaker:
    """Who answers: a whole model, or an adapter on one. Names are those of recipes, or folders of a visit."""

    label: str
    model: str
    adapter: str | None = None


@dataclass
class _Loaded:
    model: Any
    tokenizer: Any
    adapters: OrderedDict[str, str] = field(default_factory=OrderedDict)


class Voices:
    """Models that can speak, the least used ones forgotten."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[str, _Loaded] = OrderedDict()
        self._gone: list[str] = []  # folders of visits that ended, whose models are forgotten when nobody speaks
        self.loads = 0

    def warm(self) -> None:
        """Load the shipped base, so that the first visitor does not wait for it."""
        with self._mine():
            self._model(places.demo.BASE_MODEL_ID)

    def answers(self, speakers: Sequence[Speaker], prompt: str, tokens: int) -> Iterator[dict[str, str]]:
        """What each says, growing; one at a time may ask.

        Raises:
            OSError, ValueError: a model cannot be loaded, or is too large.
        """
        said = {speaker.label: "" for speaker in speakers}
        groups: dict[str, list[Speaker]] = {}
        for speaker in speakers:
            groups.setdefault(speaker.model, []).append(speaker)
        for name, group in groups.items():
            with self._mine():
                loaded = self._model(name)
                names = [self._adapter(loaded, speaker.adapter) for speaker in group]
                for texts in _batch(loaded, names, prompt, tokens):
                    said.update(zip((speaker.label for speaker in group), texts, strict=True))
                    yield dict(said)

    @contextmanager
    def sources(self, speakers: Sequence[Speaker]) -> Iterator[dict[str, Any]]:
        """What the library can evaluate, by label. Adapters of one base are what chats ask, and nobody else speaks or
        is forgotten until the block ends; whole models are functions that open one when its turn comes.

        Raises:
            OSError, ValueError: a model cannot be loaded, or is too large.
        """
        if len({speaker.model for speaker in speakers}) > 1:
            yield {speaker.label: functools.partial(self._alone, speaker) for speaker in speakers}
            return
        with self._mine():
            loaded = self._model(speakers[0].model)
            names = {speaker.label: self._adapter(loaded, speaker.adapter) for speaker in speakers}
            yield {label: (loaded.model, None if name == NO_ADAPTER else name) for label, name in names.items()}

    def _alone(self, speaker: Speaker) -> Any:
        """A model of its own that speaks as one of them: it is changed by nothing that others do meanwhile."""
        with self._mine(), places.BUILDING:
            loaded = self._model(speaker.model)
            name = self._adapter(loaded, speaker.adapter)
            if not hasattr(loaded.model, "peft_config"):
                return loaded.model  # chats and evaluations, which could put adapters on it, wait for each other
            copied = copy.deepcopy(loaded.model)
            if speaker.adapter is None:
                return copied.unload()
            copied.set_adapter(name)
            return copied.merge_and_unload()

    def forget(self, folder: Path) -> None:
        """Forget all that was loaded from a visit's folder; as soon as nobody speaks, which is not waited for."""
        self._gone.append(str(folder))
        self._clear()

    @contextmanager
    def _mine(self) -> Iterator[None]:
        """One at a time may use the models."""
        with self._lock:
            yield
        self._clear()

    def _clear(self) -> None:
        while self._gone and self._lock.acquire(blocking=False):  # who holds it clears when it is done
            try:
                folder = self._gone.pop() if self._gone else None
                for name in [each for each in self._models if folder and each.startswith(folder)]:
                    del self._models[name]
                for loaded in self._models.values():
                    for source in [each for each in loaded.adapters if folder and each.startswith(folder)]:
                        loaded.model.delete_adapter(loaded.adapters.pop(source))
            finally:
                self._lock.release()

    def _model(self, name: str) -> _Loaded:
        if name in self._models:
            self._models.move_to_end(name)
            return self._models[name]
        while len(self._models) >= _KEPT_MODELS:
            oldest = next((each for each in self._models if each != places.demo.BASE_MODEL_ID), None)
            self._models.pop(oldest or next(iter(self._models)))
        self.loads += 1
        self._models[name] = _load(name)
        return self._models[name]

    def _adapter(self, loaded: _Loaded, source: str | None) -> str:
        """The name of an adapter on a model, loaded if it is not there yet."""
        if source is None:
            return NO_ADAPTER
        from peft import PeftModel

        if source not in loaded.adapters:
            folder, name = _adapter_folder(source), f"voice_{self.loads}"
            self.loads += 1
            with places.BUILDING:
                if isinstance(loaded.model, PeftModel):
                    loaded.model.load_adapter(folder, adapter_name=name)
                else:
                    loaded.model = PeftModel.from_pretrained(loaded.model, folder, adapter_name=name).eval()
            loaded.adapters[source] = name
            while len(loaded.adapters) > _KEPT_ADAPTERS:
                _, oldest = loaded.adapters.popitem(last=False)
                loaded.model.delete_adapter(oldest)
        loaded.adapters.move_to_end(source)
        return loaded.adapters[source]


def _adapter_folder(source: str) -> str:
    where = places.place(source)
    if Path(where).is_dir():
        return where
    from huggingface_hub import snapshot_download

    repo, _, revision = where.partition("@")
    wanted = ["adapter_config.json", "adapter_model.safetensors"]
    return snapshot_download(repo, revision=revision or None, allow_patterns=wanted, token=False)


def _load(name: str) -> _Loaded:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights = places.weights_of(name)
    if weights > MOST_SPOKEN:
        raise ValueError(f"{places.size(weights)} of weights, and {places.size(MOST_SPOKEN)} can be loaded to answer")
    where, _, revision = places.place(name).partition("@")
    device = "cuda" if torch.cuda.is_available() and os.environ.get("SPACES_ZERO_GPU") is None else "cpu"
    options: dict[str, Any] = {
        "token": False,
        "trust_remote_code": False,
        **({"revision": revision} if revision else {}),
    }
    with places.BUILDING:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
    _prompt_ids(tokenizer, "Hello")  # a template that never ends is found here, before weights are fetched
    with places.BUILDING:
        model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32, use_safetensors=True, **options)
    return _Loaded(model.eval().to(device), tokenizer)


def _batch(loaded: _Loaded, adapters: Sequence[str], prompt: str, tokens: int) -> Iterator[list[str]]:
    """Greedy answers of one model with several adapters, a token of each at a time."""
    import torch

    ids = _prompt_ids(loaded.tokenizer, prompt).to(loaded.model.device).expand(len(adapters), -1)
    plain = set(adapters) == {NO_ADAPTER} and not loaded.adapters
    extra: dict[str, Any] = {} if plain else {"adapter_names": list(adapters)}
    stop = _stop_ids(loaded)
    said: list[list[int]] = [[] for _ in adapters]
    done = [False] * len(adapters)
    cache = None
    for _ in range(min(tokens, MOST_TOKENS)):
        with torch.inference_mode():
            result = loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, **extra)
            cache, following = result.past_key_values, result.logits[:, -1].argmax(-1)
        for row, token in enumerate(following.tolist()):
            done[row] = done[row] or token in stop
            if not done[row]:
                said[row].append(token)
        yield [loaded.tokenizer.decode(each, skip_special_tokens=True).strip() for each in said]
        if all(done):
            return
        ids = following.unsqueeze(-1)


def _prompt_ids(tokenizer: Any, prompt: str) -> Any:
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        told = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        with _at_most(_TEMPLATE_SECONDS, "the model's chat template"):
            return tokenizer.apply_chat_template(turns, **told)["input_ids"]
    return tokenizer(prompt, return_tensors="pt")["input_ids"]


@contextmanager
def _at_most(seconds: float, what: str) -> Iterator[None]:
    """End Python code that runs longer, loops of Jinja templates among it: each line asks for the time.

    Raises:
        ValueError: it took longer.
    """
    end = time.monotonic() + seconds

    def look(frame: Any, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise ValueError(f"{what} takes longer than {seconds:.0f} s to fill in; this model is not asked here")
        return look

    before = sys.gettrace()
    sys.settrace(look)  # of this thread alone
    try:
        yield
    finally:
        sys.settrace(before)


def _stop_ids(loaded: _Loaded) -> set[int]:
    found = getattr(loaded.model.generation_config, "eos_token_id", None)
    ids = found if isinstance(found, list) else [found]
    return {each for each in [*ids, loaded.tokenizer.eos_token_id] if each is not None}
