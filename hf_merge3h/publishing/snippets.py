"""The code that a card shows: how to load the merge. Tests run it."""

from __future__ import annotations

import json

from .facts import Facts
from .text import Markdown, fence, one_line


def snippet(facts: Facts, place: str) -> Markdown:
    """Python that loads the merge, and where it writes text, lets it answer.

    Args:
        facts: of the merge.
        place: a Hub id, or a folder.
    """
    where = json.dumps(one_line(place))
    return fence("\n".join(_adapter(facts, where) if facts.is_adapter else _model(facts, where)), "python")


_ASK = '"Why is the sky blue?"'
_CHAT = [
    f'messages = [{{"role": "user", "content": {_ASK}}}]',
    "inputs = tokenizer.apply_chat_template(",
    *("    messages,", "    add_generation_prompt=True,", '    return_tensors="pt",', "    return_dict=True,"),
    ")",
]
_PLAIN = [f'inputs = tokenizer({_ASK}, return_tensors="pt")']
_ANSWER = [
    "output = model.generate(**inputs, max_new_tokens=40)",
    'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
]


def _model(facts: Facts, where: str) -> list[str]:
    tokenizes = facts.generates and facts.has_tokenizer
    names = facts.auto_class + (", AutoTokenizer" if tokenizes else "")
    lines = [f"from transformers import {names}", ""]
    lines.append(f'model = {facts.auto_class}.from_pretrained({where}, dtype="auto")')
    if tokenizes:
        lines.append(f"tokenizer = AutoTokenizer.from_pretrained({where})")
        lines += [*(_CHAT if facts.has_template else _PLAIN), *_ANSWER]
    return lines


def _adapter(facts: Facts, where: str) -> list[str]:
    auto = "AutoPeftModelForCausalLM" if facts.generates else "AutoPeftModel"
    load = ["# Loads the base that the adapter names, too.", f"model = {auto}.from_pretrained({where})"]
    if not facts.generates:
        return [f"from peft import {auto}", "", *load]
    tokenizer = 'tokenizer = AutoTokenizer.from_pretrained(model.peft_config["default"].base_model_name_or_path)'
    # The manifest does not know whether the base's tokenizer, which lies elsewhere, has a chat template.
    ask = ["if tokenizer.chat_template:", *_inside(_CHAT), "else:", *_inside(_PLAIN)]
    return [f"from peft import {auto}", "from transformers import AutoTokenizer", "", *load, tokenizer, *ask, *_ANSWER]


def _inside(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]
