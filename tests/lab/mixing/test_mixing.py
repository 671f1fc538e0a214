"""`mix_data`: reading, cleaning, proportions, scores; the learnt proportions have tests of their own."""

from __future__ import annotations

import math

import pytest
from datasets import Dataset

from hf_merge3h import RequestError, mix_data
from hf_merge3h.lab.mixing.cleaning import Cleaning, clean
from hf_merge3h.lab.mixing.proportions import as_given, by_temperature, largest_size, quotas
from hf_merge3h.lab.mixing.records import read_sets


def rows(count: int, topic: str) -> Dataset:
    """Sentences that share no word triples with one another."""
    made = []
    for i in range(count):
        words = [f"{topic}{i}x{j}" for j in range(12)]
        made.append({"prompt": " ".join(words[:6]) + "?", "completion": " ".join(words[6:]) + "."})
    return Dataset.from_list(made)


@pytest.fixture
def three() -> dict[str, Dataset]:
    return {"helpfulness": rows(60, "maths"), "honesty": rows(20, "facts"), "harmlessness": rows(40, "risks")}


def test_equal_shares_of_the_largest_size_without_repetition(three):
    mixed, report = mix_data(three)
    assert report.drawn == {"helpfulness": 20, "honesty": 20, "harmlessness": 20}
    assert len(mixed) == 60
    assert len({(each["source"], each["source_row"]) for each in mixed}) == 60


def test_rows_are_in_the_form_that_trl_trains_answers_of(three):
    mixed, _ = mix_data(three, size=3)
    for each in mixed:
        original = three[each["source"]][each["source_row"]]
        assert each["prompt"] == [{"role": "user", "content": original["prompt"]}]
        assert each["completion"] == [{"role": "assistant", "content": original["completion"]}]


def test_a_seed_gives_the_same_mixture_and_another_seed_another(three):
    first, again, other = (mix_data(three, size=30, seed=seed).dataset.to_list() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("temperature", "expected"), [(1.0, [60, 20, 40]), (math.inf, [40, 40, 40])])
def test_temperature_goes_from_the_sets_own_shares_to_equal_ones(three, temperature, expected):
    sizes = {name: len(each) for name, each in three.items()}
    shares = by_temperature(sizes, temperature)
    assert [shares[name] * 120 for name in sizes] == pytest.approx(expected)


def test_quotas_sum_up_and_follow_the_largest_remainders():
    shares = as_given({"a": 1, "b": 1, "c": 1}, ["a", "b", "c"])
    assert quotas(shares, 10) == {"a": 4, "b": 3, "c": 3}
    assert largest_size(shares, {"a": 3, "b": 9, "c": 9}) == 9


def test_given_proportions_and_repetition(three):
    _, report = mix_data(three, proportions={"helpfulness": 0, "honesty": 3, "harmlessness": 1}, size=80, repeat=True)
    assert report.drawn == {"helpfulness": 0, "honesty": 60, "harmlessness": 20}


def test_what_is_dropped_is_told_with_its_reason():
    sets = {
        "a": [("one two three four five", "six seven eight nine ten"), ("", "no question"), ("hi", "ho")],
        "b": [
            ("One two three  four five", "six seven eight nine, ten!"),
            ("one two three four five", "six seven eight nine ten eleven"),
            ("something else entirely is asked", "and answered " * 30),
            ("what is left over at the end", "only this one stays here"),
        ],
    }
    data = {name: Dataset.from_list([{"prompt": p, "completion": c} for p, c in pairs]) for name, pairs in sets.items()}
    found = clean(read_sets(data), Cleaning(min_words=3, max_words=40, near_duplicates=0.7))
    assert found.dropped == {
        "a": {"empty": [1], "too short": [2]},
        "b": {"duplicate": [0], "near duplicate": [1], "too long": [2]},
    }
    assert found.overlaps == {"a & b": 2}
    assert [each.row for each in found.kept["b"]] == [3]


def test_language_drops_what_is_surely_another():
    english = "The committee will publish the minutes of the meeting before the end of the week."
    french = "Le comité publiera le compte rendu de la réunion avant la fin de la semaine prochaine."
    data = {
        "a": Dataset.from_list([{"prompt": each, "completion": each} for each in (english, french, "2 + 2 = 4 ok")])
    }
    found = clean(read_sets(data), Cleaning(language="en"))
    assert found.dropped == {"a": {"other language": [1]}}


def test_the_best_of_each_set_are_chosen_within_its_quota(three):
    mixed, report = mix_data(
        three, strategy="score", scorer=lambda examples: [example.row for example in examples], size=9
    )
    chosen = {name: sorted(e["source_row"] for e in mixed if e["source"] == name) for name in three}
    assert chosen == {"helpfulness": [57, 58, 59], "honesty": [17, 18, 19], "harmlessness": [37, 38, 39]}
    assert report.scores is not None
    assert report.scores["honesty"] == {"least": 0, "median": 9.5, "greatest": 19, "cutoff": 17, "unscored": 0}


def test_what_has_no_score_is_never_chosen(three):
    scorer = lambda examples: [math.nan if example.row % 2 else 1.0 for example in examples]  # noqa: E731
    mixed, report = mix_data(three, strategy="score", scorer=scorer, size=30)
    assert all(each["source_row"] % 2 == 0 for each in mixed)
    assert report.scores is not None
    assert report.scores["helpfulness"]["unscored"] == 30


def test_only_candidates_are_scored_and_the_best_of_them_chosen(three):
    asked = []

    def scorer(examples):
        asked.append(rows := [example.row for example in examples])
        return rows

    mixed, report = mix_data(three, strategy="score", scorer=scorer, size=9, candidates=12)
    assert [len(rows) for rows in asked] == [12, 12, 12]
    assert asked[0] == sorted(asked[0]) != list(range(12))  # drawn, and in the set's order
    chosen = {name: sorted(e["source_row"] for e in mixed if e["source"] == name) for name in three}
    assert list(chosen.values()) == [rows[-3:] for rows in asked]
    assert report.settings["candidates"] == 12
    with pytest.raises(RequestError, match=r"helpfulness has 2 of 3"):
        mix_data(three, strategy="score", scorer=scorer, size=9, candidates=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"strategy": "heuristc"}, "did you mean 'heuristic'?"),
        ({"temprature": 2}, "did you mean 'temperature'?"),
        ({"temperature": 0}, "temperature=0"),
        ({"size": 100}, "honesty has 20 of 33"),
        ({"size": 0}, "size=0"),
        ({"proportions": {"helpful": 1}}, "did you mean 'helpfulness'?"),
        ({"proportions": {"helpfulness": 1}}, "honesty, harmlessness"),
        ({"proportions": {"helpfulness": math.nan, "honesty": 1, "harmlessness": 1}}, "numbers of 0 or more"),
        ({"columns": {"prompt": "question", "response": "answer"}}, "question, answer"),
        ({"columns": {"prompt": "question"}}, "columns="),
        ({"near_duplicates": 2}, "near_duplicates=2"),
        ({"seed": -1}, "seed=-1"),
        ({"min_words": 10_000}, "cleaning leaves nothing of helpfulness, honesty, harmlessness"),
        ({"strategy": "score"}, "model and tokenizer"),
        ({"strategy": "score", "scorer": 3}, "scorer=3"),
        ({"strategy": "score", "scorer": len, "candidates": 0}, "candidates=0"),
        ({"strategy": "score", "scorer": lambda examples: [1.0]}, "for 60 examples"),
        ({"strategy": "score", "scorer": lambda examples: [math.nan] * len(examples)}, "at least one finite score"),
        ({"strategy": "adaptive"}, "the base model"),
        ({"strategy": "adaptive", "signl": "x"}, "did you mean 'signal'?"),
    ],
)
def test_bad_requests(three, arguments, words):
    with pytest.raises(RequestError, match=None) as error:
        mix_data(three, **arguments)
    assert words in str(error.value)


def test_bad_sets_are_named_all_at_once():
    data = {"a": Dataset.from_list([{"x": 1}]), "b": Dataset.from_dict({"prompt": [], "completion": []}), "c": [1]}
    with pytest.raises(RequestError) as error:
        mix_data(data)  # type: ignore[arg-type]
    text = str(error.value)
    assert "datasets['a']" in text
    assert "datasets['b']" in text
    assert "datasets['c']" in text


def test_messages_must_end_with_the_assistant():
    data = {"a": Dataset.from_list([{"messages": [{"role": "user", "content": "Hello?"}]}])}
    with pytest.raises(RequestError, match="as the last turn"):
        mix_data(data)


def test_the_report_prints_itself(three):
    report = mix_data(three, size=12).report
    text = repr(report)
    assert "33.3%" in text
    assert "does not name them" in text
    assert report.to_dict()["drawn"] == {"helpfulness": 4, "honesty": 4, "harmlessness": 4}
