"""From 512 singular values on float32 and threads take over where they may: what they give must not show it."""

import pytest
import torch

from hf_merge3h import LowRank, get_method
from hf_merge3h.apply import merge_stack
from hf_merge3h.linalg.parallel import concurrently, pieces
from hf_merge3h.linalg.polar import polar
from hf_merge3h.linalg.svd import LARGE, leading_triplets

N = LARGE + 8


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance(got, wanted):
    got, wanted = got.double(), wanted.double()
    return ((got - wanted).norm() / wanted.norm()).item()


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [(N, N), (N, N + 300)])
def test_full_rank_deltas_equal_the_published_procedure(shape):
    vectors = noise(3, *shape)
    merged = get_method("tsv_merge")(vectors)
    assert merged.dtype == torch.float32
    assert distance(merged.dense(), get_method("tsv_merge")(vectors, reference=True).dense()) < 1e-4


def test_polar_of_a_square_stack_is_exact_where_it_is_nearly_singular():
    stack = torch.linalg.qr(noise(3, N, N // 3 + 1)).Q.permute(1, 0, 2).reshape(N, -1)[:, :N]
    nearly = torch.linalg.svdvals(stack.double())
    assert nearly[-1] < 0.01 * nearly[0]
    assert distance(polar(stack), polar(stack.double())) < 1e-5


def test_polar_of_a_stack_that_lacks_rank_is_a_partial_isometry():
    basis = torch.linalg.qr(noise(N, N - 60)).Q
    stack = torch.cat([basis, basis[:, :60]], 1)
    assert distance(polar(stack), polar(stack.double())) < 1e-5
    assert torch.linalg.svdvals(polar(stack).double())[-60:].max() < 1e-4


def test_large_deltas_of_low_rank_are_decomposed_in_float64():
    lora = noise(1, N, 5) @ noise(1, 5, N, seed=1)
    found = leading_triplets(lora, N // 3)
    assert found.left.dtype == torch.float64
    assert (found.values > 0).sum() == 5
    falling = noise(N, N) * torch.logspace(0, -3, N)
    assert leading_triplets(falling, N // 3).left.dtype == torch.float64
    assert leading_triplets(noise(N, N), N // 3).left.dtype == torch.float32


def test_equal_large_experts_give_that_expert():
    expert = noise(N, 40) @ noise(40, N, seed=1)
    assert distance(get_method("tsv_merge")(torch.stack([expert] * 3)).dense(), expert) < 1e-5


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("name", ["tsv_merge", "r_tsvm"])
def test_threads_change_no_bit(name):
    """With shares of several threads large float32 decompositions differed by 1e-5 of the result."""
    stack, found = noise(3, N, N), []
    for threads in (1, 2, 6):
        torch.set_num_threads(threads)
        found.append(get_method(name)(stack).dense())
        assert torch.get_num_threads() == threads
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.usefixtures("two_threads")
def test_jobs_keep_their_order_their_errors_and_the_number_of_threads():
    with torch.no_grad():
        assert concurrently([torch.is_grad_enabled] * 3) == [False] * 3
    assert concurrently([lambda: 1, torch.get_num_threads, lambda: 3]) == [1, 1, 3]
    with pytest.raises(ZeroDivisionError):
        concurrently([lambda: 1, lambda: 1 // 0])
    assert torch.get_num_threads() == 2
    assert [len(part) for part in pieces(noise(5, 1))] == [3, 2]


@pytest.mark.parametrize("name", ["tsv_merge", "r_tsvm", "iso_c", "iso_cts", "knots_ties", "wudi"])
def test_a_large_matrix_does_not_depend_on_its_batch_mates(name):
    method = get_method(name)
    full, lora = noise(2, N, N), noise(2, N, 5) @ noise(2, 5, N, seed=1)
    parameters = method.bind({"gamma": 0.0} if name == "r_tsvm" else {})
    supplied = {"names": ("a", "b"), "noise": torch.zeros(2), "statistics": None}

    def merge(stack):
        count = stack.shape[1]
        own = {**supplied, "names": supplied["names"][:count], "noise": supplied["noise"][:count]}
        found = merge_stack(method, stack, torch.ones(2), parameters, own, spectral=True)
        return found.dense() if isinstance(found, LowRank) else found

    together = merge(torch.stack([full, lora], 1))
    for place, alone in enumerate((full, lora)):
        # the same plan gives the same bits; another batch is another plan
        assert distance(together[place], merge(alone.unsqueeze(1))[0]) < 1e-6


def test_kernels_decide_for_each_large_matrix():
    full, falling = noise(N, N), noise(N, N, seed=1) * torch.logspace(0, -3, N)
    both = leading_triplets(torch.stack([full, falling]), N // 3)
    assert both.left.dtype == torch.float64
    for place, matrix in enumerate((full, falling)):
        for part, alone in zip(both, leading_triplets(matrix, N // 3), strict=True):
            assert torch.equal(part[place], alone.double())
    basis = torch.linalg.qr(noise(N, 60)).Q
    lacking = basis.repeat(1, 9)[:, :N]
    factors = polar(torch.stack([full, lacking]))
    for place, matrix in enumerate((full, lacking)):
        assert torch.equal(factors[place], polar(matrix).to(factors))
