"""Makes the golden cards, by real merges of the demo's experts: `python model_cards/make.py [OPTION] [NAME ...]`.

Each folder beside this file gets the manifest of its merge (local folders named by their last part, as `publish` does
it), its card, and its pictures. The weights are not kept. It takes a minute, and 2 GB of disk for a moment. Where a
folder has an `evaluation.json`, its results go into the manifest, as `hf-merge3h evaluate` would put them there.

`--cards`: only the cards again, from the manifests that lie there. `--evaluate`: merge, ask base, experts and merge
the demo's questions, and keep the answers' scores as `evaluation.json` (some minutes of processor time).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hf_merge3h
from hf_merge3h import demo
from hf_merge3h.manifest import Manifest, load_manifest
from hf_merge3h.publishing.card import write_card
from hf_merge3h.publishing.public import public

HERE = Path(__file__).parent
EVALUATION = "evaluation.json"
QUESTIONS = 12  # a data set


def r_tsvm_three_adapters(out: Path) -> None:
    """All three experts into one adapter."""
    _merge_adapters(out, demo.expert_paths(), method="r_tsvm")


def linear_not_evaluated(out: Path) -> None:
    """Their average."""
    _merge_adapters(out, demo.expert_paths(), method="linear", weights=[1 / 3] * 3)


def adapters_licence_conflict(out: Path) -> None:
    """Two of the experts, as if their makers had chosen licences that exclude each other."""
    sources = {}
    for role, licence in (("helpfulness", "cc-by-sa-4.0"), ("honesty", "cc-by-nc-4.0")):
        place = out.parent / f"{demo.ROLES[role]}-as-{licence}"
        shutil.copytree(demo.expert_paths()[role], place)
        card = place / "README.md"
        card.write_text(card.read_text().replace("license: apache-2.0", f"license: {licence}"))
        sources[role] = place
    _merge_adapters(out, sources, method="knots_ties")


def ties_full_weights(out: Path) -> None:
    """The base with each adapter on it, into whole weights."""
    base = str(demo.base_model_path())
    own = {"weight": 1.0, "density": 0.3}
    models = [{"model": f"{base}+{place}", "parameters": own} for place in demo.expert_paths().values()]
    recipe = {"merge_method": "ties", "base_model": base, "models": models, "roles": list(demo.ROLES)}
    _merge_recipe(out, {**recipe, "dtype": "bfloat16"})


def passthrough_stack(out: Path) -> None:
    """Two overlapping halves of the base on top of each other."""
    base = str(demo.base_model_path())
    slices = [{"sources": [{"model": base, "layer_range": span}]} for span in ([0, 20], [10, 30])]
    _merge_recipe(out, {"merge_method": "passthrough", "slices": slices, "dtype": "bfloat16"})


def _merge_adapters(out: Path, sources: dict[str, Path], **options: Any) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(demo.base_model_path())
    model = PeftModel.from_pretrained(base, str(next(iter(sources.values()))), adapter_name="first")
    model.merge_3h(sources, adapter_name="default", progress=False, **options)
    # Their embeddings are the base's, and PEFT would ask the Hub whether that is so.
    model.save_pretrained(out, selected_adapters=["default"], save_embedding_layers=False)


def _merge_recipe(out: Path, recipe: dict[str, Any]) -> None:
    hf_merge3h.merge_recipe(recipe, out, progress=False)


MERGES: dict[str, Callable[[Path], None]] = {
    make.__name__.replace("_", "-"): make
    for make in (
        r_tsvm_three_adapters, ties_full_weights, adapters_licence_conflict, linear_not_evaluated, passthrough_stack,
    )
}  # fmt: skip


def make(name: str) -> None:
    """Merge, and keep what is not weights."""
    kept = HERE / name
    kept.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore", hf_merge3h.MergeWarning)  # the cards show what is warned of
        out = Path(place) / name
        MERGES[name](out)
        manifest = load_manifest(out)
        results = kept / EVALUATION
        if results.exists():
            manifest = Manifest({**manifest.content, "evaluation": json.loads(results.read_text())})
        public(manifest).save(kept)
        write_card(kept, name=name, old="")


def evaluate(name: str) -> None:
    """Ask base, experts and merge the same questions, none that an expert was trained on; `make` has to follow."""
    from hf_merge3h.demo.__main__ import TABLE

    experts = {demo.ROLES[role]: str(place) for role, place in demo.expert_paths().items()}
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / name
        MERGES[name](out)
        report = hf_merge3h.evaluate_3h(
            {"base": str(demo.base_model_path()), **experts, "merged": str(out)}, limit=QUESTIONS, datasets=TABLE
        )
        report.write_into(out)
        results = public(load_manifest(out)).content["evaluation"]
    (HERE / name / EVALUATION).write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def rewrite(name: str) -> None:
    """The card again from the manifest that lies there, with results that came later; nothing is merged."""
    kept = HERE / name
    results = kept / EVALUATION
    if results.exists():
        manifest = load_manifest(kept)
        public(Manifest({**manifest.content, "evaluation": json.loads(results.read_text())})).save(kept)
    write_card(kept, name=name, old="", picture=False)


if __name__ == "__main__":
    steps = {"--cards": rewrite, "--evaluate": evaluate}
    step = next((steps[each] for each in sys.argv[1:] if each in steps), make)
    for each in [name for name in sys.argv[1:] if name not in steps] or MERGES:
        step(each)
        sys.stdout.write(f"{each}\n")
