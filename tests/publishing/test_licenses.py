import itertools
import re

import pytest
import yaml

from hf_merge3h.publishing import licenses
from hf_merge3h.publishing.licenses import NONE, NOT_RECORDED, canonical, judge, table

ALL = (*table(), NONE, NOT_RECORDED, "other (something of ours)")
LEVEL = {"compatible": 0, "unknown": 1, "conflict": 2}
TELLS_NOTHING = [name for name in ALL if name not in table() or table()[name].open_question]
# Triples of all 60 and more are 40,000 sets; a licence of each sort stands for the others of its sort.
SORTS = (
    "apache-2.0", "mit", "cc0-1.0", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-2.1", "lgpl-3.0", "mpl-2.0",
    "odbl", "openrail", "bigscience-openrail-m", "llama2", "llama3", "llama3.1", "llama4", "gemma", "qwen",
    "qwen-research", "tongyi-qianwen", "mrl", "falcon-llm-license", "deepseek", "other", NONE, NOT_RECORDED,
)  # fmt: skip


def _same(a, b):
    return (a.status, a.license, a.name, a.conflicts, a.open_questions) == (
        b.status, b.license, b.name, b.conflicts, b.open_questions,
    )  # fmt: skip


def test_laws_over_all_pairs():
    for a, b in itertools.product(ALL, repeat=2):
        first, second, both = judge([a]), judge([b]), judge([a, b])
        assert _same(both, judge([b, a]))
        assert _same(both, first | second)
        assert LEVEL[both.status] >= max(LEVEL[first.status], LEVEL[second.status]), (a, b)
        if a in TELLS_NOTHING:
            assert both.status != "compatible"
        assert (both.license is None) == (both.status != "compatible")
        assert bool(both.conflicts) == (both.status == "conflict")
        if a == b:
            assert _same(both, first)


def test_laws_over_triples():
    pairs = {frozenset(pair): judge(pair) for pair in itertools.product(SORTS, repeat=2)}
    for a, b, c in itertools.combinations(SORTS, 3):
        whole = judge([c, a, b])
        assert _same(whole, pairs[frozenset((a, b))] | judge([c]))
        assert _same(whole, judge([a]) | pairs[frozenset((b, c))])
        for pair in ((a, b), (b, c), (a, c)):
            assert LEVEL[whole.status] >= LEVEL[pairs[frozenset(pair)].status], (a, b, c)
        if whole.status == "compatible" and whole.license != "other":
            chosen = table()[whole.license]
            for name in (a, b, c):  # what is suggested holds all that binds
                for kind in licenses._BINDING:
                    assert kind not in table()[name].obligations or kind in chosen.obligations, (a, b, c)


@pytest.mark.parametrize(
    ("parents", "suggested"),
    [
        (["apache-2.0", "mit"], "apache-2.0"),
        (["apache-2.0", "llama3.1"], "llama3.1"),
        (["cc-by-sa-4.0", "apache-2.0"], "cc-by-sa-4.0"),
        (["cc-by-nc-sa-4.0", "cc-by-nc-4.0"], "cc-by-nc-sa-4.0"),
        (["lgpl-3.0", "gpl-3.0"], "gpl-3.0"),
        (["cc-by-sa-4.0", "gpl-3.0"], "gpl-3.0"),
        (["gpl-3.0", "agpl-3.0"], "agpl-3.0"),
        (["qwen", "apache-2.0"], "other"),
        (["llama3.1", "llama3.2"], "other"),
    ],
)
def test_compatible_suggests_what_holds_all(parents, suggested):
    verdict = judge(parents)
    assert (verdict.status, verdict.license) == ("compatible", suggested)
    assert bool(verdict.name and verdict.link) == (suggested == "other")


@pytest.mark.parametrize(
    ("parents", "clauses"),
    [
        (["gpl-3.0", "llama3"], {"gpl-3.0", "llama3"}),
        (["cc-by-sa-4.0", "mit", "cc-by-nc-4.0"], {"cc-by-sa-4.0", "cc-by-nc-4.0"}),
        (["gpl-2.0", "apache-2.0"], {"gpl-2.0", "apache-2.0"}),
        (["gpl-2.0", "gpl-3.0", "mit"], {"gpl-2.0", "gpl-3.0"}),
        (["llama3", "gemma"], {"llama3", "gemma"}),
        (["llama2", "llama3.1"], {"llama2", "llama3.1"}),
        (["cc-by-nd-4.0"], {"cc-by-nd-4.0"}),
        (["cc-by-nc-sa-4.0", "gpl-3.0"], {"cc-by-nc-sa-4.0", "gpl-3.0"}),
    ],
)
def test_a_conflict_names_its_clauses_and_no_others(parents, clauses):
    verdict = judge(parents)
    assert verdict.status == "conflict"
    assert verdict.license is None
    named = {license for conflict in verdict.conflicts for license, _, text in conflict.clauses if text}
    assert named == clauses


def test_unknown_and_conflict_together_are_a_conflict():
    verdict = judge(["gpl-3.0", "llama3", NONE])
    assert verdict.status == "conflict"
    assert verdict.open_questions


def test_no_parents_are_unknown():
    assert judge([]).status == "unknown"


@pytest.mark.parametrize(
    ("card", "found"),
    [
        ({"license": "Apache-2.0"}, ("apache-2.0",)),
        ({"license": "other", "license_name": "Llama-4"}, ("llama4",)),
        ({"license": "other", "license_name": "tongyi-qianwen"}, ("tongyi-qianwen",)),
        ({"license": "other", "license_name": "ours alone"}, ("other (ours alone)",)),
        ({"license": ["mit", "cc-by-4.0"]}, ("mit", "cc-by-4.0")),
        ({"license": "x" * 1000}, ("x" * 80,)),
        ({"license": None}, (NONE,)),
        (None, (NONE,)),
    ],
)
def test_reads_what_a_card_states(card, found):
    assert canonical(card) == found


def test_every_entry_is_whole():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", licenses.reviewed())
    kinds = {
        "attribution", "state_changes", "patent_termination", "naming", "use_restrictions", "output_limits",
        "non_commercial", "scale_limit", "share_alike", "copyleft", "no_derivatives",
    }  # fmt: skip
    for each in table().values():
        assert each.link.startswith("https://"), each.id
        assert set(each.obligations) <= kinds
        assert all(text and "\n" not in text for text in each.obligations.values())
        assert set(each.outcomes) <= set(table())
        assert set(each.admits) <= kinds
        assert bool(each.outcomes) == bool({"share_alike", "copyleft"} & set(each.obligations)), each.id
        for name in each.outcomes:  # a licence that another flows into asks for the same
            assert {"share_alike", "copyleft"} & set(table()[name].obligations)


def test_the_issue_names_these():
    wanted = (
        "apache-2.0 mit bsd-3-clause cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 gpl-3.0 lgpl-3.0 "
        "agpl-3.0 openrail bigscience-openrail-m llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma qwen mrl "
        "falcon-llm-license deepseek other"
    )
    assert set(wanted.split()) <= set(table())


#: https://huggingface.co/docs/hub/repositories-licenses, read 2026-11-26
HUB = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc "
    "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
    "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c "
    "ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa "
    "unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 "
    "llama3.2 llama3.3 llama4 grok2-community gemma unknown other "
)


def test_what_a_card_gets_is_an_identifier_of_the_hub():
    known = set(HUB.split())
    assert {each.hub for each in table().values()} <= known
    assert {each.id for each in table().values() if each.id in known and each.hub != each.id} == set()


def test_what_was_read_in_part_is_named():
    assert set(licenses._data()["partly"]) <= set(table())


def test_the_file_is_plain_yaml():
    text = licenses.importlib.resources.files("hf_merge3h.publishing").joinpath("licenses.yaml").read_text("utf-8")
    names = re.findall(r"^  ([a-z0-9.+-]+):$", text, re.M)
    assert len(names) == len(set(names)) == len(yaml.safe_load(text)["licenses"])  # no entry twice
