"""The order in which a method sees its experts: never the order of a list, where that means nothing.

Sums of three numbers differ in the last bit with their order. So experts are sorted: by role where they have one, else
by what they are: a folder by where it lies, however that is spelt.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

_SAMPLE = 64  # entries of each tensor that a live model is told by
_BEFORE_ALL = "\0"  # comes before whatever a name may go on with


def order_of(roles: Sequence[str], sources: Sequence[Any]) -> list[int]:
    """Positions of the experts in an order that does not depend on the one that they were given in.

    Args:
        roles: one for each expert; `expert_1`, `expert_2`, ... say nothing but a position.
        sources: a name, a path, a Hub id or a live model each.

    Example:
        >>> order_of(["expert_1", "expert_2", "honesty"], ["me/z", "me/a", "me/honest"])
        [2, 1, 0]
    """
    keys = [_key(*each) for each in zip(roles, sources, strict=True)]
    return sorted(range(len(roles)), key=keys.__getitem__)


def _key(role: str, source: Any) -> tuple[int, str]:
    if not re.fullmatch(r"expert_\d+", role):
        return 0, role
    if isinstance(source, (str, os.PathLike)):
        return 1, _place(os.fspath(source))
    return 2, fingerprint(source)


def _place(source: str) -> str:
    """A Hub id, or where a folder lies: `./a`, `a/` and a link to it are one place, which has one rank among others."""
    path = os.path.expanduser(source)
    text = os.path.realpath(path) if os.path.exists(path) else source
    return text.replace("@", _BEFORE_ALL)  # `me/a` stays before `me/a2` when a commit is noted


def name_of(source: str, adapters: Sequence[str]) -> str:
    """What a recipe's model is sorted by: its adapters, if it has some, for `model.merge_3h` knows nothing else.

    >>> sorted(["me/whole", name_of("me/zero", ["me/b"]), name_of("me/zero", ["me/b2"])])[0].split(_BEFORE_ALL)
    ['me/b', 'me/zero']
    """
    return _BEFORE_ALL.join(map(_place, (*adapters, source)))


def fingerprint(model: Any) -> str:
    """What a live model holds, told by a few entries of each tensor: hardly longer to have than its list of names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters() if isinstance(model, nn.Module) else ():
        value = parameter.detach()
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if type(value) is Tensor and value.device.type != "meta" and value.is_floating_point() and value.numel():
            every = value.reshape(-1)[:: max(1, value.numel() // _SAMPLE)]
            digest.update(every.to("cpu", torch.float64).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
