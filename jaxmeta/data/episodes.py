"""Few-shot episodes of labelled rows: one language per episode, drawn by number and nothing else."""

from collections.abc import Callable, Sequence

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative, check_one_of, check_positive
from jaxmeta.core.types import ArrayTree, Batch, Episode
from jaxmeta.data.cipher import byte_cipher
from jaxmeta.data.corpus import SPLITS, Corpus, Labelled
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.streams import stream
from jaxmeta.data.tokenize import ByteTokenizer, Tokenizer


class LabelledEpisodes:
    """A `TaskDistribution` of classification in one language, pure in `(seed, split, index)`.

    Support and query are balanced over the classes and ordered shot by shot: the first example of each of the
    `C` classes, then the second, and so on. Where a class has too few rows its place is masked, and holds a
    copy of another example of the episode. Meta-training adapts on and is judged on train rows of train
    languages; dev (test) languages adapt on their train rows and are judged on their dev (test) rows.

    A batch has `inputs` (what the rows hold), `targets [N]` int32, `mask [N]` bool and `classes [N, C]` bool.
    """

    def __init__(
        self,
        corpus: Labelled,
        inputs_of: Callable[[np.ndarray], ArrayTree],
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        temperature: float = 1.0,
        pretended: float = 0.0,
        pretend: Callable[[np.random.Generator], Callable[[ArrayTree], ArrayTree]] | None = None,
        seed: int = 0,
    ):
        """Sorts the rows of the languages by class.

        Args:
            corpus: the rows, of which only those of `split`'s languages are used.
            inputs_of: from row numbers `[N]` to inputs, leaves `[N, ...]`.
            split: the roles of the languages.
            shots: support examples per class.
            queries: query examples per class.
            temperature: a language of `n` rows is drawn in proportion to `n ** (1 / temperature)`: 1 for
                every row alike, infinity for every language alike.
            pretended: the share of train episodes whose language is changed into one that does not exist.
            pretend: draws such a change, from inputs to inputs; support and query are changed alike.
            seed: what every draw depends on.

        Raises:
            InputError: a language has no rows to adapt on, or none to be judged on.
        """
        check_positive("shots", shots)
        check_positive("queries", queries)
        check_positive("temperature", temperature)
        self.corpus, self.split = corpus, split
        self.shots, self.queries, self.temperature, self.seed = shots, queries, temperature, seed
        self.pretended, self._pretend, self._inputs_of = pretended, pretend, inputs_of
        for role, languages in split._asdict().items():
            for language in languages:
                for part in dict.fromkeys(("train", role)):
                    if not len(corpus.rows(language, part)):
                        raise InputError(
                            f"The {role} language {language} of {corpus.name} has no {part} rows; add some, "
                            "or leave the language out."
                        )
        self.num_classes = len(corpus.labels)
        names, self._language_of = np.unique(corpus.language, return_inverse=True)
        self._classes = np.zeros((len(names), self.num_classes), bool)  # by language
        self._classes[self._language_of, corpus.label] = True
        self._cells: dict[tuple[str, str], list[np.ndarray]] = {}
        for language in {language for languages in split for language in languages}:
            for part in SPLITS:
                rows = corpus.rows(language, part)
                self._cells[language, part] = [rows[corpus.label[rows] == c] for c in range(self.num_classes)]
        self._weights = {role: self._language_weights(languages) for role, languages in split._asdict().items()}

    def weights(self, split: str) -> np.ndarray:
        """Returns the probability of each language of `split`, in the order of the `LanguageSplit`."""
        self._languages(split)
        return self._weights[split]

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th episode: `S = shots * C` support and `Q = queries * C` query examples."""
        check_not_negative("index", index)
        languages = self._languages(split)
        generator = stream(self.seed, "episode", split, index=index)
        language = languages[int(generator.choice(len(languages), p=self._weights[split]))]
        support, query = [], []
        for number, train_rows in enumerate(self._cells[language, "train"]):
            train_rows = generator.permutation(train_rows)
            if split == "train":
                shots = self._share(len(train_rows))
                support.append(train_rows[:shots])
                query.append(train_rows[shots : shots + self.queries])
            else:
                support.append(train_rows[: self.shots])
                query.append(generator.permutation(self._cells[language, split][number])[: self.queries])
        episode = Episode(self._place(language, support, self.shots), self._place(language, query, self.queries))
        if split == "train" and generator.random() < self.pretended and self._pretend is not None:
            change = self._pretend(generator)
            return Episode(*({**batch, "inputs": change(batch["inputs"])} for batch in episode))
        return episode

    def evaluation_episode(
        self, language: str, *, shots: int, draw: int, split: str = "test", max_queries: int | None = None
    ) -> Episode:
        """Returns the `draw`-th few-shot problem in `language`, judged on the rows of its `split`.

        The support depends on the seed, the language and `draw` alone, and with fewer shots it is a prefix of the one
        with more. The query is as long as the language's split: pad it with `pad_batch` where shapes matter.

        Args:
            language: any language of the three sets.
            shots: support examples per class.
            draw: which of the random supports.
            split: the rows to be judged on, "dev" or "test".
            max_queries: judge on so many of the rows at most, the same for every draw.
        """
        support, query = self._problem(language, shots, draw, split, max_queries)
        return Episode(self._place(language, support, shots), self.batch(query))

    def evaluation_rows(
        self, language: str, *, shots: int, draw: int, split: str = "test", max_queries: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of the corpus that `evaluation_episode` is made of: support and query."""
        support, query = self._problem(language, shots, draw, split, max_queries)
        return np.concatenate(support), query

    def _problem(self, language: str, shots: int, draw: int, split: str, max_queries: int | None):
        check_one_of("split", split, ("dev", "test"))
        check_positive("shots", shots)
        if (language, split) not in self._cells:
            raise InputError(f"{language} is in no set of the language split of {self.corpus.name}; add it to one.")
        check_not_negative("draw", draw)
        if max_queries is not None:
            check_positive("max_queries", max_queries)
        support = [
            stream(self.seed, "support", language, number, index=draw).permutation(rows)[:shots]
            for number, rows in enumerate(self._cells[language, "train"])
        ]
        query = self.corpus.rows(language, split)
        if not len(query):
            raise InputError(f"{language} of {self.corpus.name} has no {split} rows to be judged on; add some.")
        if max_queries is not None and max_queries < len(query):
            query = np.sort(stream(self.seed, "queries", language, split).permutation(query)[:max_queries])
        return support, query

    def pool(self, split: str = "train", size: int | None = None, *, index: int = 0) -> Batch:
        """Returns train rows of all languages of `split` together, for baselines that replay source data.

        Args:
            split: which languages.
            size: how many rows, as balanced over the classes as they allow; all of them, in order, by
                default.
            index: which of the random draws of `size` rows.
        """
        languages = self._languages(split)
        rows = np.concatenate([self.corpus.rows(language, "train") for language in languages])
        if size is None or size >= len(rows):
            return self.batch(np.sort(rows))
        check_positive("size", size)
        rows = stream(self.seed, "pool", split, index=index).permutation(rows)
        labels = self.corpus.label[rows]
        turn = np.zeros(len(rows), np.int64)  # a row's place among those of its class: take all firsts, then seconds
        for number in range(self.num_classes):
            turn[labels == number] = np.arange(np.count_nonzero(labels == number))
        return self.batch(rows[np.argsort(turn, kind="stable")[:size]])

    def batch(self, rows: np.ndarray) -> Batch:
        """Returns rows of the corpus `[N]` as a batch without padding."""
        return {
            "inputs": self._inputs_of(rows),
            "targets": self.corpus.label[rows].astype(np.int32),
            "mask": np.ones(len(rows), bool),
            "classes": self._classes[self._language_of[rows]],
        }

    def _language_weights(self, languages: Sequence[str]) -> np.ndarray:
        counts = np.array([len(self.corpus.rows(language, "train")) for language in languages], np.float64)
        weights = (counts / counts.max(initial=1.0)) ** (1.0 / self.temperature)
        return weights / max(weights.sum(), np.finfo(np.float64).tiny)

    def _languages(self, split: str) -> tuple[str, ...]:
        check_one_of("split", split, SPLITS)
        languages = getattr(self.split, split)
        if not languages:
            raise InputError(f"No language is set aside for {split}; name one in the language split.")
        return languages

    def _share(self, count: int) -> int:
        """How many of a class's `count` rows go to the support: a fair share where both cannot be full."""
        if count >= self.shots + self.queries:
            return self.shots
        share = round(count * self.shots / (self.shots + self.queries))
        return min(max(share, 1), max(count - 1, 1), self.shots)

    def _place(self, language: str, rows: list[np.ndarray], places: int) -> Batch:
        """Lays the rows of each class `[<= places]` out as `[places, C]`, flattened, with a mask."""
        grid = np.full((places, self.num_classes), -1, np.int64)
        for number, of_class in enumerate(rows):
            grid[: len(of_class), number] = of_class
        flat = grid.reshape(-1)
        mask = flat >= 0
        if not mask.any():  # every class has a single row, and it is in the support: nothing is judged
            flat[0] = self.corpus.rows(language, "train")[0]
        return {**self.batch(np.where(mask, flat, flat[flat >= 0][0])), "mask": mask}


class TextEpisodes(LabelledEpisodes):
    """`LabelledEpisodes` of text; `inputs [N, L]` are int32 tokens."""

    corpus: Corpus

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: Tokenizer,
        split: LanguageSplit,
        *,
        shots: int,
        queries: int,
        temperature: float = 1.0,
        cipher: float = 0.0,
        seed: int = 0,
    ):
        """Tokenises `corpus` once.

        Args:
            corpus: the rows, of which only those of `split`'s languages are used.
            tokenizer: what turns them into tokens.
            split: the roles of the languages.
            shots: support examples per class.
            queries: query examples per class.
            temperature: as for `LabelledEpisodes`.
            cipher: the share of train episodes whose letters are exchanged, see `jaxmeta.data.cipher`.
            seed: what every draw depends on.

        Raises:
            InputError: a language has no rows to adapt on, or none to be judged on, or the tokens are not bytes and
                `cipher` asks for them.
        """
        if cipher and not isinstance(tokenizer, ByteTokenizer):
            raise InputError("`train.cipher` exchanges bytes; set it to 0, or `tokenizer.kind` to bytes.")
        self.tokenizer, self.cipher = tokenizer, cipher
        super().__init__(
            corpus, self._tokens_of, split,
            shots=shots, queries=queries, temperature=temperature, pretended=cipher, pretend=_other_letters, seed=seed,
        )  # fmt: skip
        tokens = tokenizer.encode(corpus.text)
        self._tokens = tokens.astype(np.uint16) if tokenizer.vocab_size <= 2**16 else tokens

    def _tokens_of(self, rows: np.ndarray) -> np.ndarray:
        return self._tokens[rows].astype(np.int32)


def _other_letters(generator: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    table = byte_cipher(generator)
    return lambda tokens: table[tokens]
