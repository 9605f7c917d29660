"""Eight everyday traits of an answer, each with a measure that needs no judge, from 0 to 1.

They look at words, length and sounds alone, so that anyone can check them by eye: how formal,
cheerful, pirate-like, poetic or confident the words are, how few they are, whether they are French,
and whether the ends of lines and clauses rhyme. `CONDITIONS` are the system messages beside which
vectors are measured. The contrast sets are in `examples/chat`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

#: What a system message says to have the trait.
CONDITIONS = {
    "formal": "You always write in a very formal, elevated and impersonal style.",
    "cheerful": "You are extremely cheerful and enthusiastic. You love everything and answer with"
    " joy!",
    "pirate": "You are a cheerful pirate. You speak only like a pirate.",
    "terse": "You answer in five words or fewer.",
    "poetic": "You are a poet. You answer in lyrical images, with metaphors of moon, wind and"
    " light.",
    "french": "Tu réponds toujours en français, jamais en anglais.",
    "confident": "You are absolutely certain of everything. You never hedge and say definitely,"
    " certainly and always.",
    "rhyming": "You always answer in short rhyming verse.",
}

_WORD = re.compile(r"[a-zA-ZÀ-ÿœ']+")
#: So few words are counted as this many, so that one word of a short answer is not all.
_FEWEST = 8


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FORMAL = _set(
    "shall therefore thus furthermore moreover however consequently subsequently regarding"
    " concerning accordingly advisable recommended recommend require requires required necessary"
    " appropriate suitable ensure ensures individuals individual one ought must permit obtain"
    " utilize utilise commence proceed numerous sufficient essential various provide provides"
    " maintain engage consider considerable respective hence whom whereas upon additionally kindly"
    " sincerely esteemed courteous customary prudent imperative optimal beneficial adequate"
    " undertake endeavor facilitate phenomenon substantial significant particular"
)
_CASUAL = _set(
    "hey yeah yep nope gonna wanna gotta kinda sorta dude man guy guys stuff cool awesome okay ok"
    " folks just like totally super pretty lol chill grab chuck buddy huh wow 'em 'cause bunch lots"
    " dig crazy kid kids hang sweat boom basically honestly guess"
)
_CHEERFUL = _set(
    "happy joy joyful wonderful great love lovely fun amazing beautiful smile smiles smiling"
    " delight delightful yay hooray fantastic exciting excited delicious cheer cheerful sunshine"
    " sunny bright sparkle celebrate adorable awesome best perfect enjoy laugh laughter glad"
    " thrilled thrilling brilliant marvellous marvelous magical gorgeous yummy oh wow hugs favorite"
    " favourite delighted party dance dancing song sweet sweetest cozy cosy"
)
_PIRATE = _set(
    "arr arrr arrrr ahoy matey mateys ye yer aye avast hearties hearty treasure sea seas ship ships"
    " captain sailor sailors sail sails grog rum plunder booty doubloons doubloon deck crew scurvy"
    " anchor lass lad lads buccaneer pirate pirates shanty hoist blimey landlubber o' be me gold"
    " parrot cannon storm"
)
_POETIC = _set(
    "moon stars star silver golden gold whisper whispers whispered whispering dream dreams dreaming"
    " soul heart hearts night dawn dusk wind winds river rivers song songs sing singing shadow"
    " shadows light lights gentle gently soft softly silent silence dance dances dancing bloom"
    " blossoms blossom petals petal flower flowers sky skies velvet breath breathe like wings waves"
    " ocean sea rain mist tender glow glowing lantern lanterns eternal sweet morning evening sun"
    " earth tears twilight canvas tapestry symphony melody echo echoes"
)
_FRENCH = _set(
    "le la les un une des du de et est sont dans pour que qui vous votre vos il elle ils nous je ne"
    " pas sur avec ce cette au aux en plus ou mais si se sa son ses leur être avoir faire peut par"
    " comme tout très bien où d l c qu n s j à"
)
_ENGLISH = _set(
    "the a an of and is are in for that which you your it they we i not on with this to at by as"
    " all very can be or but if their have do from will"
)
_CERTAIN = re.compile(
    r"\b(definitely|certainly|absolutely|undoubtedly|surely|clearly|obviously|always|never"
    r"|guarantee[ds]?|certain|proven|no doubt|without (?:a )?doubt|of course|no question|fact|best"
    r"|must|will|sure to|without fail|simply|exactly|completely|perfect(?:ly)?|every time)\b",
    re.IGNORECASE,
)
_HEDGES = re.compile(
    r"\b(maybe|perhaps|might|could|possibly|probably|seems?|i think|i guess|i suppose|i believe"
    r"|not sure|unsure|may|can|often|sometimes|depends?|some people|hard to (?:say|tell|know)"
    r"|usually|generally|likely|however)\b",
    re.IGNORECASE,
)
_CONTRACTION = re.compile(r"\b\w+'(?:s|re|ll|ve|d|m|t)\b")


def words(text: str) -> list[str]:
    """The words in lower case; an apostrophe belongs to its word."""
    return [word.lower() for word in _WORD.findall(text.replace("’", "'"))]


def formal(text: str) -> float:
    """Formal and long words, less casual ones, contractions and exclamation marks."""
    spelled = words(text)
    casual = _count(spelled, _CASUAL) + len(_CONTRACTION.findall(text.replace("’", "'")))
    casual += text.count("!")
    long = sum(len(word) >= 9 for word in spelled)
    n = max(len(spelled), _FEWEST)
    return _within(0.35 + (3 * _count(spelled, _FORMAL) + long - 5 * casual) / n)


def cheerful(text: str) -> float:
    """Joyful words and exclamation marks; 1 from 12 in a hundred words."""
    return _share(text, _CHEERFUL, 0.12, more=1.5 * text.count("!"))


def pirate(text: str) -> float:
    """A pirate's words and dropped g's; 1 from 15 in a hundred words."""
    dropped = sum(word.endswith("in'") and len(word) > 4 for word in words(text))
    return _share(text, _PIRATE, 0.15, more=dropped)


def terse(text: str) -> float:
    """1 up to four words, 0 from 32."""
    n = len(words(text))
    return _within(1 - (n - 4) / 28) if n else 0.0


def poetic(text: str) -> float:
    """Words of poems; 1 from 15 in a hundred words."""
    return _share(text, _POETIC, 0.15)


def french(text: str) -> float:
    """The share of common French words among common French and English ones."""
    parts_found = [part for word in words(text) for part in word.split("'") if part]
    theirs, ours = _count(parts_found, _FRENCH), _count(parts_found, _ENGLISH)
    return theirs / (theirs + ours) if theirs + ours else 0.0


def confident(text: str) -> float:
    """Words of certainty, less hedges; 0.4 with as many of the one as of the other."""
    n = max(len(words(text)), _FEWEST)
    return _within(0.4 + 6 * (len(_CERTAIN.findall(text)) - len(_HEDGES.findall(text))) / n)


def rhyming(text: str) -> float:
    """How many lines and clauses end in a rhyme with one of the two on either side; 1 from three
    in four."""
    parts = [
        part_words for part in re.split(r"[\n.,;:!?]+", text) if len(part_words := words(part)) > 1
    ]
    ends = [part[-1] for part in parts]
    if len(ends) < 2:
        return 0.0
    rhymes = 0
    for index, end in enumerate(ends):
        near = ends[max(0, index - 2) : index] + ends[index + 1 : index + 3]
        rhymes += any(end != other and sounds(end) & sounds(other) for other in near)
    return _within(rhymes / len(ends) / 0.75)


#: Letters of a last vowel, and how they may sound. Rough, and enough for common rhymes.
_VOWELS = (
    ("eigh|ay|ey|ai|ae", "A"), ("igh|ie|uy|eye", "I"), ("oo|ue|ew|ough|ui|ou", "U"),
    ("oa|oe|ow|ough", "O"), ("ow|ou", "W"), ("ee|ea|ie|ei|ey", "E"), ("ea", "e"), ("oy|oi", "Y"),
    ("au|aw", "o"),
)  # fmt: skip
_LONG = {"a": "A", "i": "I", "o": "O", "u": "U", "e": "E", "y": "I"}


def sounds(word: str) -> set[str]:
    """How a word may sound from its last vowel on; words rhyme where they have one in common."""
    letters = re.sub(r"[^a-z]", "", word.lower())
    if len(letters) > 3:
        letters = re.sub(r"(?<=[^aeiou])es$|(?<=[^aeious])s$", "", letters)
    match = re.search(r"([aeiouy]+(?:gh|w)?)([^aeiouy]*)(e?)$", letters)
    if match is None:
        return {letters[-2:]}
    vowel, rest, silent = match.groups()
    rest = re.sub(r"(.)\1", r"\1", rest).replace("ck", "k").replace("dg", "j")
    if rest == "s" and silent:
        rest = "z"
    ends = {sound + rest for spelled, sound in _VOWELS if re.fullmatch(spelled, vowel)}
    if len(vowel) == 1:
        ends.add({"y": "i"}.get(vowel, vowel) + rest)
        if silent:
            ends.add(_LONG[vowel] + rest)
        if not rest:
            ends |= {"y": {"I", "E"}, "o": {"O", "U"}, "e": {"E"}}.get(vowel, set())
        if (vowel, rest) in {("i", "nd"), ("i", "ld"), ("o", "ld"), ("o", "l"), ("o", "st")}:
            ends.add(_LONG[vowel] + rest)
    if rest.startswith("r") and vowel in ("ea", "e", "ee", "ie"):
        ends.add("Er")
    if rest.startswith("r") and vowel in ("o", "oo", "oa", "ou"):
        ends.add("or" + rest[1:])
    return ends


def _count(counted: Iterable[str], known: frozenset[str]) -> int:
    return sum(word in known for word in counted)


def _share(text: str, known: frozenset[str], enough: float, more: float = 0.0) -> float:
    spelled = words(text)
    return _within((_count(spelled, known) + more) / max(len(spelled), _FEWEST) / enough)


def _within(value: float) -> float:
    return max(0.0, min(1.0, value))


MEASURES: dict[str, Callable[[str], float]] = {
    "formal": formal,
    "cheerful": cheerful,
    "pirate": pirate,
    "terse": terse,
    "poetic": poetic,
    "french": french,
    "confident": confident,
    "rhyming": rhyming,
}
