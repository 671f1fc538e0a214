"""The worked example of CONTRIBUTING.md, run from the document itself."""

from __future__ import annotations

import doctest
import types

import pytest
import torch

from hf_merge3h import catalogue, registry

from . import oracles
from .markdown import blocks
from .methods import test_laws as laws

MARKED = {block.mark: block for block in blocks("CONTRIBUTING.md") if block.mark}


@pytest.fixture
def median():
    """The example's method, registered for one test."""
    registry.list_methods()  # the methods that come with the library go first
    namespace = MARKED["method"].run()
    try:
        yield registry.get_method("median"), namespace
    finally:
        registry.unregister("median")


def test_it_agrees_with_its_oracle(median):
    record, _ = median
    # With nothing but what that file has: an import of its own would be missing for whoever follows the document.
    shown = MARKED["oracle"].run(**{**vars(oracles.consensus), "oracle": lambda function: function})
    for n_experts, shape in ((1, (3,)), (3, (4, 5)), (4, (2, 3, 2))):
        vectors = torch.randn(n_experts, *shape, generator=torch.Generator().manual_seed(0))
        wanted = shown["median"](vectors.double(), [1.0] * n_experts, scale=0.7)
        torch.testing.assert_close(record(vectors, scale=0.7).double(), wanted, rtol=1e-6, atol=1e-6)


def test_it_obeys_the_laws(median):
    record, _ = median
    suite = {
        "identity": laws.test_identity,
        "permutation": laws.test_permutation,
        "homogeneity": laws.test_homogeneity,
        "zeros": laws.test_zeros,
        "batched": laws.test_batched_is_looped,
    }
    assert set(record.laws) == set(suite)
    for law in (laws.test_shape_dtype_and_inputs_are_kept_and_results_repeat, *suite.values()):
        law(name="median")


def test_its_docstring_runs(median):
    _, namespace = median
    module = types.ModuleType("median")
    vars(module).update(namespace)
    found = doctest.DocTestFinder().find(namespace["median"], "median", module, globs=dict(namespace))
    runner = doctest.DocTestRunner(verbose=False)
    assert sum(len(each.examples) for each in found) == 3
    for each in found:
        assert runner.run(each).failed == 0


def test_its_record_is_shown(median):
    record, _ = median
    assert "scale = 1.0: a number" in catalogue.text_page(record)
    assert "`median`" in catalogue.markdown_table([record])


def test_a_request_is_checked_by_its_signature(median):
    record, _ = median
    with pytest.raises(registry.RequestError, match="has no such parameter; did you mean 'scale'"):
        record(torch.ones(2, 3), scael=2.0)
    with pytest.raises(registry.RequestError, match="expected equal weights"):
        record(torch.ones(2, 3), [1.0, 2.0])
