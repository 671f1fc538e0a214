"""What our jobs make is what mergekit 0.1.5 makes, relative to the change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_merge3h.apply import gather, merge_stack
from hf_merge3h.linalg.random import mask_keys
from hf_merge3h.recipes.read import read_recipe
from hf_merge3h.recipes.types import PASSTHROUGH
from hf_merge3h.registry import get_method

from .cases import CASES

EXPECTED = Path(__file__).parent / "expected"
LAYERS = 3


def by_first(path):
    found = {}
    for key, tensor in load_file(path).items():
        first, name = key.split("|")
        found.setdefault(first, {})[name] = tensor
    return found


MODELS = by_first(EXPECTED / "models.safetensors")
RESULTS = by_first(EXPECTED / "mergekit-0.1.5.safetensors")


def carry_out(job, models):
    """A job without the engine: what is near its reference point, and the result."""
    inputs = [models[model][name] for model, name in job.inputs]
    if job.method == PASSTHROUGH:
        return torch.zeros_like(inputs[0]), inputs[0] * job.parameters["scale"]
    method = get_method(job.method)
    stack = torch.stack(inputs).unsqueeze(1)
    base = None if job.base is None else models[job.base[0]][job.base[1]].unsqueeze(0)
    in_weights = method.space == "weight" or base is None
    vectors = stack if in_weights else stack - base
    spectral = not method.fallback(inputs[0].shape, len(inputs))
    parameters = method.bind(job.parameters, len(inputs))
    supplied = {
        "base": base,
        "keys": mask_keys(0, [str(number) for number in range(len(inputs))], [job.name], torch.device("cpu")),
        "names": (job.name,),
        "noise": torch.zeros(1),
        "statistics": gather(method, parameters, len(inputs), [((job.name,), vectors, spectral)]),
    }
    merged = merge_stack(method, vectors, torch.tensor(job.weights), parameters, supplied, spectral=spectral)
    merged = merged[0] if in_weights else (merged + base)[0]
    return (inputs[0] if base is None else base[0]), merged


def merge(text, models=MODELS):
    recipe = read_recipe(text.format(**{name: name for name in MODELS}))
    own = [models[reference.source] for reference in recipe.models]
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in own]
    jobs = recipe.jobs(shapes, [LAYERS] * len(own))
    return recipe, {job.name: carry_out(job, own) for job in jobs}


def apart(found, wanted, origin):
    """Distance in units of what float32 allows: 1e-5 of the change, and three roundings of the weights."""
    wanted = wanted.double()
    allowed = 1e-5 * (wanted - origin).norm() + 3 * 2**-24 * wanted.norm()
    return float((found - wanted).norm() / allowed.clamp_min(1e-30))


@pytest.mark.parametrize("case", CASES)
def test_same_tensors_as_mergekit(case):
    _, merged = merge(CASES[case])
    wanted = RESULTS[case]
    assert set(merged) == set(wanted)
    distances = {}
    for name, (origin, found) in merged.items():
        if case.startswith("karcher") and "norm" in name:
            # Nearly parallel: mergekit's angle is a float32 arc cosine near 1, good to sqrt(eps); ours is float64.
            assert (found - wanted[name]).norm() < 3.5e-4 * found.norm()
        else:
            distances[name] = apart(found, wanted[name], origin)
    worst = max(distances, key=distances.get)
    assert distances[worst] <= 1, f"{worst}: {distances[worst]:.1e}"


def test_expectations_cover_every_case():
    assert set(RESULTS) == set(CASES)
