"""Few-shot problems by number: which rows of which language they have, whatever the rows hold."""

import abc
import functools
from collections.abc import Mapping
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative, check_one_of, check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.corpus import SPLITS, Rows
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.streams import stream
from jaxmeta.data.weighting import Weighting

_Rows = TypeVar("_Rows", bound=Rows)
_PERMUTED = 2**20  # rows of which all are put into an order to draw some


def deal(generator: np.random.Generator, count: int, shots: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the numbers of the rows, out of `count`, that go to the support and to the query of an episode."""
    drawn = min(count, shots + queries)
    order = generator.permutation(count) if count <= _PERMUTED else generator.choice(count, drawn, replace=False)
    shots = support_share(count, shots, queries)
    return order[:shots], order[shots : shots + queries]


def support_share(count: int, shots: int, queries: int) -> int:
    """Returns how many of `count` rows go to the support: a fair share where both sides cannot be full."""
    if count >= shots + queries:
        return shots
    share = round(count * shots / (shots + queries))
    return min(max(share, 1), max(count - 1, 1), shots)


class Fixed(NamedTuple):
    """Evaluation problems that are given instead of drawn, by the rows of the corpus."""

    name: str  # of where they come from
    support: Mapping[tuple[str, int, int], np.ndarray]  # by language, shots and draw
    query: Mapping[tuple[str, str], np.ndarray]  # by language and split


class FewShot(abc.ABC, Generic[_Rows]):
    """A `TaskDistribution` whose episodes are of one language each, pure in `(seed, split, index)`.

    Rows belong to one of `C` classes, which is one for data without classes. Support and query are balanced over them
    and ordered shot by shot: the first example of each class, then the second, and so on. Where a class has too few
    rows its place is masked, and holds a copy of another example of the episode. Meta-training adapts on and is judged
    on train rows of train languages; dev (test) languages adapt on their train rows and are judged on their dev (test)
    rows.
    """

    fixed: Fixed | None = None  # the evaluation problems, where they are not drawn

    def __init__(
        self,
        corpus: _Rows,
        split: LanguageSplit,
        classes: np.ndarray,
        *,
        num_classes: int,
        shots: int,
        queries: int,
        weighting: Weighting,
        seed: int,
    ):
        """Sorts the rows into cells.

        Args:
            corpus: the rows, of which only those of `split`'s languages are used.
            split: the roles of the languages.
            classes: the class of each row `[N]`; -1 for a row that is not to be used.
            num_classes: `C`.
            shots: support examples per class.
            queries: query examples per class.
            weighting: how often each language is drawn, by its number of train rows.
            seed: what every draw depends on.

        Raises:
            InputError: a language has no rows to adapt on, or none to be judged on.
        """
        check_positive("shots", shots)
        check_positive("queries", queries)
        self.corpus, self.split, self.num_classes = corpus, split, num_classes
        self.shots, self.queries, self.seed, self._class = shots, queries, seed, classes
        self._cells: dict[tuple[str, str], list[np.ndarray]] = {}
        for language in {language for languages in split for language in languages}:
            for part in SPLITS:
                rows = corpus.rows(language, part)
                self._cells[language, part] = [rows[classes[rows] == c] for c in range(num_classes)]
        for role, languages in split._asdict().items():
            for language in languages:
                for part in dict.fromkeys(("train", role)):
                    if not sum(map(len, self._cells[language, part])):
                        raise InputError(
                            f"The {role} language {language} of {corpus.name} has no {part} rows; add some, "
                            "or leave the language out."
                        )
        self._weights = {
            role: weighting(np.array([len(self.rows(language, "train")) for language in languages], np.float64))
            for role, languages in split._asdict().items()
        }

    @abc.abstractmethod
    def batch(self, rows: np.ndarray) -> Batch:
        """Returns rows of the corpus `[N]` as a batch without padding."""

    def augmented(self, generator: np.random.Generator, episode: Episode) -> Episode:
        """Returns what stands for an episode of meta-training; itself, unless a kind of episodes says otherwise."""
        del generator
        return episode

    def informed(self, episode: Episode, support: np.ndarray, query: np.ndarray) -> Episode:
        """Returns an episode of these rows that reads what the support says of it; itself by default."""
        del support, query
        return episode

    def most_shots(self) -> int:
        """Returns the largest number of train rows that a class of some language has."""
        every = [language for languages in self.split for language in languages]
        return max(self.most_of_a_class(self.rows(language, "train")) for language in every)

    def check_shots(self) -> None:
        """Refuses shots that no class of any language has.

        Raises:
          InputError: with the most that there are.
        """
        most = self.most_shots()
        if self.shots > most:
            raise InputError(
                f"`task.shots` is {self.shots}, but no class of a language of {self.corpus.name} has more than {most} "
                f"train rows; take {most} or fewer."
            )

    def most_of_a_class(self, rows: np.ndarray) -> int:
        """Returns how many of `rows` are of the class that has most of them."""
        classes = self._class[rows]
        return int(np.bincount(classes[classes >= 0], minlength=1).max())

    def present(self, rows: np.ndarray) -> np.ndarray:
        """Returns which classes the language of each of `rows` has, in any split: `[N, C]` bool."""
        classes, language_of = self._present
        return classes[language_of[rows]]

    @functools.cached_property
    def _present(self) -> tuple[np.ndarray, np.ndarray]:
        names, language_of = np.unique(self.corpus.language, return_inverse=True)
        classes = np.zeros((len(names), self.num_classes), bool)
        used = self._class >= 0
        classes[language_of[used], self._class[used]] = True
        return classes, language_of

    def rows(self, language: str, part: str) -> np.ndarray:
        """Returns the rows of a language's part that may be used, in order."""
        return np.sort(np.concatenate(self._cells[language, part]))

    def class_rows(self, language: str, number: int) -> np.ndarray:
        """Returns the train rows of a language that are of class `number`, in order."""
        return self._cells[language, "train"][number]

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
            if split == "train":
                shots, queries = deal(generator, len(train_rows), self.shots, self.queries)
                support.append(train_rows[shots])
                query.append(train_rows[queries])
            else:
                support.append(generator.permutation(train_rows)[: self.shots])
                query.append(generator.permutation(self._cells[language, split][number])[: self.queries])
        episode = self.dealt(language, support, query)
        return self.augmented(generator, episode) if split == "train" else episode

    def dealt(self, language: str, support: list[np.ndarray], query: list[np.ndarray]) -> Episode:
        """Returns the episode of the rows of each class that were drawn for its two sides."""
        episode = Episode(self.placed(language, support, self.shots), self.placed(language, query, self.queries))
        return self.informed(episode, np.concatenate(support), np.concatenate(query))

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
        rows = self.evaluation_rows(language, shots=shots, draw=draw, split=split, max_queries=max_queries)
        return self.episode_of(language, *rows, shots=shots)

    def episode_of(self, language: str, support: np.ndarray, query: np.ndarray, *, shots: int) -> Episode:
        """Returns the episode of the rows that `evaluation_rows` named."""
        return self.informed(Episode(self._support(language, support, shots), self.batch(query)), support, query)

    def evaluation_rows(
        self, language: str, *, shots: int, draw: int, split: str = "test", max_queries: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the rows of the corpus that `evaluation_episode` is made of: support and query."""
        query = self.query_rows(language, split=split, max_queries=max_queries)
        return self.support_rows(language, shots=shots, draw=draw), query

    def support_rows(self, language: str, *, shots: int, draw: int) -> np.ndarray:
        """Returns the rows that the `draw`-th problem of a language adapts on."""
        check_positive("shots", shots)
        check_not_negative("draw", draw)
        self._check_known(language)
        # A language that is trained on is in no file of problems.
        if self.fixed is not None and language not in self.split.train:
            if (language, shots, draw) not in self.fixed.support:
                raise InputError(
                    f"{self.fixed.name} has no problem of {language} with {shots} shots and draw {draw}; write one "
                    "that has."
                )
            return self.fixed.support[language, shots, draw]
        support = [
            stream(self.seed, "support", language, number, index=draw).permutation(rows)[:shots]
            for number, rows in enumerate(self._cells[language, "train"])
        ]
        return np.concatenate(support)

    def query_rows(self, language: str, *, split: str = "test", max_queries: int | None = None) -> np.ndarray:
        """Returns the rows that a language is judged on, the same for every draw of shots."""
        check_one_of("split", split, ("dev", "test"))
        self._check_known(language)
        if max_queries is not None:
            check_positive("max_queries", max_queries)
        if self.fixed is not None:
            query = self.fixed.query.get((language, split))
            if query is None:
                raise InputError(f"{self.fixed.name} judges no {split} rows of {language}; write one that does.")
            if max_queries is not None and len(query) > max_queries:
                raise InputError(
                    f"{self.fixed.name} judges {language} on {len(query)} rows, more than the {max_queries} of "
                    "`max_queries`; allow as many."
                )
            return query
        query = self.rows(language, split)
        if not len(query):
            raise InputError(f"{language} of {self.corpus.name} has no {split} rows to be judged on; add some.")
        if max_queries is not None and max_queries < len(query):
            query = np.sort(stream(self.seed, "queries", language, split).permutation(query)[:max_queries])
        return query

    def support(self, language: str, *, shots: int, draw: int) -> Batch:
        """Returns the support of `evaluation_episode` alone, of a language that is trained on too."""
        rows = self.support_rows(language, shots=shots, draw=draw)
        batch = self._support(language, rows, shots)
        return self.informed(Episode(batch, batch), rows, rows).support

    def _support(self, language: str, rows: np.ndarray, shots: int) -> Batch:
        by_class = [rows[self._class[rows] == number] for number in range(self.num_classes)]
        return self.placed(language, by_class, shots)

    def _check_known(self, language: str) -> None:
        if (language, "train") not in self._cells:
            raise InputError(f"{language} is in no set of the language split of {self.corpus.name}; add it to one.")

    def pool(self, split: str = "train", size: int | None = None, *, index: int = 0) -> Batch:
        """Returns train rows of all languages of `split` together, for baselines that replay source data.

        Args:
            split: which languages.
            size: how many rows, as balanced over the classes as they allow; all of them, in order, by
                default.
            index: which of the random draws of `size` rows.
        """
        languages = self._languages(split)
        rows = np.concatenate([self.rows(language, "train") for language in languages])
        if size is None or size >= len(rows):
            return self.batch(np.sort(rows))
        check_positive("size", size)
        rows = stream(self.seed, "pool", split, index=index).permutation(rows)
        labels = self._class[rows]
        turn = np.zeros(len(rows), np.int64)  # a row's place among those of its class: take all firsts, then seconds
        for number in range(self.num_classes):
            turn[labels == number] = np.arange(np.count_nonzero(labels == number))
        return self.batch(rows[np.argsort(turn, kind="stable")[:size]])

    def _languages(self, split: str) -> tuple[str, ...]:
        check_one_of("split", split, SPLITS)
        languages = getattr(self.split, split)
        if not languages:
            raise InputError(f"No language is set aside for {split}; name one in the language split.")
        return languages

    def placed(self, language: str, rows: list[np.ndarray], places: int) -> Batch:
        """Returns the rows of each class `[<= places]` as a batch: laid out as `[places, C]`, flattened, masked."""
        grid = np.full((places, self.num_classes), -1, np.int64)
        for number, of_class in enumerate(rows):
            grid[: len(of_class), number] = of_class
        flat = grid.reshape(-1)
        mask = flat >= 0
        if not mask.any():  # every class has a single row, and it is in the support: nothing is judged
            flat[0] = self.rows(language, "train")[0]
        return {**self.batch(np.where(mask, flat, flat[flat >= 0][0])), "mask": mask}
