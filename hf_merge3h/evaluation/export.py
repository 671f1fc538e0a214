"""A suite as tasks of lm-evaluation-harness: YAML files for its `--include_path`, and records that are not on the Hub.

Each data set becomes two tasks: `merge3h_NAME` for models with a chat template (`--apply_chat_template`), and
`merge3h_NAME_plain`, whose prompt has the worked examples in it, for models without one.
"""

from __future__ import annotations

import json
import os
import shutil
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import bad, nearest
from .items import Item, make_items, select
from .lm_eval import FIGURES
from .sources import load
from .store import write_aside
from .suite import Suite, Task, read_suite

_GROUP = "merge3h"
_SCORING = '''"""Scores of hf_merge3h's metrics; `pip install "hf-merge3h[eval]"` beside lm-evaluation-harness."""

from pathlib import Path

from hf_merge3h.evaluation.lm_eval import functions

_SUITE = Path(__file__).with_name("suite.yaml")
'''
#: what lm-evaluation-harness' own GSM8K does, so that figures can be set side by side
_GSM8K: dict[str, Any] = {
    "metric_list": [
        {
            "metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True,
            "ignore_punctuation": False, "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"],
        }
    ],
    "filter_list": [
        {
            "name": "strict-match",
            "filter": [{"function": "regex", "regex_pattern": r"#### (\-?[0-9\.\,]+)"}, {"function": "take_first"}],
        },
        {
            "name": "flexible-extract",
            "filter": [
                {"function": "regex", "group_select": -1, "regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)"},
                {"function": "take_first"},
            ],
        },
    ],
}  # fmt: skip


class _Function(str):
    """A name that YAML shows as `!function NAME`."""


class _Dumper(yaml.SafeDumper):
    """Knows functions, and repeats nothing by reference."""

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors: each file is read by itself."""
        return True


_Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))


@dataclass(frozen=True)
class Exported:
    """What was written, and data sets that have no counterpart there, with the reason."""

    tasks: list[str]
    left_out: dict[str, str]


def export_lm_eval(
    suite: str | Path | Suite,
    folder: str | os.PathLike[str],
    *,
    datasets: Sequence[str] | None = None,
    data: Mapping[str, str | os.PathLike[str]] | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Exported:
    """Write the tasks of a suite into a new folder, whole or not at all.

    Args:
        suite: a suite's name, or a YAML file.
        folder: new, or empty.
        datasets: only these of the suite.
        data: data set -> local file in its place; its records are written beside the tasks.
        limit: items a data set, those that `evaluate_3h` takes by this seed; their records are written, also of data
            sets that are on the Hub.
        seed: of the choice.

    Raises:
        RequestError: the folder is in use, or a data set is unknown.
        SourceError: records cannot be had.
    """
    found, out, stand_ins = read_suite(suite), Path(folder), dict(data or {})
    for argument, names in (("datasets", datasets or ()), ("data", stand_ins)):
        for name in names:
            if name not in found.tasks:
                raise bad(argument, name, f"a data set of {found.name}", nearest(name, found.tasks))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise bad("export_lm_eval", str(out), "a new or empty folder")
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        done = _write(found, aside, out, datasets, stand_ins, limit, seed)
        if out.exists():
            out.rmdir()
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return done


def _write(
    suite: Suite, aside: Path, out: Path, datasets: Sequence[str] | None, data: Mapping[str, Any], limit: int | None,
    seed: int,
) -> Exported:  # fmt: skip
    done, scoring = Exported([], {}), [_SCORING]
    for name, task in suite.tasks.items():
        if datasets is not None and name not in datasets:
            continue
        if task.form in ("judged", "likelihood"):
            done.left_out[name] = (
                "needs a judge" if task.form == "judged" else "a mean log-likelihood a token is no figure there"
            )
            continue
        source = _source(suite, task, aside, out, data.get(name), limit, seed)
        for chat in (True, False):
            config = _config(task, chat, source)
            write_aside(aside / f"{config['task']}.yaml", yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=120))
            done.tasks.append(str(config["task"]))
        scoring.append(f'keep_{name}, score_{name} = functions(_SUITE, "{name}")\n')
    for ending in ("", "_plain"):
        names = [name for name in done.tasks if name.endswith("_plain") == bool(ending)]
        write_aside(aside / f"{_GROUP}{ending}.yaml", yaml.dump({"group": f"{_GROUP}{ending}", "task": names}))
    write_aside(aside / "scoring.py", "".join(scoring))
    write_aside(aside / "suite.yaml", suite.text)
    write_aside(aside / "README.md", _readme(suite, done))
    return done


def _source(
    suite: Suite, task: Task, aside: Path, out: Path, stand_in: Any, limit: int | None, seed: int
) -> dict[str, Any]:
    """Where the harness finds the records: on the Hub at their revision, or in a file beside the task."""
    source, limit = task.source, task.at_most(limit)
    if "hub" in source and stand_in is None and limit is None:
        keep = {"process_docs": _Function(f"scoring.keep_{task.name}")} if task.where else {}
        return {
            "dataset_path": source["hub"],
            "dataset_name": source.get("config"),
            "dataset_kwargs": {"revision": source["revision"]} if source.get("revision") else {},
            "test_split": source["split"],
        } | keep
    records = load(task, suite, stand_in).records
    items = make_items(task, records)
    by_id = {item.id: (item, record) for item, record in zip(items, records, strict=True)}
    rows = [_record(task, *by_id[item.id]) for item in (items if limit is None else select(items, limit, seed))]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_aside(aside / "records" / f"{task.name}.jsonl", text)
    return {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str((out / "records" / f"{task.name}.jsonl").resolve())}},
        "test_split": "test",
    }


def _record(task: Task, item: Item, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in the one form that a table can hold: choices are two lists, whatever they were."""
    row = dict(record)
    if task.form == "choices":
        row[str(task.fields["choices"])] = {"choices": list(item.choices), "labels": item.reference}
    return row


def _config(task: Task, chat: bool, source: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "task": f"{_GROUP}_{task.name}{'' if chat else '_plain'}",
        **source,
        "doc_to_text": _prompt(task, chat),
        "target_delimiter": "" if chat else " ",
        "num_fewshot": 0,  # worked examples stand in the prompt of the plain form; a chat gets none
    }
    if task.form == "choices":
        config |= {"output_type": "multiple_choice", "doc_to_target": 0,
                   "doc_to_choice": f"{{{{{task.fields['choices']}.choices}}}}"}  # fmt: skip
    else:
        config |= {
            "output_type": "generate_until",
            "doc_to_target": _target(task),
            "repeats": task.samples,
            "generation_kwargs": {
                "until": [] if chat else list(task.stop), "do_sample": task.temperature > 0,
                "temperature": float(task.temperature), "max_gen_toks": task.max_new_tokens,
            },
        }  # fmt: skip
    return config | _scored(task) | {"metadata": {"version": 1.0}}


def _scored(task: Task) -> dict[str, Any]:
    """How answers are scored: GSM8K and IFEval as the harness does, the rest by our metrics."""
    if task.metric == "math_accuracy" and task.options.get("answer_format", "gsm8k") == "gsm8k":
        return _GSM8K
    if task.metric == "instruction_following":
        official = "lm_eval.tasks.ifeval.utils"
        levels = {"prompt": "mean", "inst": _Function(f"{official}.agg_inst_level_acc")}
        return {
            "process_results": _Function(f"{official}.process_results"),
            "metric_list": [
                {"metric": f"{level}_level_{kind}_acc", "aggregation": way, "higher_is_better": True}
                for kind in ("strict", "loose") for level, way in levels.items()
            ],
        }  # fmt: skip
    figures = {task.key: task.direction == "higher"} | {one: True for one in FIGURES[task.metric] if one != task.key}
    scored: dict[str, Any] = {
        "process_results": _Function(f"scoring.score_{task.name}"),
        "metric_list": [
            {"metric": one, "aggregation": "mean", "higher_is_better": up} for one, up in figures.items()
        ],
    }  # fmt: skip
    if task.samples > 1:  # all samples of an item, where the harness would take the first
        scored["filter_list"] = [{"name": "all", "filter": [{"function": "take_first_k", "k": task.samples}]}]
    return scored


def _prompt(task: Task, chat: bool) -> str:
    """The prompt as the harness' template."""
    places = {"question": str(task.fields["question"])}
    if "tests" in task.fields:
        places["example"] = f"{task.fields['tests']}[0]"
    parts = [
        _literal(text) + (f"{{{{{places[field]}}}}}" if field is not None else "")
        for text, field, _, _ in string.Formatter().parse(task.prompt)
    ]
    if chat:
        return "".join(parts)
    shown = "".join(f"Question: {shot['question']}\nAnswer: {shot['answer']}\n\n" for shot in task.few_shot)
    return f"{_literal(shown)}Question: {''.join(parts)}\nAnswer:"


def _literal(text: str) -> str:
    return f"{{% raw %}}{text}{{% endraw %}}" if any(sign in text for sign in ("{{", "{%", "{#")) else text


def _target(task: Task) -> Any:
    return f"{{{{{task.fields['reference']}}}}}" if "reference" in task.fields else 0


def _readme(suite: Suite, done: Exported) -> str:
    left = "".join(f"- `{name}`: {reason}\n" for name, reason in done.left_out.items())
    return f"""# {suite.name} for lm-evaluation-harness

```sh
lm_eval --model hf --model_args pretrained=MODEL --include_path . --tasks {_GROUP} --apply_chat_template \\
  --log_samples --output_path OUT
lm_eval --model hf --model_args pretrained=MODEL --include_path . --tasks {_GROUP}_plain   # without a chat template
```

GSM8K is scored by the harness' own two rules and IFEval by its own checkers (`pip install "lm_eval[hf,ifeval]"`), the
rest by `scoring.py`, which needs `pip install "hf-merge3h[eval]"` in the same environment. `hf-merge3h evaluate
--predictions merged=OUT/.../samples_{_GROUP}_NAME_....jsonl` makes a report of what `--log_samples` wrote. Made from
`suite.yaml`; records that are not on the Hub lie under `records/`, and the tasks name them by their whole path.
""" + (f"\nWithout a counterpart there:\n\n{left}" if left else "")
