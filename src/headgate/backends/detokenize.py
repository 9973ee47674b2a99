"""From token ids to text, as they come: no code point is ever cut, and no stop text ever leaks.

Text is decoded from bytes: a table gives each token's bytes, and an incremental UTF-8 decoder holds back what is not
yet a whole code point. So the pieces joined are the text of the whole, wherever the tokens cut it.
"""

import codecs
import json
from collections.abc import Sequence, Set
from typing import Any

from tokenizers import Tokenizer

from headgate.core.events import TokenLogprob


class Vocabulary:
    """The bytes each token stands for. Raises `ValueError` for a tokenizer whose tokens are not pieces of text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        decoders = _decoder_types(json.loads(tokenizer.to_str())["decoder"])
        self._byte_level = "ByteLevel" in decoders
        if not self._byte_level and not decoders & {"Metaspace", "Replace", "ByteFallback"}:
            raise ValueError(f"tokenizers with the decoder {sorted(decoders)} are not supported")
        self.strips_first_space = not self._byte_level and bool(decoders & {"Metaspace", "Strip"})
        size = tokenizer.get_vocab_size(with_added_tokens=True)
        self._bytes = [b""] * size
        for token, index in tokenizer.get_vocab(with_added_tokens=True).items():
            if index >= len(self._bytes):
                self._bytes.extend([b""] * (index + 1 - len(self._bytes)))
            self._bytes[index] = self._bytes_of(token)
        self.special: dict[int, str] = {}
        for index, added in tokenizer.get_added_tokens_decoder().items():
            self._bytes[index] = added.content.encode()
            if added.special:
                self.special[index] = added.content
        self.longest = max(map(len, self._bytes))
        """Bytes of the longest token."""

    def __len__(self) -> int:
        return len(self._bytes)

    def raw(self, token: int) -> bytes:
        """The token's own bytes, also of a special one; none for ids that no token has."""
        return self._bytes[token] if token < len(self._bytes) else b""

    def text(self, token: int) -> bytes:
        """What the token adds to the text: nothing where it is special."""
        return b"" if token in self.special else self.raw(token)

    def hidden(self, shown: Set[int]) -> Set[int]:
        """The special tokens but for those that are `shown`."""
        return self.special.keys() - shown if shown else self.special.keys()

    def logprob(self, token: int, value: float, top: Sequence[tuple[int, float]] = ()) -> TokenLogprob:
        raw = self.raw(token)
        alternatives = tuple(self.logprob(other, logprob) for other, logprob in top)
        return TokenLogprob(raw.decode("utf-8", "replace"), value, tuple(raw), alternatives)

    def _bytes_of(self, token: str) -> bytes:
        if self._byte_level:
            if all(character in _BYTE_OF for character in token):
                return bytes(_BYTE_OF[character] for character in token)
            return token.encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass
        return token.replace("\u2581", " ").encode()


def _decoder_types(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    inner = decoder.get("decoders", [])
    return {decoder["type"]}.union(*(_decoder_types(one) for one in inner)) if inner else {decoder["type"]}


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's bijection of bytes and printable characters: printable Latin-1 stands for itself, the rest move up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


_BYTE_OF = _byte_alphabet()


class Detokenizer:
    """One text. Bytes that can never become valid UTF-8 come out as U+FFFD, but only once that is certain."""

    def __init__(self, vocabulary: Vocabulary, *, at_start: bool = False, shown: Set[int] = frozenset()) -> None:
        """`at_start`: the text is a whole prompt, whose first space the tokenizer added itself.

        `shown` are special tokens whose text somebody reads, such as the markers of tool calls.
        """
        self._vocabulary = vocabulary
        self._hidden = vocabulary.hidden(shown)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip = at_start and vocabulary.strips_first_space

    def feed(self, token: int) -> str:
        data = b"" if token in self._hidden else self._vocabulary.raw(token)
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left at the end: U+FFFD where the text ends inside a code point."""
        return self._decoder.decode(b"", final=True)


class StopText:
    """Ends a text at the first of several stop texts to be complete; it is let through only where it is to be `kept`.

    Only what may be the beginning of a stop text is held back. The outcome does not depend on how the text is cut.
    """

    def __init__(self, stops: Sequence[str], *, kept: bool = False) -> None:
        self._kept = kept
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """What may be shown now. After `stopped` nothing more comes."""
        if self.stopped:
            return ""
        if not self._stops:
            return text
        self._held += text
        found = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            end, begin = min(found)
            shown, self._held = self._held[: end if self._kept else begin], ""
            return shown
        return self._release(len(self._held) - max(map(self._beginning, self._stops)))

    def flush(self) -> str:
        """What was held back, where the text ends without a stop."""
        return self._release(len(self._held))

    def _beginning(self, stop: str) -> int:
        """How many characters at the end of the held text are the beginning of `stop`."""
        for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
            if self._held.endswith(stop[:length]):
                return length
        return 0

    def _release(self, count: int) -> str:
        shown, self._held = self._held[:count], self._held[count:]
        return shown
