# ruff: noqa: E501
"""Recipes whose results mergekit 0.1.5 has given (`make_expectations.py`); {base}, {a}, ... become folders.

Imports nothing: it is read in mergekit's environment too.
"""

from __future__ import annotations

_THREE = "models: [{{model: {a}}}, {{model: {b}}}, {{model: {c}}}]"
_TWO = "models: [{{model: {a}}}, {{model: {b}}}]"
_WEIGHTS = """
models:
  - model: {a}
    parameters: {{weight: 1.0}}
  - model: {b}
    parameters: {{weight: 0.6}}
  - model: {c}
    parameters: {{weight: -0.3}}
"""
_GRADIENTS = """
models:
  - model: {a}
    parameters: {{weight: [0, 1, 0.5, 0.2]}}
  - model: {b}
    parameters:
      weight:
        - filter: up_proj
          value: [2, 3]
        - filter: layers.1.
          value: 0.7
        - value: [0.1, 0.3]
  - model: {c}
    parameters:
      weight: {{filter: self_attn, value: 0.25}}
"""
_BASE = "base_model: {base}"
# mergekit computes in `dtype`. Float32 gives a row's divergence to about 2e-7, whatever its size: what Arcee Fusion takes
# of models nearer than that allows is rounding, which differs between processors (AVX2 and AVX-512, for one).
_DOUBLE = "dtype: float64\nout_dtype: float32"


def _recipe(method: str, *parts: str) -> str:
    return "\n".join([f"merge_method: {method}", *parts])


CASES: dict[str, str] = {
    "linear": _recipe("linear", _WEIGHTS),
    "linear_sum": _recipe("linear", _WEIGHTS, "parameters: {{normalize: false}}"),
    "linear_base_implied": _recipe("linear", _BASE, _TWO, "parameters: {{weight: [1, 0.5]}}"),
    "linear_gradients": _recipe("linear", _GRADIENTS, "parameters: {{weight: 0.4, normalize: [true, false]}}"),
    "linear_slices": """
merge_method: linear
slices:
  - sources:
      - {{model: {a}, layer_range: [0, 2], parameters: {{weight: [0.25, 0.75]}}}}
      - {{model: {b}, layer_range: [1, 3]}}
    parameters: {{weight: [{{filter: layers.0., value: 2}}, {{value: [0.5, 1]}}]}}
  - sources:
      - {{model: {b}, layer_range: [1, 3], parameters: {{weight: [0.25, 0.75]}}}}
  - sources:
      - {{model: {c}, layer_range: [2, 3], parameters: {{weight: [0.25, 0.75]}}}}
parameters: {{normalize: false}}
""",
    "linear_tied": "merge_method: linear\nmodels: [{{model: {tied_base}}}, {{model: {tied_a}}}]\nparameters: {{weight: 1}}",
    "linear_half_tied": "merge_method: linear\nmodels: [{{model: {tied_a}}}, {{model: {b}}}]\nparameters: {{weight: 1}}",
    "linear_modules": """
merge_method: linear
modules:
  default:
    models: [{{model: {a}}}, {{model: {b}, parameters: {{weight: 1}}}}]
    parameters: {{weight: [2, 3]}}
parameters: {{weight: 9}}
""",
    "task_arithmetic": _recipe("task_arithmetic", _BASE, _WEIGHTS, "parameters: {{lambda: 0.7}}"),
    "task_arithmetic_normalized": _recipe("task_arithmetic", _BASE, _WEIGHTS, "parameters: {{normalize: true}}"),
    "task_arithmetic_gradients": _recipe(
        "task_arithmetic", _BASE, _GRADIENTS, "parameters: {{weight: 0.4, lambda: [1, 0.5]}}"
    ),
    "task_arithmetic_base_listed": """
merge_method: task_arithmetic
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 1}}}}
  - {{model: {base}, parameters: {{weight: 4}}}}
  - {{model: {b}, parameters: {{weight: 0}}}}
""",
    "task_arithmetic_nothing": _recipe("task_arithmetic", _BASE, _TWO, "parameters: {{weight: 0, normalize: true}}"),
    "task_arithmetic_cancelling": """
merge_method: task_arithmetic
base_model: {base}
models: [{{model: {a}, parameters: {{weight: 1}}}}, {{model: {b}, parameters: {{weight: -1}}}}]
parameters: {{normalize: true}}
""",
    "task_arithmetic_slices": """
merge_method: task_arithmetic
base_model: {base}
slices:
  - sources: [{{model: {a}, layer_range: [0, 2]}}, {{model: {base}, layer_range: [1, 3]}}]
    parameters: {{weight: 0.3}}
  - sources: [{{model: {b}, layer_range: [1, 3], parameters: {{weight: [0.1, 0.9]}}}}, {{model: {base}, layer_range: [1, 3]}}]
""",
    "ties": _recipe("ties", _BASE, _WEIGHTS, "parameters: {{density: 0.4, int8_mask: true}}"),
    "ties_defaults": _recipe("ties", _BASE, _WEIGHTS),
    "ties_densities": """
merge_method: ties
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 1, density: [1, 0.5, 0.2]}}}}
  - {{model: {b}, parameters: {{weight: 0.5, density: [{{filter: mlp, value: 0.3}}, {{value: 0.6}}]}}}}
  - {{model: {c}, parameters: {{weight: 0.8, density: 0}}}}
parameters: {{normalize: false, lambda: 1.3}}
""",
    "ties_rescaled": """
merge_method: ties
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 1, density: [1, 0.5, 0.2]}}}}
  - {{model: {b}, parameters: {{weight: 0.5, density: 0.4}}}}
  - {{model: {c}, parameters: {{weight: -0.3, density: 0.3}}}}
parameters: {{rescale: true}}
""",
    "ties_cancelling": """
merge_method: ties
base_model: {base}
models: [{{model: {a}, parameters: {{weight: 1}}}}, {{model: {b}, parameters: {{weight: -1}}}}]
parameters: {{density: 0.5}}
""",
    "breadcrumbs": _recipe("breadcrumbs", _BASE, _WEIGHTS, "parameters: {{density: 0.8, gamma: 0.05}}"),
    "breadcrumbs_defaults": _recipe("breadcrumbs", _BASE, _WEIGHTS),
    "breadcrumbs_crowded": _recipe("breadcrumbs", _BASE, _WEIGHTS, "parameters: {{density: 0.95, gamma: 0.2}}"),
    "breadcrumbs_ties": _recipe("breadcrumbs_ties", _BASE, _WEIGHTS, "parameters: {{density: 0.7, gamma: 0.1}}"),
    "breadcrumbs_rescaled": _recipe(
        "breadcrumbs", _BASE, _WEIGHTS, "parameters: {{density: 0.6, gamma: 0.1, rescale: true}}"
    ),
    "breadcrumbs_ties_rescaled": _recipe(
        "breadcrumbs_ties", _BASE, _WEIGHTS, "parameters: {{density: 0.5, gamma: 0.1, rescale: true}}"
    ),
    "dare_all_kept": _recipe("dare_ties", _BASE, _WEIGHTS),
    "della_all_kept": _recipe("della_linear", _BASE, _WEIGHTS, "parameters: {{density: 1, epsilon: 0}}"),
    "model_stock": _recipe("model_stock", _BASE, _THREE),
    "model_stock_filter_wise": _recipe("model_stock", _BASE, _TWO, "parameters: {{filter_wise: true}}"),
    "slerp": _recipe("slerp", _BASE, "models: [{{model: {a}}}]", "parameters: {{t: 0.3}}"),
    "slerp_gradients": """
merge_method: slerp
base_model: {far}
slices:
  - sources: [{{model: {a}, layer_range: [0, 3]}}, {{model: {far}, layer_range: [0, 3]}}]
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5
""",
    "nuslerp": _recipe(
        "nuslerp",
        _BASE,
        "models: [{{model: {a}, parameters: {{weight: 3}}}}, {{model: {b}}}]",
        "parameters: {{weight: 1}}",
    ),
    "nuslerp_no_base": _recipe(
        "nuslerp", "models: [{{model: {a}}}, {{model: {far}}}]", "parameters: {{weight: [1, 2]}}"
    ),
    "nuslerp_rows": _recipe(
        "nuslerp", _BASE, _TWO, "parameters: {{weight: 1, nuslerp_flatten: false, nuslerp_row_wise: true}}"
    ),
    "nuslerp_columns": _recipe("nuslerp", _BASE, _TWO, "parameters: {{weight: 1, nuslerp_flatten: false}}"),
    "nuslerp_nothing": _recipe("nuslerp", "models: [{{model: {a}}}, {{model: {far}}}]", "parameters: {{weight: 0}}"),
    "multislerp": _recipe(
        "multislerp", "models: [{{model: {a}}}, {{model: {far}}}, {{model: {b}}}]", "parameters: {{weight: 1}}"
    ),
    "multislerp_base": """
merge_method: multislerp
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 0.5}}}}
  - {{model: {d}, parameters: {{weight: 0.3}}}}
  - {{model: {far}, parameters: {{weight: 0.9}}}}
parameters: {{normalize_weights: false, eps: 1e-8}}
""",
    "karcher": _recipe(
        "karcher", "models: [{{model: {a}, parameters: {{weight: 5}}}}, {{model: {far}}}, {{model: {b}}}]"
    ),
    "karcher_base_implied": _recipe("karcher", "base_model: {far}", _TWO, "parameters: {{max_iter: 20, tol: 1e-6}}"),
    "sce": _recipe("sce", _BASE, _THREE, "parameters: {{select_topk: 0.4}}"),
    "sce_defaults": _recipe("sce", _BASE, _THREE),
    "arcee_fusion": _recipe("arcee_fusion", _BASE, "models: [{{model: {a}}}]", _DOUBLE),
    "arcee_fusion_far": _recipe("arcee_fusion", "base_model: {far}", "models: [{{model: {a}}}]", _DOUBLE),
    "arcee_fusion_float32": _recipe("arcee_fusion", "base_model: {distant}", "models: [{{model: {a}}}]"),
    "nearswap": _recipe("nearswap", _BASE, "models: [{{model: {a}}}]", "parameters: {{t: [0.0005, 0.001]}}"),
    "ram": _recipe("ram", _BASE, _THREE, "parameters: {{epsilon: 0.0005}}"),
    "ram_defaults": _recipe("ram", _BASE, _THREE),
    "ramplus_tl": _recipe("ramplus_tl", _BASE, _THREE, "parameters: {{epsilon: 0.0005, r: 0.2, alpha: 0.5}}"),
    "passthrough": """
merge_method: passthrough
slices:
  - sources: [{{model: {a}, layer_range: [0, 2], parameters: {{scale: [{{filter: q_proj, value: 0.5}}, {{value: 1.0}}]}}}}]
  - sources: [{{model: {b}, layer_range: [1, 3]}}]
    parameters: {{scale: [1, 2]}}
  - sources: [{{model: {a}, layer_range: [2, 3]}}]
""",
}
