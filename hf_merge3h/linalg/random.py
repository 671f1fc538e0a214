"""Random masks that depend on nothing but the seed, the tensor's name and the expert's role.

A stateful generator would give other masks for another order of tensors, another batch or another device. A
counter-based one gives entry i of a tensor its bits from (key, i) alone. The generator is SplitMix64 (Steele, Lea,
Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, https://doi.org/10.1145/2660193.2660195):
integer arithmetic modulo 2^64, equal on every device.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from . import native


def _signed(value: int) -> int:
    """A 64-bit pattern as the int64 that torch stores it in."""
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def mask_key(seed: int, role: str, name: str) -> int:
    """The 64-bit key of one expert's mask for one tensor, as a signed integer.

    >>> mask_key(0, "honesty", "w") == mask_key(0, "honesty", "w") != mask_key(1, "honesty", "w")
    True
    """
    digest = hashlib.blake2b(f"{seed}\0{role}\0{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def mask_keys(
    seed: int, roles: Sequence[str], names: Sequence[str], device: torch.device | str = "cpu"
) -> Int[Tensor, "task batch"]:
    """The keys of all experts' masks for a batch of tensors."""
    return torch.tensor([[mask_key(seed, role, name) for name in names] for role in roles], device=device)


_CACHED = 1 << 14  # entries of the stream that the CPU makes at a time: its buffers of 128 KiB stay in its cache


def _fold(bits: Tensor, spare: Tensor, by: int) -> None:
    """bits ^= bits >>> by, in place. The shift must be logical: torch's own copies the sign bit of an int64."""
    torch.bitwise_right_shift(bits, by, out=spare)
    spare.bitwise_and_((1 << (64 - by)) - 1)
    bits.bitwise_xor_(spare)


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser, in place."""
    spare = torch.empty_like(bits)
    _fold(bits, spare, 30)
    bits.mul_(_MIX_1)
    _fold(bits, spare, 27)
    bits.mul_(_MIX_2)
    _fold(bits, spare, 31)
    return bits


def split_mix_64(keys: Int[Tensor, "*batch"], start: int, count: int) -> Int[Tensor, "*batch count"]:
    """Outputs number `start` to `start + count` of the streams seeded with `keys`, as int64 bit patterns.

    >>> split_mix_64(torch.tensor(1234567), 0, 2).tolist()  # as Vigna's splitmix64.c prints them
    [6457827717110365317, 3203168211198807973]
    """
    counter = torch.arange(start + 1, start + count + 1, device=keys.device).mul_(_GAMMA)
    return _mix(keys.unsqueeze(-1) + counter)


@functools.lru_cache(4)
def _multiples(count: int) -> np.ndarray:
    """1 .. count times gamma."""
    return np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA % (1 << 64))


def _words(key: int, start: int, count: int) -> np.ndarray:
    """Outputs `start` to `start + count` of one stream, unsigned, but for the last step of the mixing.

    That step changes only the lower 33 bits, and nothing here looks at more than the upper 24. It is numpy that makes
    the stream on the CPU: it multiplies 64-bit integers with the vector unit, and shifts unsigned ones.
    """
    words = _multiples(count) + np.uint64((key + start * _GAMMA) % (1 << 64))
    spare = words >> np.uint64(30)
    words ^= spare
    words *= np.uint64(_MIX_1 % (1 << 64))
    words ^= np.right_shift(words, np.uint64(27), out=spare)
    words *= np.uint64(_MIX_2 % (1 << 64))
    return words


def _draw(
    keys: Int[Tensor, "*batch"], start: int, count: int, dtype: torch.dtype, finish: Callable[[np.ndarray], np.ndarray]
) -> Tensor:
    """`finish` of the streams' words, on the CPU, in blocks that stay in its cache."""
    flat = keys.reshape(-1).tolist()
    result = torch.empty(len(flat), count, dtype=dtype)
    for row, key in zip(result.numpy(), flat, strict=True):
        for left in range(0, count, _CACHED):
            size = min(_CACHED, count - left)
            row[left : left + size] = finish(_words(key, start + left, size))
    return result.reshape(*keys.shape, count)


def _each(keys: Int[Tensor, "*batch"], result: Tensor, fill: Callable[[int, Tensor], None]) -> Tensor:
    """The result, each row of which is filled from its key."""
    for key, row in zip(keys.reshape(-1).tolist(), result.reshape(keys.numel(), -1).unbind(), strict=True):
        fill(key, row)
    return result


def uniform(keys: Int[Tensor, "*batch"], count: int, *, start: int = 0) -> Float[Tensor, "*batch count"]:
    """`count` uniform numbers in [0, 1) from each key, float32, multiples of 2^-24.

    Entry i is the same whichever part of the stream is asked for: entries start to start + count.
    """
    if keys.device.type == "cpu" and native.loaded():
        return _each(keys, torch.empty(*keys.shape, count), lambda key, row: native.uniform(key, start, row))
    if keys.device.type == "cpu":
        return _draw(keys, start, count, torch.float32, lambda words: words >> np.uint64(40)).mul_(2.0**-24)
    bits = split_mix_64(keys, start, count)
    return bits.bitwise_right_shift_(40).bitwise_and_((1 << 24) - 1).to(torch.float32).mul_(2.0**-24)


def bernoulli(
    keys: Int[Tensor, "*batch"], probability: float, shape: Sequence[int], *, start: int = 0
) -> Bool[Tensor, "*batch *shape"]:
    """A mask [*batch, *shape] whose entries are true with the given probability: where `uniform` is less than it.

    The mask is that of the stream's entries from `start` on.
    """
    limit, count = math.ceil(probability * (1 << 24)), math.prod(shape)
    if limit >= 1 << 24:
        return torch.ones(*keys.shape, *shape, dtype=torch.bool, device=keys.device)
    # The upper 24 bits are less than `limit` where the whole word, read as unsigned, is less than limit << 40.
    if keys.device.type == "cpu" and native.loaded():
        drawn = torch.empty(*keys.shape, count, dtype=torch.bool)
        _each(keys, drawn, lambda key, row: native.bernoulli(key, start, limit << 40, row))
    elif keys.device.type == "cpu":
        drawn = _draw(keys, start, count, torch.bool, lambda words: words < np.uint64(limit << 40))
    else:  # with the sign bits turned over, a signed comparison says the same
        drawn = split_mix_64(keys, start, count).bitwise_xor_(-(1 << 63)) < (limit << 40) - (1 << 63)
    return drawn.reshape(*keys.shape, *shape)
