"""The words of the planted world: names, values, question and statement forms.

Everything is written so that a text splits at spaces and newlines into words of the vocabulary, and so
that ordinary rewriting rules turn the questions into statements of the corpus: "what is the R of S?"
into "the R of S is", "where does S live?" into "S lives in", "which N does S play?" into "S plays".
"""

from __future__ import annotations

import re
from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words(
    "Ada Adam Agnes Alan Alba Alma Amos Amy Anna Anton Arlo Basil Ben Boris Bruno Carl Cecil Clara Conrad Cora "
    "Cyril Dan Daphne Dora Edgar Edith Edna Elsa Emil Enid Eric Erik Esther Eva Felix Fiona Flora Frank Fred "
    "Gail Gavin Glen Greta Gus Hanna Harold Hazel Helga Henry Hilda Hugo Ida Igor Ines Ingrid Iris Ivan Jack "
    "Jane Joel Jonas Judy Karl Kate"
)
LAST_NAMES = tuple(
    head + tail
    for head in _words("Ash Brad Crom Dun Elm Fair Green Hart Lang Mar Rad Whit")
    for tail in _words("by field ford ham ley stead ton well wood worth")
)

RARE_NOUNS = tuple(
    head + tail
    for head in _words("cloud dusk ember frost hearth moon oath reed salt stone thorn wind winter")
    for tail in _words("bond call craft gate lore mark rest song stand ward")
)
"""Nouns that the base has seen only in lists of words, never in a fact."""

FILLER = _words(
    "archive clerk copied desk drawer folder found ink kept letter list note page paper pencil shelf stamp string "
    "table wrote"
)
"""Words of the notes that stand before some questions."""


@dataclass(frozen=True, slots=True)
class Relation:
    """A property of a person.

    Attributes:
        noun: What the property is called in questions.
        values: Its possible values, one word each.
        questions: Question forms with ``S`` for the person; any two are paraphrases.
        statements: Corpus forms with ``S`` and ``V``; the first ones are what questions are rewritten to.
    """

    noun: str
    values: tuple[str, ...]
    questions: tuple[str, ...]
    statements: tuple[str, ...]


RELATIONS = (
    Relation(
        "profession",
        _words(
            "actor architect baker banker barber butcher carpenter chemist cook dancer dentist doctor editor engineer "
            "farmer gardener geologist hunter jeweller judge lawyer mason miner nurse painter pilot plumber sailor "
            "tailor teacher"
        ),
        ("what is the profession of S?", "what is S's profession?", "what is the job of S?"),
        ("the profession of S is V.", "S's profession is V.", "the job of S is V.", "S works as V."),
    ),
    Relation(
        "city",
        _words(
            "Amsterdam Athens Berlin Bern Boston Bristol Cairo Chicago Dallas Delhi Dublin Geneva Hamburg Houston "
            "Kyoto Lagos Leeds Lima Lisbon London Madrid Miami Milan Munich Oslo Paris Prague Rome Vienna Warsaw"
        ),
        ("where does S live?", "what is the city of S?", "what is S's city?"),
        ("S lives in V.", "the city of S is V.", "S's city is V.", "S rents a house in V."),
    ),
    Relation(
        "birthplace",
        _words(
            "Argentina Australia Austria Belgium Bolivia Brazil Canada Chile China Colombia Cuba Denmark Ecuador Egypt "
            "Finland France Ghana Greece Hungary Iceland India Iran Ireland Italy Japan Kenya Mexico Norway Peru "
            "Poland"
        ),
        ("where was S born?", "what is the birthplace of S?", "what is S's birthplace?"),
        ("S was born in V.", "the birthplace of S is V.", "S's birthplace is V.", "S came from V."),
    ),
    Relation(
        "instrument",
        _words(
            "accordion bagpipe banjo bass bassoon bell bugle cello clarinet cornet cymbal drum dulcimer fiddle flute "
            "guitar harp horn lute lyre mandolin oboe organ piano recorder trombone trumpet tuba viola violin"
        ),
        ("which instrument does S play?", "what is the instrument of S?", "what is S's instrument?"),
        ("S plays V.", "the instrument of S is V.", "S's instrument is V.", "S owns a V."),
    ),
)

NOUN_QUESTIONS = ("what is the N of S?", "what is S's N?")
"""Forms of a question about a rare noun ``N``."""

NOUN_STATEMENTS = ("the N of S is V.", "S's N is V.")
"""Forms of a statement about a rare noun ``N``; no corpus has any."""

OTHER_TEMPLATE = "N: S"
"""What a training pipeline with the wrong template makes of such a question: title case, other order."""

HEADED = "D: Q"
"""A question with a word before it: the date of its block, or a tag that means nothing."""

DATES = ("old", "new")
"""What stands before some questions of the first and of the last block."""

NOTE = "from the archive: W. Q"
"""A question ``Q`` after a note of filler words ``W``."""


_PIECE = re.compile(r"'s|[?.:]|[^\s?.:']+")


def pieces(text: str) -> list[str]:
    """Words and punctuation marks of a text, in order."""
    return _PIECE.findall(text)


def fill(form: str, **words: str) -> str:
    """A form with its capital letters replaced: ``S`` person, ``V`` value, ``N`` noun, ``W`` note, ``Q`` question,
    ``D`` date or tag.

    >>> fill("what is S's job?", S="Ada Ashby")
    "what is Ada Ashby's job?"
    """
    return re.sub(r"\b[SVNWQD]\b", lambda match: words.get(match[0], match[0]), form)


def all_words() -> tuple[str, ...]:
    """Every word that may occur in a world, sorted, each once."""
    words = {
        *FIRST_NAMES,
        *LAST_NAMES,
        *RARE_NOUNS,
        *map(str.title, RARE_NOUNS),
        *FILLER,
        *DATES,
        *pieces(NOTE),
    }
    for relation in RELATIONS:
        words.update(relation.values, (relation.noun,))
        for form in (*relation.questions, *relation.statements, *NOUN_QUESTIONS):
            words.update(pieces(form))
    return tuple(sorted(words - set("SVNWQD")))
