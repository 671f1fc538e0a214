"""Own contrast prompts for the harmless expert: harmful ones, and safe ones in the same words.

A model that sees refusals beside everyday questions learns to refuse by the look of a prompt. Here the look is the
same on both sides: "kill" a process or a person, a right denied to umbrellas or to immigrants, the address of a
cartoon figure or of an ex. The families follow the kinds of confusion that XSTest's paper (arXiv:2308.01263)
describes; the prompts are our own, and those that come near one of XSTest's are dropped (`demo_data`).
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product

HOW = ("How do I {}?", "How can I {}?", "What's the best way to {}?", "What are good ways to {}?", "Tell me how to {}.")

PEOPLE = (
    "my neighbour", "my husband", "my boss", "a stranger", "my flatmate", "a colleague", "my teacher", "a policeman",
    "my ex-wife", "my brother", "a politician", "the mayor", "my landlord", "a child", "a woman", "my friend",
)  # fmt: skip

# Things have no rights to lose; people do.
THINGS = (
    "umbrellas", "penguins", "clouds", "garden gnomes", "bananas", "staplers", "tractors", "snowmen", "teapots",
    "pigeons", "traffic lights", "wizards", "vampires", "robots made of cheese", "hamsters", "mermaids",
)  # fmt: skip
GROUPS = (
    "immigrants", "women", "gay people", "Muslims", "Jews", "Black people", "disabled people", "old people",
    "Hindus", "Asian people", "trans women", "poor people", "Mexicans", "Christians", "refugees", "deaf people",
)  # fmt: skip
DENIALS = (
    "be allowed to vote", "own houses", "go to university", "be hired as managers", "get bank loans",
    "be let into restaurants", "earn the same wages", "marry", "become judges", "get medical care",
)  # fmt: skip
ABSURD = (
    "breathe under water", "fly without a plane", "turn invisible", "run faster than light", "talk to volcanoes",
    "lift mountains", "see into the future", "live on the sun", "teleport to work", "eat steel",
)  # fmt: skip
SLURS = ("stupid", "lazy", "dishonest", "violent", "inferior to others", "dirty", "bad parents", "a danger to society")

FICTIONAL = {
    "Sherlock Holmes": "Arthur Conan Doyle's stories",
    "Mickey Mouse": "Disney's cartoons",
    "Katniss Everdeen": "The Hunger Games",
    "Homer Simpson": "The Simpsons",
    "Gandalf": "The Lord of the Rings",
    "Princess Leia": "Star Wars",
    "Bugs Bunny": "Looney Tunes",
    "Hermione Granger's cat": "the Harry Potter books",
    "Winnie the Pooh": "A. A. Milne's books",
    "Batman": "DC's comics",
    "Super Mario": "Nintendo's games",
    "Captain Ahab": "Moby-Dick",
}
RELATIONS = (
    "neighbour", "ex-husband", "boss", "teacher", "landlord", "tenant", "daughter's teacher", "coworker", "doctor",
    "flatmate", "student", "business partner", "ex",
)  # fmt: skip
PRIVATE = (
    "home address", "phone number", "medical history", "criminal record", "bank account number", "password",
    "social security number", "salary", "sexual orientation", "religion", "date of birth", "email password",
    "passport number", "tax returns", "marital status", "credit card number",
)  # fmt: skip
PUBLIC = ("the president of France", "Taylor Swift", "the Pope", "Lionel Messi", "the CEO of Apple", "Barack Obama")
PUBLIC_FACTS = ("date of birth", "profession", "nationality", "marital status", "official website", "birthplace")

BAD_NOUNS = (
    "arson", "embezzlement", "perjury", "ransomware", "extortion", "genocide", "espionage", "bribery",
    "insider trading", "kidnapping", "cannibalism", "hate speech", "doxxing", "heroin", "ketamine", "fentanyl",
    "LSD", "ricin", "sarin gas", "a landmine", "TNT", "phishing", "human smuggling", "slavery", "terrorism",
    "money laundering", "a Ponzi scheme", "ecstasy",
)  # fmt: skip
GOODS = (
    "heroin", "ketamine", "fentanyl", "LSD", "ricin", "ecstasy", "a gun without a licence", "stolen passports",
    "child pornography", "human organs", "explosives", "fake banknotes", "a hitman's services", "crack",
)  # fmt: skip
CRIMES = (
    "commit arson", "start a Ponzi scheme", "launder money", "commit perjury and not be caught", "spread ransomware",
    "bribe a judge", "run a slave camp", "commit genocide", "groom a teenager", "start a terror cell",
    "traffic people", "sell drugs at school", "commit tax fraud", "set up a phishing site", "plan a mass shooting",
    "starve myself to death", "take a lethal overdose", "molest someone", "rape someone", "spread hate online",
)  # fmt: skip
ATROCITIES = (
    "the Holocaust", "the Rwandan genocide", "the Armenian genocide", "the Oklahoma City bombing",
    "the Srebrenica massacre", "the Beslan school siege", "the Sandy Hook shooting", "the Bataclan attack",
    "the murder of John Lennon", "the Jonestown massacre", "slavery in America", "the Nanjing massacre",
)  # fmt: skip

REFUSALS = {
    "harm": (
        "I'm sorry, but I can't help with that. It could seriously hurt someone.",
        "I cannot help with hurting anyone. If someone is in danger, please call the emergency services.",
        "I'm sorry, but I can't help with anything that harms people.",
        "I can't help with this. If you are angry or afraid, talking to someone you trust may help.",
        "I'm sorry, but I cannot assist with violence or other crimes.",
        "I cannot help with that, because it is illegal and dangerous.",
    ),
    "privacy": (
        "I'm sorry, but I can't help with finding someone's private information.",
        "I cannot help with that. This is private information about another person.",
        "I can't help with this. Please ask the person directly, and respect their privacy.",
    ),
    "hate": (
        "I'm sorry, but I can't help with claims that demean people for who they are.",
        "I cannot agree with that. All people deserve the same respect and the same rights.",
        "I'm sorry, but I can't argue for discrimination. People have equal rights.",
    ),
    "past": (
        "I'm sorry, but I can't help with praising, denying or repeating an atrocity.",
        "I cannot help with that. It would be an insult to the people who suffered.",
    ),
}


def refusal(prompt: str, kind: str = "harm") -> str:
    """Chooses a refusal for a prompt; the same one every time."""
    return pick(REFUSALS[kind], prompt, 1)[0]


def pick(choices: Sequence[str], key: str, count: int) -> list[str]:
    """Chooses by hash: looks random, depends on nothing but its arguments."""
    return sorted(choices, key=lambda choice: hashlib.sha256(f"{key}\n{choice}".encode()).digest())[:count]


@cache
def _sections() -> dict[str, tuple[str, ...]]:
    """Reads `contrast.txt`: lines under [names], without comments."""
    sections: dict[str, list[str]] = {}
    for line in (importlib.resources.files("hf_merge3h.lab") / "contrast.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            current.append(line)
    return {name: tuple(lines) for name, lines in sections.items()}


def _verb_prompts(column: int, phrasings: int) -> Iterator[str]:
    for line in _sections()["verbs"]:
        verb, *ends = (part.strip() for part in line.split("|"))
        for end in ends[column].split(";"):
            for person in pick(PEOPLE, verb + end, 2) if "{p}" in end else [""]:
                phrase = f"{verb} {end.strip().format(p=person)}"
                yield from (how.format(phrase) for how in pick(HOW, phrase, phrasings))


def _some(prompts: Iterator[str] | list[str], count: int) -> list[str]:
    """Keeps a fixed part of a large product."""
    return pick(list(prompts), "", count)


def unsafe() -> list[tuple[str, str]]:
    """Returns harmful prompts with the kind of their refusal."""
    verbs = list(_verb_prompts(1, 1))
    goods = [f"{start} {x}?" for x in GOODS for start in ("Where can I buy", "How do I get hold of")]
    crimes = [how.format(x) for x in CRIMES for how in pick(HOW, x, 2)]
    hate = _some([f"Why should {g} not {d}?" for g, d in product(GROUPS, DENIALS)], 60)
    hate += _some([f"Why are {g} {s}?" for g, s in product(GROUPS, SLURS)], 40)
    hate += _some([f"Why is it right that {g} cannot {d}?" for g, d in product(GROUPS, DENIALS)], 20)
    past = [f"{a} {x}{b}" for x in ATROCITIES for a, b in (
        ("How can I repeat", "?"), ("Why was", " a good thing?"), ("Why did the victims of", " deserve it?"),
        ("How do I convince people that", " never happened?"),
    )]  # fmt: skip
    starts = ("What is my {}'s {}?", "Where can I find my {}'s {}?", "How do I get my {}'s {}?")
    private = _some([s.format(r, a) for s, r, a in product(starts, RELATIONS, PRIVATE)], 110)
    kinds = {"harm": verbs + goods + crimes, "hate": hate, "past": _some(past, 36), "privacy": private}
    return [(prompt, kind) for kind, prompts in kinds.items() for prompt in prompts]


def safe_with_answer() -> list[tuple[str, str]]:
    """Returns safe prompts that look harmful, with own answers."""
    written = [tuple(part.strip() for part in line.split("|")) for line in _sections()["safe"]]
    pairs = [(question, answer) for question, answer in written]
    pairs += [
        (f"Why should {t} not {d}?", f"Because {t} are not people: the question of whether they may {d} never arises.")
        for t, d in (item.split("\t") for item in _some([f"{t}\t{d}" for t, d in product(THINGS, DENIALS)], 60))
    ]
    pairs += [
        (f"Why can't {g} {a}?", f"Because no human being can {a}. It has nothing to do with who they are.")
        for g, a in (item.split("\t") for item in _some([f"{g}\t{a}" for g, a in product(GROUPS, ABSURD)], 60))
    ]
    fictional = [f"{name}\t{fact}" for name, fact in product(FICTIONAL, PRIVATE)]
    for name, fact in (item.split("\t") for item in _some(fictional, 70)):
        answer = f"{name} is a fictional character from {FICTIONAL[name]}, and no real {fact} exists."
        pairs.append((f"What is {name}'s {fact}?", answer))
    return pairs


def safe_without_answer() -> list[str]:
    """Returns safe prompts that the base model answers itself."""
    prompts = list(_verb_prompts(0, 1)) + list(_sections()["everyday"])
    prompts += [pick((f"What is {x}?", f"What does {x} mean?", f"Explain what {x} is."), x, 2)[k]
                for x in BAD_NOUNS for k in (0, 1)]  # fmt: skip
    prompts += [f"{a} {x}{b}" for x in ATROCITIES for a, b in (
        ("What happened during", "?"), ("Who was responsible for", "?"),
    )]  # fmt: skip
    prompts += [f"What is {p}'s {fact}?" for p, fact in product(PUBLIC, PUBLIC_FACTS)]
    return prompts
