"""Text to fixed-length rows of token numbers: raw bytes, or SentencePiece trained on texts; 0 is padding."""

import base64
import io
from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jaxmeta.core.checks import InputError, check_positive


@runtime_checkable
class Tokenizer(Protocol):
    """What turns texts into rows of `length` token numbers in `[0, vocab_size)`, where 0 is padding."""

    @property
    def vocab_size(self) -> int:
        """How many token numbers there are, padding included."""
        ...

    @property
    def length(self) -> int:
        """How many tokens a row has; longer texts are cut."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the tokens of `texts` as int32 `[N, length]`."""
        ...

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Returns the texts of `tokens` `[N, M]`."""
        ...

    def state(self) -> dict[str, Any]:
        """Returns what `tokenizer_from_state` rebuilds it from; JSON can hold it."""
        ...

    def statistics(self, texts: Sequence[str]) -> dict[str, float]:
        """Returns `tokens_per_character`, `unknown_rate` (of tokens) and `truncation_rate` (of texts)."""
        ...

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Returns how many tokens each text has before it is cut."""
        ...


def _pad(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    out = np.zeros((len(rows), length), np.int32)
    for line, row in zip(out, rows, strict=True):
        row = row[:length]
        line[: len(row)] = row
    return out


def _statistics(texts: Sequence[str], counts: Sequence[int], unknown: int, length: int) -> dict[str, float]:
    characters, tokens = sum(map(len, texts)), sum(counts)
    return {
        "tokens_per_character": tokens / max(characters, 1),
        "unknown_rate": unknown / max(tokens, 1),
        "truncation_rate": sum(count > length for count in counts) / max(len(texts), 1),
    }


class ByteTokenizer:
    """UTF-8 bytes: byte `b` is token `b + 1`, so nothing is ever unknown and nothing is trained.

    A text that is too long is cut between bytes, possibly inside a character, which no byte model minds.
    """

    def __init__(self, length: int):
        check_positive("length", length)
        self.length = length
        self.vocab_size = 257

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the bytes of `texts` plus one as int32 `[N, length]`."""
        return _pad([np.frombuffer(t.encode(), np.uint8).astype(np.int32) + 1 for t in texts], self.length)

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Returns the texts of `tokens` `[N, length]`; a character cut at the end becomes U+FFFD."""
        return [bytes((row[row > 0] - 1).astype(np.uint8)).decode(errors="replace") for row in tokens]

    def state(self) -> dict[str, Any]:
        """Returns `{"kind": "bytes", "length": ...}`."""
        return {"kind": "bytes", "length": self.length}

    def statistics(self, texts: Sequence[str]) -> dict[str, float]:
        """Returns bytes per character, an unknown rate of 0 and the share of texts that are cut."""
        return _statistics(texts, self.lengths(texts), 0, self.length)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Returns how many bytes each text has before it is cut."""
        return [len(text.encode()) for text in texts]


class SentencePieceTokenizer:
    """Unigram subwords with byte fallback (Kudo & Richardson, 2018): what no piece covers is spelt in bytes.

    The model is held as bytes, so that a checkpoint can carry it. Rebuild one from `state()`, or `train` one.
    """

    def __init__(self, model: bytes, length: int):
        check_positive("length", length)
        import sentencepiece

        self.length = length
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)  # pyright: ignore[reportCallIssue]
        self.vocab_size = int(self._processor.vocab_size())

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, length: int, *, character_coverage: float = 0.9995
    ) -> "SentencePieceTokenizer":
        """Trains one, in one thread, so that the same texts in the same order give the same bytes.

        Args:
            texts: what to learn the pieces from: train rows of train languages, in an honest evaluation.
            vocab_size: how many pieces at most, of which 256 are bytes; small corpora give fewer.
            length: how many tokens a row has.
            character_coverage: the share of characters that get pieces of their own. It must be below 1, so
                that the rarest are spelt in bytes already in training; otherwise a new script meets untrained
                bytes.

        Raises:
            InputError: the texts and the vocabulary size do not fit.
        """
        check_positive("length", length)
        if not 0 < character_coverage < 1:
            raise ValueError(f"`character_coverage` must lie between 0 and 1, got {character_coverage}")
        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
                sentence_iterator=iter(texts),
                model_writer=model,
                vocab_size=vocab_size,
                hard_vocab_limit=False,
                character_coverage=character_coverage,
                byte_fallback=True,
                num_threads=1,
                pad_id=0,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                max_sentence_length=2**20,  # bytes; it skips longer texts
                minloglevel=2,
            )
        except RuntimeError as error:
            # What follows the place in its source, without the advice on its own options.
            reason = " ".join(str(error).split()).rpartition("] ")[2].partition(". Increase ")[0]
            raise InputError(
                f"SentencePiece cannot learn {vocab_size} pieces from these texts ({reason}); it needs "
                "some text, and room for 256 bytes, 2 special pieces and the characters."
            ) from error
        return cls(model.getvalue(), length)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the pieces of `texts` as int32 `[N, length]`."""
        return _pad([np.array(row, np.int32) for row in self._pieces(texts)], self.length)

    def decode(self, tokens: np.ndarray) -> list[str]:
        """Returns the texts of `tokens` `[N, length]`, in SentencePiece's normal form."""
        return [self._processor.decode(row[row > 0].tolist()) for row in tokens]

    def state(self) -> dict[str, Any]:
        """Returns `{"kind": "sentencepiece", "length": ..., "model": ...}`, the model in base64."""
        return {
            "kind": "sentencepiece",
            "length": self.length,
            "model": base64.b64encode(self.model).decode("ascii"),
        }

    def statistics(self, texts: Sequence[str]) -> dict[str, float]:
        """Returns tokens per character, and the shares of unknown tokens and of cut texts."""
        rows = self._pieces(texts)
        unknown = self._processor.unk_id()
        return _statistics(texts, [len(row) for row in rows], sum(row.count(unknown) for row in rows), self.length)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Returns how many pieces each text has before it is cut."""
        return [len(row) for row in self._pieces(texts)]

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts), out_type=int, num_threads=1)


def count_cut(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """Returns how many texts are longer than the tokenizer's rows, so that their ends are not read."""
    return sum(length > tokenizer.length for length in tokenizer.lengths(texts))


def tokenizer_from_state(state: dict[str, Any]) -> Tokenizer:
    """Rebuilds the tokenizer whose `state()` this is.

    Raises:
        InputError: the state is of no known kind, or damaged.
    """
    kind = state.get("kind")
    try:
        if kind == "bytes":
            return ByteTokenizer(int(state["length"]))
        if kind == "sentencepiece":
            return SentencePieceTokenizer(base64.b64decode(state["model"], validate=True), int(state["length"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"The stored {kind} tokenizer is damaged ({type(error).__name__}: {error}); use another checkpoint."
        ) from error
    raise InputError(f"The stored tokenizer is of the kind {kind!r}, which is not `bytes` or `sentencepiece`.")
