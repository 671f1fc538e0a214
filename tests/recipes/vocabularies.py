"""Models whose vocabularies differ, and recipes that bring them together; {base}, {chat}, ... become folders.

Imports nothing of this project: it is read in mergekit's environment too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: Tokens of each model's vocabulary, those that were added to it, and rows beyond them.
_PLAIN = ["<unk>", "<s>", "</s>", *(f"t{number}" for number in range(9))]
VOCABULARIES: dict[str, tuple[list[str], list[str], int]] = {
    "base": (_PLAIN, [], 0),
    "near": (_PLAIN, [], 0),
    "chat": (_PLAIN, ["<|im_start|>", "<|im_end|>"], 0),
    "late": (_PLAIN, ["<|other|>", "<|im_end|>"], 0),
    "padded": (_PLAIN, ["<|im_start|>"], 3),
    "mixed": (["<unk>", "</s>", "<s>", "t8", "t1", "t0", "new"], [], 0),
}

_TASK = "merge_method: task_arithmetic\nbase_model: {base}\n"
_WEIGHTED = "models: [{{model: {near}, parameters: {{weight: 0.7}}}}, {{model: {chat}, parameters: {{weight: 0.6}}}}"
_TWO = _WEIGHTED + "]\n"
_THREE = _WEIGHTED + ", {{model: {late}, parameters: {{weight: 0.5}}}}]\n"
_MIXED = "merge_method: linear\nmodels: [{{model: {base}}}, {{model: {mixed}}}]\nparameters: {{weight: 1}}\n"

CASES: dict[str, str] = {
    "union": _TASK + _THREE + "tokenizer_source: union",
    "union_linear": "merge_method: linear\n" + _THREE + "tokenizer_source: union",
    "union_linear_base": "merge_method: linear\nbase_model: {base}\n" + _THREE
    + "parameters: {{weight: 0.3}}\ntokenizer_source: union",
    "base": _TASK + _TWO + "tokenizer_source: base",
    "model": _TASK + _TWO + "tokenizer_source: {chat}",
    "padded": "merge_method: linear\nmodels: [{{model: {chat}}}, {{model: {padded}}}]\nparameters: {{weight: 1}}\n"
    "tokenizer_source: union",
    "mixed": _MIXED + "tokenizer_source: union",
    "mixed_base": _MIXED + "tokenizer_source: {base}",
    "mixed_other": _MIXED + "tokenizer_source: {mixed}",
    "slerp": "merge_method: slerp\nbase_model: {base}\nmodels: [{{model: {chat}}}]\nparameters: {{t: 0.4}}\n"
    "tokenizer_source: union",
    "ties": "merge_method: ties\nbase_model: {base}\n" + _THREE
    + "parameters: {{density: 0.6}}\ntokenizer_source: union",
    "tokens": _TASK + _THREE
    + """
tokenizer:
  source: union
  tokens:
    <|im_end|>: {{source: {late}}}
    <|im_start|>: {{source: {{kind: zero}}}}
    <|other|>: {{source: {{kind: model_token, model: {base}, token: t3}}}}
""",
    "tokens_forced": _TASK + _THREE
    + """
tokenizer:
  source: union
  pad_to_multiple_of: 8
  tokens:
    <|im_end|>: {{source: {late}, force: true}}
    <|im_start|>: {{source: {{kind: model_token, model: {chat}, token_id: 5}}, force: true}}
    t1: {{source: {near}, force: true}}
    t2: {{source: {near}}}
""",
}  # fmt: skip


def tokenizer_of(name: str) -> Any:
    """The tokenizer of one of the models, as transformers saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words, added, _ = VOCABULARIES[name]
    plain = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    found.add_tokens(added, special_tokens=True)
    return found


def rows(name: str) -> int:
    """Rows of a model's embedding."""
    words, added, more = VOCABULARIES[name]
    return len(words) + len(added) + more


def save_model(name: str, folder: Path, tensors: Any = None) -> Path:
    """A tiny model with its tokenizer; random, or with these tensors."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(list(VOCABULARIES).index(name))
    config = LlamaConfig(
        hidden_size=8, intermediate_size=10, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        vocab_size=rows(name), max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    if tensors is not None:
        model.load_state_dict(tensors)
    model.save_pretrained(folder / name)
    tokenizer_of(name).save_pretrained(folder / name)
    return folder / name
