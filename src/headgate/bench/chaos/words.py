"""What the chaos upstream says: a function of the messages alone, the same words on every replica and every time."""

import hashlib

import msgspec

Turn = tuple[str, str]
"""Who spoke, and the text."""

_PLAIN = """
    water gate river mill stone wheel the of and a in it is on flow turn open shut level lock weir dam canal
    stream bank bridge boat reed heron rain spring source mouth delta tide ebb flood drop wave pool still
"""
WORDS = (*_PLAIN.split(), '"so"', "back\\slash", "new\nline", "it's", "x<y", "a, b:")
WIDE = ("🙂", "日本語", "naïve", "👩‍🚀", "Ωmega", "€9", "𝒳", "cafés")
"""Every eighth word is one of these, of characters of two to four bytes."""
_ALL = (*WORDS, *WIDE)
FIRST = tuple(msgspec.json.encode(word) for word in _ALL)
"""As JSON strings, as they begin an answer."""
LATER = tuple(msgspec.json.encode(" " + word) for word in _ALL)

MOST = 100_000
"""Words of one answer at most."""


class Voice:
    """The endless answer to some turns; `salt` makes another answer of the same turns.

    The answer of n words is the beginning of that of n + 1 words.
    """

    __slots__ = ("_digest", "marker")

    def __init__(self, turns: tuple[Turn, ...], salt: str = "", marker: str = "") -> None:
        text = "\x1e".join(f"{role}\x1f{said}" for role, said in turns)
        self._digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=salt.encode()[:64]).digest()
        self.marker = marker
        """What the answer begins with, so that a caller can tell its own."""

    @property
    def name(self) -> str:
        """Twelve hexadecimal digits, for the answer's id."""
        return self._digest[:6].hex()

    def length(self) -> int:
        """Words until the answer ends by itself."""
        return 16 + self._digest[63] % 24

    def _index(self, place: int) -> int:
        digest = self._digest
        mixed = digest[place & 63] + digest[(place >> 6) & 63] * 7 + place * 5
        return len(WORDS) + (mixed >> 3) % len(WIDE) if place & 7 == 3 else mixed % len(WORDS)

    def word(self, place: int) -> str:
        if place == 0:
            return self.marker or _ALL[self._index(0)]
        return " " + _ALL[self._index(place)]

    def json(self, place: int) -> bytes:
        """The same word as a JSON string."""
        if place == 0:
            return msgspec.json.encode(self.marker) if self.marker else FIRST[self._index(0)]
        return LATER[self._index(place)]

    def text(self, words: int) -> str:
        return "".join(map(self.word, range(words)))

    def after(self, prefix: str) -> tuple[str, int] | None:
        """What is left of the word in which `prefix` ends, and the place of the word after it.

        None where the answer does not begin with `prefix`.
        """
        said, place = "", 0
        while len(said) < len(prefix) and place < MOST:
            word = self.word(place)
            if not prefix.startswith(word, len(said)) and not word.startswith(prefix[len(said) :]):
                return None
            said += word
            place += 1
        return said[len(prefix) :], place
