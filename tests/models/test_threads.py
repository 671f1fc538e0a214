"""Several threads may merge at once: what PEFT and transformers patch while they load is theirs one at a time."""

from __future__ import annotations

import threading

import torch
from torch import nn

from tests.engine.models import ROLES, deltas, llama, quiet, three_adapters


def test_adapters_merge_in_threads_as_they_do_one_after_the_other(tmp_path) -> None:
    source = three_adapters(llama())
    source.save_pretrained(tmp_path)
    folders = [tmp_path / role for role in ROLES]
    expected = three_adapters(llama())
    models = [three_adapters(llama()) for _ in range(6)]
    errors: list[BaseException] = []

    def work(model: nn.Module, experts: list) -> None:
        try:
            model.merge_3h(experts, method="linear", progress=False)
        except BaseException as error:
            errors.append(error)

    with quiet():
        expected.merge_3h(list(ROLES), method="linear", progress=False)
        threads = [
            threading.Thread(target=work, args=(model, folders if index % 2 else list(ROLES)))
            for index, model in enumerate(models)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert nn.Linear(2, 2).weight.device.type == "cpu"
    wanted = deltas(expected, "merged")
    for model in models:
        assert all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in deltas(model, "merged").items())
