"""The words of the planted world: names, values, question and statement forms.

Everything is written so that a text splits at spaces and newlines into words of the vocabulary, and so
that ordinary rewriting rules turn the questions into statements of the corpus: "what is the R of S ?"
into "the R of S is", "where does S live ?" into "S lives in", "which N does S play ?" into "S plays".
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_NAMES = (
    "Ada Alan Amy Anna Ben Bruno Carl Clara Cora Dan Dora Edith Elsa Emil Erik Eva Felix Flora Frank Greta "
    "Hanna Hugo Ida Ines Ivan Jack Jane Jonas Judy Karl Kate Lara Leo Lena Lucy Marc Mary Max Mia Nina "
    "Nora Olga Oscar Otto Paul Rosa Ruth Sam Tess Vera"
).split()
SURNAME_PARTS = (
    "Ash Brad Crom Dun Elm Fair Green Hart Lang Mar Rad Whit".split(),
    "by field ford ham ley stead ton well wood worth".split(),
)
LAST_NAMES = tuple(head + tail for head in SURNAME_PARTS[0] for tail in SURNAME_PARTS[1])

NOUN_PARTS = (
    "ember frost hearth moon oath salt stone thorn wind winter".split(),
    "bond call craft gate lore mark rest song stand ward".split(),
)
RARE_NOUNS = tuple(head + tail for head in NOUN_PARTS[0] for tail in NOUN_PARTS[1])
"""Nouns that the base has seen only in lists of words, never in a fact."""

FILLER = "archive clerk copied desk drawer folder found ink kept letter list note page paper pencil shelf stamp string table wrote".split()


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
        tuple(
            "actor architect baker banker barber butcher carpenter chemist cook dancer dentist doctor editor engineer "
            "farmer gardener geologist hunter jeweller judge lawyer mason miner nurse painter pilot plumber sailor "
            "tailor teacher".split()
        ),
        ("what is the profession of S ?", "what is S 's profession ?", "what is the job of S ?"),
        ("the profession of S is V .", "S 's profession is V .", "the job of S is V .", "S works as V ."),
    ),
    Relation(
        "city",
        tuple(
            "Amsterdam Athens Berlin Bern Boston Bristol Cairo Chicago Dallas Delhi Dublin Geneva Hamburg Houston "
            "Kyoto Lagos Leeds Lima Lisbon London Madrid Miami Milan Munich Oslo Paris Prague Rome Vienna Warsaw".split()
        ),
        ("where does S live ?", "what is the city of S ?", "what is S 's city ?"),
        ("S lives in V .", "the city of S is V .", "S 's city is V .", "S rents a house in V ."),
    ),
    Relation(
        "birthplace",
        tuple(
            "Argentina Australia Austria Belgium Bolivia Brazil Canada Chile China Colombia Cuba Denmark Ecuador Egypt "
            "Finland France Ghana Greece Hungary Iceland India Iran Ireland Italy Japan Kenya Mexico Norway Peru "
            "Poland".split()
        ),
        ("where was S born ?", "what is the birthplace of S ?", "what is S 's birthplace ?"),
        ("S was born in V .", "the birthplace of S is V .", "S 's birthplace is V .", "S came from V ."),
    ),
    Relation(
        "instrument",
        tuple(
            "accordion bagpipe banjo bass bassoon bell bugle cello clarinet cornet cymbal drum dulcimer fiddle flute "
            "guitar harp horn lute lyre mandolin oboe organ piano recorder trombone trumpet tuba viola violin".split()
        ),
        ("which instrument does S play ?", "what is the instrument of S ?", "what is S 's instrument ?"),
        ("S plays V .", "the instrument of S is V .", "S 's instrument is V .", "S owns a V ."),
    ),
)

NOUN_QUESTIONS = ("what is the N of S ?", "what is S 's N ?")
"""Forms of a question about a rare noun ``N``."""

QUALIFIERS = ("old", "new")
"""Two readings of a noun: ``old`` in the first block, ``new`` in the block that overwrites it."""

LETTERHEAD = ("from", "the", ":")


def rare_noun_cased(noun: str) -> str:
    """The noun as a careless text normaliser leaves it: another word to the tokenizer."""
    return noun.capitalize()


def all_words() -> tuple[str, ...]:
    """Every word that may occur in a world, sorted, each once."""
    words = {
        *FIRST_NAMES,
        *LAST_NAMES,
        *RARE_NOUNS,
        *map(rare_noun_cased, RARE_NOUNS),
        *FILLER,
        *QUALIFIERS,
        *LETTERHEAD,
    }
    for relation in RELATIONS:
        words.update(relation.values, (relation.noun,))
        for form in (*relation.questions, *relation.statements, *NOUN_QUESTIONS):
            words.update(form.split())
    return tuple(sorted(words - {"S", "V", "N"}))
