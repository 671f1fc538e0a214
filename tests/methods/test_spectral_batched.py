"""A batch costs no more kernel calls than one matrix, and gives what a loop over it gives."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hf_merge3h import LowRank, get_method, list_methods
from hf_merge3h.apply import gather, merge_stack
from hf_merge3h.linalg.random import mask_keys

SPECTRAL = [method.name for method in list_methods() if method.matrix_only]


class CountCalls(TorchDispatchMode):
    """Counts the operators that reach the dispatcher, which are the kernels a GPU would launch."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def experts(batch, form, shape=(24, 16)):
    m, n = shape
    generator = torch.Generator().manual_seed(0)
    pairs = [
        (torch.randn(batch, m, r, generator=generator), torch.randn(batch, r, n, generator=generator))
        for r in (2, 3, 2)
    ]
    if form == "factors":
        return tuple(LowRank(left, right) for left, right in pairs)
    return torch.stack([left @ right for left, right in pairs]) + torch.randn(3, batch, m, n, generator=generator)


def merge(name, vectors, names, statistics=None):
    method = get_method(name)
    parameters = method.bind({}, 3)
    supplied = {
        "keys": mask_keys(0, ["a", "b", "c"], names),
        "names": names,
        "noise": torch.zeros(len(names)),
        "statistics": statistics,
    }
    result = merge_stack(method, vectors, torch.ones(3), parameters, supplied, spectral=True)
    return result.dense() if isinstance(result, LowRank) else result


def taken(vectors, index):
    if isinstance(vectors, torch.Tensor):
        return vectors[:, index]
    return tuple(vector[index] for vector in vectors)


@pytest.mark.parametrize("form", ["dense", "factors"])
@pytest.mark.parametrize("name", SPECTRAL)
def test_kernel_calls_do_not_grow_with_the_batch(name, form):
    counts = []
    for batch in (2, 9):
        vectors, names = experts(batch, form), tuple(f"layers.{i}.w" for i in range(batch))
        with CountCalls() as counter:
            merge(name, vectors, names)
        counts.append(counter.calls)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("form", ["dense", "factors"])
@pytest.mark.parametrize("name", SPECTRAL)
def test_a_batch_gives_what_a_loop_gives(name, form):
    batch = 5
    vectors, names = experts(batch, form), tuple(f"layers.{i}.w" for i in range(batch))
    method = get_method(name)
    statistics = gather(method, method.bind({}, 3), 3, [(names, vectors, True)])
    whole = merge(name, vectors, names, statistics)
    for i in range(batch):
        one = merge(name, taken(vectors, slice(i, i + 1)), names[i : i + 1], statistics)[0]
        assert torch.linalg.norm(one - whole[i]) <= 1e-6 * torch.linalg.norm(one)


@pytest.mark.parametrize("name", ["tsv_merge", "r_tsvm", "iso_c", "iso_cts", "knots_ties", "knots_dare"])
def test_matrices_of_unlike_rank_share_a_batch(name):
    wide, narrow = experts(1, "factors"), experts(1, "factors")
    narrow = tuple(LowRank(each.left * torch.tensor([1.0, 0.0, 0.0][: each.rank]), each.right) for each in narrow)
    both = tuple(LowRank(torch.cat([a.left, b.left]), torch.cat([a.right, b.right])) for a, b in zip(wide, narrow))
    names = ("layers.0.w", "layers.1.w")
    whole = merge(name, both, names)
    for i, alone in enumerate((wide, narrow)):
        one = merge(name, alone, names[i : i + 1])[0]
        assert torch.linalg.norm(one - whole[i]) <= 1e-6 * torch.linalg.norm(one)
