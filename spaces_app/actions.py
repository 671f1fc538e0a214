"""What the page does, as plain functions: no component is in here, and every one can be called without a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import charts
import measuring
import places
import tensors
from editing import RefusedError, examples, set_parameter
from figures import Chart
from form import LABEL, MOST_EXPERTS, Problem, form_of, problems_of, read
from preflight import Preflight, preflight
from tensors import CancelledError, Teller
from visits import Merge, Visit, Visits
from voices import MOST_CHARACTERS, Speaker, Voices

import hf_merge3h
from hf_merge3h import MergeError

MOST_VALUES = 5
VISITS = Visits()
VOICES = Voices()
VISITS.on_close.append(lambda visit: VOICES.forget(visit.folder))


def merge(visit: Visit, text: str, teller: Teller, keep: bool = True) -> Merge:
    """Merge a recipe for a visit.

    Raises:
        RefusedError: it cannot be carried out; nothing was written.
        CancelledError: the visitor stopped it; nothing is left.
    """
    checked = preflight(text, visit.folder)
    if checked.problems:
        raise RefusedError(checked.problems)
    number = visit.made + 1
    out = Path(tempfile.mkdtemp(prefix="merge-", dir=visit.folder)) / "model"
    start = time.perf_counter()
    try:
        recipe = checked.plan if checked.plan is not None and not tensors.LENT else checked.placed
        manifest = tensors.merge(recipe, str(out), teller, checked.seconds)
        seconds = time.perf_counter() - start
        teller.tell(1.0, f"{teller.what}: the card and the figures")
        made = _finish(visit, number, text, checked, manifest, out, seconds)
    except MergeError as error:
        shutil.rmtree(out.parent, ignore_errors=True)
        raise RefusedError(problems_of(Exception(places.named(str(error))))) from None
    except BaseException:
        shutil.rmtree(out.parent, ignore_errors=True)
        raise
    if visit.closed:
        shutil.rmtree(visit.folder, ignore_errors=True)
        raise CancelledError
    if keep:
        visit.made = number
        gone = visit.keep(made)
        if gone is not None:
            VOICES.forget(gone.folder)
    return made


def _finish(
    visit: Visit, number: int, text: str, checked: Preflight, manifest: Any, out: Path, seconds: float
) -> Merge:
    """Put the shipped models' names in place of this machine's folders, and the recipe beside the result."""
    content = json.loads(places.named(json.dumps(manifest.content)))
    for model in content["models"]:
        if model["source"] == places.demo.BASE_MODEL_ID and not model.get("card"):
            model["card"] = places.look([model["source"]])[0][0].card  # the wheel that brings it has no card file
    _write(out, content)
    (out / "recipe.yaml").write_text(text, encoding="utf-8")
    hf_merge3h.write_card(out, picture=False)
    parties = content["diagnostics"] if isinstance(content["diagnostics"], list) else []
    roles = tuple(parties[0]["roles"]) if parties else ()
    plan = checked.plan or hf_merge3h.plan_recipe(hf_merge3h.read_recipe(checked.placed, LABEL))
    found = hf_merge3h.spectra(plan, out) if roles else {}
    return Merge(
        number, text, checked.data, roles, manifest.tensors, content, out, seconds, found, tuple(content["warnings"])
    )


def _write(folder: Path, manifest: Mapping[str, Any]) -> None:
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (folder / "merge3h.json").write_text(f"{text}\n", encoding="utf-8")


def sweep(visit: Visit, text: str, parameter: str, values: Sequence[float], teller: Teller) -> Chart:
    """The same recipe at several values of one parameter; only figures are kept.

    Raises:
        RefusedError: no such parameter, or a value that it does not take.
    """
    values = list(dict.fromkeys(values))
    if not 2 <= len(values) <= MOST_VALUES:
        raise RefusedError([Problem(None, f"{len(values)} values", f"give 2 to {MOST_VALUES} different numbers")])
    texts = []
    for value in values:
        changed = set_parameter(text, parameter, value)
        recipe, problems = read(changed)
        if recipe is None:
            raise RefusedError(problems)
        texts.append(changed)
    merges = []
    for number, changed in enumerate(texts, start=1):
        step = type(teller)(teller.stop, f"{parameter} = {values[number - 1]:g} ({number} of {len(values)})")
        made = merge(visit, changed, step, keep=False)
        shutil.rmtree(made.folder.parent, ignore_errors=True)
        if not made.roles:
            raise RefusedError([Problem(None, "this merge has no base to measure changes from", "name a base_model")])
        merges.append((made.roles, made.tensors))
    return charts.small_multiples(parameter, values, merges)


def speakers(merged: Merge) -> list[Speaker]:
    """Who can answer after a merge: the base, each expert, the merged model."""
    base = str(merged.data.get("base_model") or "")
    form = form_of(merged.data)
    found = [Speaker("base", base)] if base else []
    for number, expert in enumerate(form.experts[:MOST_EXPERTS], start=1):
        label = expert.role or f"expert {number}"
        adapter = form.kind == "adapters"
        found.append(Speaker(label, base if adapter else expert.source, expert.source if adapter else None))
    adapter = (merged.folder / "adapter_config.json").is_file()
    folder = str(merged.folder)
    return [*found, Speaker("merged", base if adapter else folder, folder if adapter else None)]


def chat(merged: Merge, prompt: str, tokens: int) -> Iterator[dict[str, str]]:
    """Answers of base, experts and merged model, side by side and growing.

    Raises:
        RefusedError: no prompt, one that is too long, or a model that cannot be loaded here.
    """
    prompt = prompt.strip()
    if not prompt or len(prompt) > MOST_CHARACTERS:
        raise RefusedError([Problem(None, f"a prompt of {len(prompt)} characters", f"write 1 to {MOST_CHARACTERS}")])
    try:
        yield from VOICES.answers(speakers(merged), prompt, int(tokens))
    except (MergeError, OSError, ValueError) as error:
        text = " ".join(places.named(str(error)).split())[:300]
        raise RefusedError(
            [Problem(None, f"a model cannot speak here: {text}", "download it and try elsewhere")]
        ) from None


def marks(said: Mapping[str, str]) -> dict[str, str]:
    """Who refuses to answer, by the library's rule."""
    return {label: "refuses" for label, text in said.items() if hf_merge3h.refuses(text)}


def evaluate(visit: Visit, made: Merge, teller: Teller) -> Merge:
    """Ask base, experts and merge a few questions; the results go into the merge's manifest and card.

    Raises:
        RefusedError: a model that cannot be asked here.
    """
    asked = speakers(made)
    try:
        measuring.check(asked)
        with VOICES.sources(asked) as models:
            found = dict(measuring.measure(asked, models, teller.tell))
    except (MergeError, OSError, ValueError) as error:
        text = " ".join(places.named(str(error)).split())[:300]
        raise RefusedError(
            [
                Problem(
                    None,
                    f"this cannot be evaluated here: {text}",
                    "try again when this machine is less busy, or download the merge and run `hf-merge3h evaluate`",
                )
            ]
        ) from None
    if visit.closed:
        raise CancelledError
    if made not in visit.merges:
        raise RefusedError([Problem(None, "this merge made room for newer ones meanwhile", "evaluate one of those")])
    found["models"] = {
        each.label: "this merge" if each.label == "merged" else each.adapter or each.model for each in asked
    }
    content = {**made.manifest, "evaluation": json.loads(places.named(json.dumps(found)))}
    _write(made.folder, content)
    hf_merge3h.write_card(made.folder, picture=False)
    measured = replace(made, manifest=content)
    visit.merges[visit.merges.index(made)] = measured
    return measured


def card_of(made: Merge) -> str:
    """The model card, as Markdown: without the metadata for the Hub, and without pictures, which Look has."""
    text = (made.folder / "README.md").read_text(encoding="utf-8")
    body = text.split("\n---\n", 1)[1] if text.startswith("---\n") else text
    return re.sub(r"<picture>.*?</picture>|!\[[^\]]*\]\([^)]*\)|<!--.*?-->", "", body, flags=re.DOTALL).strip()


def can_log_in() -> bool:
    """Whether this is a Space that lets people log in: their token then never passes through a component."""
    return bool(os.environ.get("OAUTH_CLIENT_ID"))


def publish(made: Merge | None, repo: str, private: bool, token: str | None) -> Any:
    """Publish a merge on the Hub, with the token of whoever logged in.

    Raises:
        RefusedError: nobody is logged in, nothing is merged, the licences conflict, or the Hub refuses.
    """
    if token is None:
        raise RefusedError([Problem(None, "nobody is logged in", "press the button above first")])
    if made is None:
        raise RefusedError([Problem(None, "nothing is merged yet", "press Merge first")])
    try:
        return hf_merge3h.publish(made.folder, repo.strip()[:200], private=private, token=token)
    except MergeError as error:
        text = str(error).replace(token, "<token>").replace(str(made.folder), "this merge")
        raise RefusedError(problems_of(Exception(places.named(text)))) from None


def load() -> None:
    """Import what requests need, before there are threads: transformers cannot be imported by two of them at once."""
    import peft  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    from hf_merge3h import plan_recipe  # noqa: F401


def warm() -> None:
    """Load what the first visitor needs: the base that answers, and the demo's experts."""
    VOICES.warm()
    preflight(next(iter(examples().values())))
    from matplotlib.figure import Figure

    Figure().subplots()
