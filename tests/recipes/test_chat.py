# ruff: noqa: E501
"""Chat templates by name: what they make of a conversation is what their formats say."""

from __future__ import annotations

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hf_merge3h import RequestError
from hf_merge3h.recipes.chat import NAMES, chat_template

SYSTEM, TALK = {"role": "system", "content": "Be kind."}, [
    {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"},
]  # fmt: skip

WANTED = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello"
    "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "alpaca": "<s>Be kind.\n\n### Instruction:\nHi\n\n### Response:\nHello</s>\n\n### Instruction:\nBye\n\n### Response:\n",
    "mistral": "<s>[INST] Be kind.\n\nHi [/INST] Hello</s>[INST] Bye [/INST]",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hi\n[|assistant|]Hello[|endofturn|]\n[|user|]Bye\n[|assistant|]",
}


@pytest.mark.parametrize("name", NAMES)
def test_named_templates(name: str) -> None:
    made = ImmutableSandboxedEnvironment().from_string(chat_template(name))
    marks = {"bos_token": "<s>", "eos_token": "</s>"}
    assert made.render(messages=[SYSTEM, *TALK], add_generation_prompt=True, **marks) == WANTED[name]
    assert made.render(messages=TALK, add_generation_prompt=False, **marks).count("Bye") == 1


@pytest.mark.parametrize(
    ("given", "error"),
    [("chatmi", "did you mean 'chatml'"), ("{% for m in messages %}", "this is none"), ("{{ 1 + }}", "this is none")],
)
def test_what_is_no_template(given: str, error: str) -> None:
    with pytest.raises(RequestError, match=error):
        chat_template(given)


def test_a_template_is_taken_as_it_is() -> None:
    text = "{% generation %}{{ messages }}{% endgeneration %}"
    assert chat_template(text) == text
