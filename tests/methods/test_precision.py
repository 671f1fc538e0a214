"""No device but the CPU need have float64 (mps has none): every method runs on a stand-in for such a device.

Its tensors refuse to become float64, and to meet a tensor of the CPU (numbers and indices aside, as on real devices).
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from hf_merge3h import LowRank, get_method, list_methods
from hf_merge3h.apply import gather, merge_stack
from hf_merge3h.linalg.compress import balance, compress
from hf_merge3h.linalg.precision import double
from hf_merge3h.linalg.random import mask_keys

MPS = torch.device("mps")


class Away(torch.Tensor):
    """A tensor of the stand-in; what it holds lies in `inner`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        if inner.dtype == torch.float64:
            raise TypeError("this device has no float64: use linalg.precision.double")
        away = torch.Tensor._make_subclass(cls, inner)
        away.inner = inner
        return away


def is_away(device):
    return device is not None and torch.device(device).type == "mps"


class Stand(TorchFunctionMode):
    """Where each result lies follows from where its arguments do, as in torch."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        owner = getattr(function, "__self__", None)
        if owner is torch.Tensor.device:
            return MPS if isinstance(args[0], Away) else function(*args)
        tensors = []
        tree_map(lambda each: tensors.append(each) if isinstance(each, torch.Tensor) else None, (args, kwargs))
        away = any(isinstance(each, Away) for each in tensors)
        if name == "to":
            targets = [*args[1:], kwargs.get("device")]
            homes = [each for each in targets if isinstance(each, (torch.Tensor, torch.device, str))]
            away = isinstance(args[0], Away)
            for home in homes:
                away = isinstance(home, Away) or (not isinstance(home, torch.Tensor) and is_away(home))
        elif name == "cpu":
            away = False
        elif kwargs.get("device") is not None:
            away = is_away(kwargs["device"])
        elif name not in ("__getitem__", "__setitem__"):
            here = [each for each in tensors if not isinstance(each, Away) and each.ndim]
            if away and here:
                raise RuntimeError(f"{name}: tensors on two devices")
        homes_of = {id(each.inner): each for each in tensors if isinstance(each, Away)}

        def inside(each):
            if isinstance(each, Away):
                return each.inner
            return torch.device("cpu") if isinstance(each, torch.device) else each

        def outside(each):
            if not isinstance(each, torch.Tensor):
                return each
            if id(each) in homes_of and away:
                return homes_of[id(each)]
            return Away(each) if away else each

        result = function(*tree_map(inside, args), **tree_map(inside, kwargs))
        return iter([outside(each) for each in result]) if name == "__iter__" else tree_map(outside, result)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def home(result):
    """What a result holds, brought back to the CPU."""
    parts = (result.left, result.right) if isinstance(result, LowRank) else (result,)
    assert all(isinstance(part, Away) for part in parts), "the result is not on the experts' device"
    return [part.inner for part in parts]


OPTIONS = {
    "model_stock": [{"filter_wise": True}, {"cosine_floor": 1e-6}],
    "nuslerp": [{"nuslerp_flatten": False}],
    "dare_linear": [{"rescale": "l1"}],
    "della": [{"rescale": "l1"}],
    "ties": [{"trim_scope": "model"}],
    "sce": [{"select_topk": 0.3}],
    "r_tsvm": [
        {"granularity": "layer"}, {"granularity": "channel"}, {"rank_rule": "share"}, {"denoise": True}, {"gamma": 0.0},
    ],
    "tsv_merge": [{"denoise": True}],
    "iso_cts": [{"denoise": True}],
    "knots_ties": [{"denoise": True}],
}  # fmt: skip
CASES = [(each.name, options) for each in list_methods() for options in [{}, *OPTIONS.get(each.name, [])]]


@pytest.mark.parametrize("form", ["dense", "low_rank"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_methods_need_no_float64_of_the_device(name, options, form):
    method = get_method(name)
    if form == "low_rank" and method.low_rank is None:
        form = "dense"  # the engine multiplies factors out for it
    n, shape = max(method.experts[0], min(3, method.experts[1] or 3)), (2, 12, 10)
    names = ("layers.0.q_proj.weight", "layers.1.q_proj.weight")

    def merge(away):
        send = Away if away else torch.clone
        if form == "dense":
            vectors = send(noise(n, *shape))
        else:
            vectors = tuple(LowRank(send(noise(2, 12, 3, seed=t)), send(noise(2, 3, 10, seed=t + 9))) for t in range(n))
        bound = method.bind(options, n)
        supplied = {
            "base": send(noise(*shape, seed=5)),
            "keys": send(mask_keys(0, [str(t) for t in range(n)], names)),
            "names": names,
            "noise": send(torch.full((2,), 1e-3)),
            "statistics": gather(method, bound, n, [(names, vectors, True)]),
        }
        weights = send(torch.tensor(method.bind_weights(None, n)))
        return merge_stack(method, vectors, weights, bound, supplied, spectral=True)

    wanted = merge(away=False)
    with Stand():
        got = merge(away=True)
    wanted = (wanted.left, wanted.right) if isinstance(wanted, LowRank) else (wanted,)
    for mine, reference in zip(home(got), wanted, strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("low", [True, False])
def test_compression_needs_no_float64_of_the_device(low):
    left, right = noise(2, 9, 4), noise(2, 4, 7, seed=1)
    wanted = compress(LowRank(left, right) if low else left @ right, 3)[0]
    with Stand():
        factors, residual = compress(LowRank(Away(left), Away(right)) if low else Away(left @ right), 3)
        balanced = balance(factors)
    assert not isinstance(residual, Away)
    assert all(map(torch.equal, home(factors), (wanted.left, wanted.right)))
    assert len(home(balanced)) == 2


def test_the_stand_in_notices():
    with Stand():
        away = Away(torch.ones(2))
        assert double(away).dtype == torch.float64
        assert isinstance(away * double(torch.ones(())).float(), Away)
        with pytest.raises(TypeError, match="no float64"):
            away.double()
        with pytest.raises(TypeError, match="no float64"):
            torch.zeros(2, dtype=torch.float64, device=away.device)
        with pytest.raises(RuntimeError, match="two devices"):
            away * double(away)
