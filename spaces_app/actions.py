"""What the page does, as plain functions: no component is in here, and every one can be called without a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import charts
import places
import tensors
from form import LABEL, MOST_EXPERTS, Expert, Form, Problem, dump, form_of, problems_of, read, with_form
from preflight import Preflight, preflight
from tensors import CancelledError, Teller
from visits import Merge, Visit, Visits
from voices import MOST_CHARACTERS, Speaker, Voices

import hf_merge3h
from hf_merge3h import MergeError

EXAMPLES = Path(__file__).parent / "examples"
MOST_VALUES = 5
VISITS = Visits()
VOICES = Voices()
VISITS.on_close.append(lambda visit: VOICES.forget(visit.folder))


class RefusedError(Exception):
    """What a visitor asked for cannot be done; the problems say why, and what to do."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = tuple(problems)


# --- the recipe -----------------------------------------------------------------------------------------------------


def examples() -> dict[str, str]:
    """Recipes to begin with, by name, the demo's first."""
    paths = sorted(EXAMPLES.glob("*.yaml"), key=lambda path: (path.stem != "demo", path.stem))
    return {path.stem.replace("_", " "): path.read_text(encoding="utf-8") for path in paths}


def methods() -> list[tuple[str, str]]:
    """All methods, as label and name."""
    return [(f"{method.name}: {method.shown_title}", method.name) for method in hf_merge3h.list_methods()]


def method_help(name: str) -> str:
    """What a method does, in a line, and where it is from (Markdown)."""
    try:
        method = hf_merge3h.get_method(name)
    except MergeError as error:
        return str(error)
    link = (
        f"[{method.paper}](https://arxiv.org/abs/{method.paper[6:]})"
        if method.paper.startswith("arXiv")
        else method.paper
    )
    notice = f"  \n*{method.reconstruction}*" if method.reconstruction else ""
    return f"{method.summary} {link}{notice}"


def change_form(text: str, form: Form) -> str:
    """The recipe with what the form says.

    Raises:
        RefusedError: the YAML cannot be read as it stands, so there is nothing to change.
    """
    recipe, problems = read(text)
    if recipe is None:
        raw, unreadable = _raw(text)
        if unreadable:
            raise RefusedError(problems)
        return dump(with_form(raw, form))
    return dump(with_form(recipe.given, form))


def _raw(text: str) -> tuple[dict[str, Any], bool]:
    """A recipe that is YAML and does not make sense yet can be changed all the same."""
    import yaml

    try:
        if len(text) > 100_000 or "&" in text or "*" in text:
            return {}, True
        data = yaml.safe_load(text)
        form_of(data)
    except Exception:  # whatever a half-written text is
        return {}, True
    return (data, False) if isinstance(data, dict) else ({}, True)


def set_parameter(text: str, name: str, value: Any) -> str:
    """The recipe with one parameter of its method changed; None takes it out, and the default counts again."""
    recipe, problems = read(text)
    data = recipe.given if recipe is not None else None
    if data is None:
        data, unreadable = _raw(text)
        if unreadable:
            raise RefusedError(problems)
    form = form_of(data)
    parameters = {key: each for key, each in form.parameters.items() if key != name}
    if value is not None:
        parameters[name] = value
    return dump(with_form(data, Form(**{**vars(form), "parameters": parameters})))


def rows_of(form: Form) -> list[Expert]:
    """The form's rows, padded with empty ones."""
    return [*form.experts[:MOST_EXPERTS], *[Expert()] * (MOST_EXPERTS - len(form.experts))]


# --- the merge ------------------------------------------------------------------------------------------------------


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
        manifest = tensors.merge(checked.placed, str(out), teller, checked.seconds)
        seconds = time.perf_counter() - start
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
    (out / "merge3h.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (out / "recipe.yaml").write_text(text, encoding="utf-8")
    hf_merge3h.write_card(out, picture=False)
    parties = content["diagnostics"] if isinstance(content["diagnostics"], list) else []
    roles = tuple(parties[0]["roles"]) if parties else ()
    plan = checked.plan or hf_merge3h.plan_recipe(hf_merge3h.read_recipe(checked.placed, LABEL))
    found = hf_merge3h.spectra(plan, out) if roles else {}
    return Merge(
        number, text, checked.data, roles, manifest.tensors, content, out, seconds, found, tuple(content["warnings"])
    )


def sweep(visit: Visit, text: str, parameter: str, values: Sequence[float], teller: Teller) -> charts.Chart:
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


def sweepable(text: str) -> list[str]:
    """Parameters of the recipe's method that are numbers, those that people sweep first."""
    recipe, _ = read(text)
    if recipe is None:
        return []
    known = hf_merge3h.recipe_parameters(recipe.method)
    numbers = [name for name, each in known.items() if each.type is float and not each.choices]
    return sorted(numbers, key=lambda name: name not in ("lambda", "scale", "density"))


def numbers_of(text: str) -> list[float]:
    """Numbers that a visitor wrote, parted by commas or spaces.

    Raises:
        RefusedError: something else is among them.
    """
    parts = [each for each in re.split(r"[\s,;]+", text[:500].strip()) if each]
    try:
        return [float(each) for each in parts]
    except ValueError:
        raise RefusedError(
            [Problem(None, f"{text[:60]}: no list of numbers", "write for example 0.5, 1, 1.5")]
        ) from None


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


# --- for machines: these three are the API and the MCP tools ---------------------------------------------------------


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


def escaped(text: object) -> str:
    """Text for HTML, whatever is in it."""
    return html.escape(str(text))


def load() -> None:
    """Import what requests need, before there are threads: transformers cannot be imported by two of them at once."""
    import peft  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    from hf_merge3h import plan_recipe  # noqa: F401


def warm() -> None:
    """Load what the first visitor needs, while the page is being looked at."""
    VOICES.warm()
    from matplotlib.figure import Figure

    Figure().subplots()
