"""What programs and MCP clients can call; the names and texts of these functions are their documentation."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import places
from preflight import preflight

import hf_merge3h
from hf_merge3h import MergeError


def list_methods() -> list[dict[str, Any]]:
    """List all merging methods with their parameters, ranges, defaults and papers.

    Returns:
        One entry for each method: name, title, summary, paper, family, notice (what must be said with it), and
        parameters by the names that a recipe has for them, each with type, default, expected and help.
    """
    found = []
    for method in hf_merge3h.list_methods():
        parameters = hf_merge3h.recipe_parameters(method.name)
        found.append(
            {
                "name": method.name,
                "title": method.shown_title,
                "summary": method.summary,
                "paper": method.paper,
                "family": method.family,
                "notice": method.reconstruction,
                "parameters": {
                    name: {
                        "type": each.type.__name__,
                        "default": each.default,
                        "expected": each.expected,
                        "help": each.help,
                    }
                    for name, each in parameters.items()
                },
            }
        )
    return found


def plan_merge(recipe: str) -> dict[str, Any]:
    """Check a merge recipe (YAML, mergekit's schema) and say what merging would take; merges and downloads nothing.

    Args:
        recipe: YAML text with merge_method, base_model, and adapters or models. Models are Hub ids
            (owner/name@revision), or shipped:helpful, shipped:honest, shipped:harmless.

    Returns:
        ok, problems (each with line, text and remedy), notes, and facts such as architecture, memory, time and size.
    """
    checked = preflight(recipe)
    return {
        "ok": not checked.problems,
        "problems": [asdict(problem) for problem in checked.problems],
        "notes": list(checked.notes),
        "facts": checked.facts,
    }


def explain_manifest(manifest: str) -> str:
    """Explain a merge3h.json in plain words: what was merged, how, from what, and what the figures say.

    Args:
        manifest: the content of a merge3h.json, as JSON text of at most 5 million characters.

    Returns:
        Markdown.
    """
    if len(manifest) > 5_000_000:
        return f"{len(manifest)} characters: expected a merge3h.json of at most 5 million; send a smaller one"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merge3h.json"
        path.write_text(manifest, encoding="utf-8")
        try:
            content = hf_merge3h.load_manifest(path).content
            return explained(content)
        except MergeError as error:
            return str(error).replace(f"{path}: ", "")
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            return f"no manifest that can be explained: {type(error).__name__}; expected a whole merge3h.json"


def explained(content: Any) -> str:
    """A manifest in plain words (Markdown)."""
    settings = content["recipe"]["resolved"]
    merged = max((each for each in settings if "roles" in each), key=lambda each: len(each["tensors"]), default=None)
    lines = ["# What was merged"]
    for model in content["models"]:
        what = "the base" if model["base"] else (model["role"] or "a model")
        extra = "".join(f" + {each['source']}" for each in model["adapters"])
        lines.append(f"- {what}: {model['source']}{extra}, {model['commit'] or 'no commit recorded'}")
    if merged:
        weights = ", ".join(
            f"{role} {weight:g}" for role, weight in zip(merged["roles"], merged["weights"], strict=True)
        )
        lines += ["", f"Method {merged['method']}, weights {weights}, parameters {json.dumps(merged['parameters'])}."]
    output = content["output"]
    lines.append(
        f"Out came {output['tensors']} tensors, {places.size(output['bytes'])}, {', '.join(output['dtypes'])}."
    )
    parties = content["diagnostics"] if isinstance(content["diagnostics"], list) else []
    for party in parties:
        total = party["total"]
        sizes = ", ".join(f"{role} {norm:.3g}" for role, norm in zip(party["roles"], total["norms"], strict=True))
        lines += ["", f"Sizes of the changes: {sizes}; merged {total['merged_norm']:.3g}."]
        if total["sign_conflict"] is not None:
            lines.append(f"Experts contradict each other on {total['sign_conflict']:.0%} of the entries they change.")
        lines.append(f"{total['survived']:.1%} of the merged change survived storage.")
    if not parties:
        lines.append("Diagnostics were not recorded.")
    lines += [f"Warning: {each}" for each in content["warnings"]]
    return "\n".join(lines)
