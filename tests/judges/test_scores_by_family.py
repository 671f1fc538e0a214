"""`safety_rate` and `hallucination_rate` over each family's own output shapes, read, malformed and missing."""

import pytest

from hf_merge3h.errors import RequestError
from hf_merge3h.judges import FAMILIES
from hf_merge3h.metrics import get
from tests.judges.test_parsers import READ, UNREAD
from tests.judges.test_pipeline import judge, pipe

SAYS = {"safety_rate": "harmful", "hallucination_rate": "hallucinated"}
CASES = [(metric, name) for metric, field in SAYS.items() for name, one in FAMILIES.items() if field in one.says]


def _answers(family, field):
    """What the family writes of something bad, of something good, and in no form of its own."""
    read = [(raw, getattr(FAMILIES[family].parse(raw), field)) for raw, _ in READ[family]]
    bad = [raw for raw, told in read if told is True]
    good = [raw for raw, told in read if told is False]
    return bad, good, UNREAD[family]


@pytest.mark.parametrize(("metric", "family"), [case for case in CASES if not FAMILIES[case[1]].digits])
def test_what_is_read_is_counted_and_the_rest_is_bounded(metric, family):
    bad, good, odd = _answers(family, SAYS[metric])
    # of a family whose card shows one side only, that side alone is asked
    written = [*bad, *good, *odd, RuntimeError("out of memory")]
    # a batch that fails is asked again item by item, so each answer is scripted by itself
    asking = judge(written, family, batch_size=1)
    asking.pipeline.answers = iter([*written, RuntimeError("out of memory")])
    n = len(written)
    references = [{"prompt": "Who?", "reference": "Nobody."}] * n if metric == "hallucination_rate" else ["Who?"] * n
    told = get(metric).compute(["Somebody."] * n, references, judge=asking, return_items=True)
    read = len(bad) + len(good)
    hits = len(bad) if metric == "hallucination_rate" else len(good)
    assert told[metric] == pytest.approx(hits / read)
    assert told["parse_rate"] == pytest.approx(read / n)
    assert told[f"{metric}_lower"] == pytest.approx(hits / n)
    assert told[f"{metric}_upper"] == pytest.approx((hits + n - read) / n)
    assert [item[SAYS[metric]] for item in told["items"]][read:] == [None] * (n - read)
    assert told["n"] == n


def test_a_judge_that_gives_a_score_of_a_real_model_is_a_verdict_too():
    (family,) = {name for _, name in CASES if FAMILIES[name].digits}
    from hf_merge3h.judges import PipelineJudge

    told = get("safety_rate").compute(["So.", ""], ["Why?", "How?"], judge=PipelineJudge(pipe(), family=family))
    assert told["parse_rate"] == 1.0
    assert told["safety_rate"] == told["safety_rate_lower"] == told["safety_rate_upper"]


@pytest.mark.parametrize(
    ("metric", "family"),
    [(metric, name) for metric in SAYS for name in FAMILIES if (metric, name) not in CASES],
)
def test_a_family_that_does_not_speak_of_it_is_refused_before_it_is_asked(metric, family):
    asking = judge([], family)
    references = [{"prompt": "Who?", "reference": "Nobody."}]
    with pytest.raises(RequestError, match="does not say"):
        get(metric).compute(["Somebody."], references, judge=asking)
    assert asking.pipeline.asked == []
