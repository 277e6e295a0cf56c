"""Few-shot episodes of images: some classes of an alphabet, or of all alphabets of a split, numbered anew each time."""

import numpy as np

from jaxmeta.core.checks import InputError, check_not_negative, check_one_of, check_positive
from jaxmeta.core.types import Batch, Episode
from jaxmeta.data.corpus import SPLITS
from jaxmeta.data.images import Images
from jaxmeta.data.splits import LanguageSplit
from jaxmeta.data.streams import stream

MIXED = "all alphabets"  # stands for an alphabet where the classes of an episode are of any


class ImageEpisodes:
    """A `TaskDistribution` of `ways`-way classification of characters, pure in `(seed, split, index)`.

    An episode draws an alphabet, then `ways` of its characters, then a drawing for each place in support and query; no
    drawing of a class is in both. Unlike a language's labels, a target means another character in every episode. Splits
    share no alphabet, so a character that is judged was never seen.

    With `rotations` a character that is turned by a quarter, a half or three quarters is a class of its own, in every
    split, as is usual with Omniglot (Santoro et al. 2016); so two classes may have drawings in common, turned. With
    `mixed` the classes of an episode are of any alphabets of its split (Vinyals et al. 2016), which is easier:
    characters of one alphabet look alike.

    A batch has `inputs [N, H, W]` uint8, `targets [N]` int32 in `[0, ways)`, and of meta-training `source_class [N]`
    int32, the class among all that are trained on (see `source_classes`). It is ordered shot by shot, as that of
    `FewShot`.
    """

    def __init__(
        self,
        images: Images,
        split: LanguageSplit,
        *,
        ways: int,
        shots: int,
        queries: int,
        rotations: bool = False,
        mixed: bool = False,
        seed: int = 0,
    ):
        """Sorts the images.

        Args:
            images: of which only those of `split`'s alphabets are used.
            split: the roles of the alphabets, by `split_languages(images.alphabets(), ...)`.
            ways: classes of an episode.
            shots: support examples per class.
            queries: query examples per class.
            rotations: whether turned characters are more classes.
            mixed: whether the classes of an episode are of any alphabet of its split.
            seed: what every draw depends on.

        Raises:
            InputError: an alphabet has too few classes, a character too few drawings, or what turns is not square.
        """
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
            check_positive(name, value)
        self.images, self.split, self.mixed, self.seed = images, split, mixed, seed
        self.ways, self.shots, self.queries = ways, shots, queries
        self.turns = 4 if rotations else 1
        if rotations and images.image.shape[1] != images.image.shape[2]:
            raise InputError(
                f"Images of {images.name} are not square, so no turned character is one; leave rotations out."
            )
        self._drawings: dict[tuple[str, str], list[np.ndarray]] = {}  # of the characters of each alphabet, by role
        for role, alphabets in split._asdict().items():
            for name in (MIXED,) if mixed and alphabets else alphabets:
                of_each = images.characters(alphabets if mixed else (name,))
                if len(of_each) * self.turns < ways:
                    raise InputError(
                        f"{name} of {images.name} ({role}) has {len(of_each) * self.turns} classes where an episode "
                        f"has {ways}; lower the ways, count turned characters as classes, or mix alphabets."
                    )
                self._drawings[role, name] = of_each
        self._check_drawings(shots)
        trained = np.unique(images.character[np.isin(images.alphabet, split.train)])
        self._place = {int(character): place for place, character in enumerate(trained)}

    @property
    def source_classes(self) -> int:
        """How many classes there are to train on, turned characters included."""
        return len(self._place) * self.turns

    def names(self, split: str) -> tuple[str, ...]:
        """Returns what episodes of `split` are drawn from: its alphabets, or the one that stands for all."""
        check_one_of("split", split, SPLITS)
        return tuple(name for role, name in self._drawings if role == split)

    def __call__(self, index: int, *, split: str = "train") -> Episode:
        """Returns the `index`-th episode: `S = shots * ways` support and `Q = queries * ways` query examples."""
        check_not_negative("index", index)
        generator, names = stream(self.seed, "image episode", split, index=index), self.names(split)
        sizes = np.array([len(self._drawings[split, name]) for name in names], np.float64)
        name = names[int(generator.choice(len(names), p=sizes / sizes.sum()))]
        return self._episode(generator, split, name, self.shots, self.queries)

    def evaluation_episode(
        self, alphabet: str, *, shots: int, draw: int, split: str = "test", max_queries: int | None = None
    ) -> Episode:
        """Returns the `draw`-th few-shot problem of an alphabet, or of the name that stands for all.

        Classes and query depend on the seed, the alphabet and `draw` alone, and with fewer shots the support is a
        prefix of the one with more.

        Args:
            alphabet: one of `names(split)`.
            shots: support examples per class.
            draw: which of the problems.
            split: "dev" or "test".
            max_queries: judge on so many examples at most, but one of each class.
        """
        check_one_of("split", split, ("dev", "test"))
        check_positive("shots", shots)
        check_not_negative("draw", draw)
        if (split, alphabet) not in self._drawings:
            raise InputError(f"{alphabet} is no {split} alphabet of {self.images.name}; name one of the split.")
        self._check_drawings(shots)
        generator = stream(self.seed, "image problem", split, alphabet, index=draw)
        queries = self.queries if max_queries is None else min(self.queries, max(1, max_queries // self.ways))
        return self._episode(generator, split, alphabet, shots, queries)

    def _episode(self, generator: np.random.Generator, split: str, name: str, shots: int, queries: int) -> Episode:
        of_each = self._drawings[split, name]
        classes = generator.permutation(len(of_each) * self.turns)[: self.ways]
        turns = classes % self.turns
        # Support from the front and query from the back, so that neither depends on the size of the other.
        drawings = [generator.permutation(of_each[number // self.turns]) for number in classes]
        support = np.stack([rows[:shots] for rows in drawings], axis=1)
        query = np.stack([rows[::-1][:queries] for rows in drawings], axis=1)
        return Episode(*(self._batch(rows, turns, split) for rows in (support, query)))

    def _batch(self, rows: np.ndarray, turns: np.ndarray, split: str) -> Batch:
        """Returns images `[places, ways]`, whose columns are turned by so many quarters, as a batch."""
        flat, turned = rows.reshape(-1), np.tile(turns, len(rows))
        batch = {
            "inputs": np.stack(
                [np.rot90(self.images.image[row], turn) for row, turn in zip(flat, turned, strict=True)]
            ),
            "targets": np.tile(np.arange(self.ways, dtype=np.int32), len(rows)),
        }
        if split == "train":
            places = np.array([self._place[int(character)] for character in self.images.character[flat]], np.int32)
            batch["source_class"] = places * np.int32(self.turns) + turned.astype(np.int32)
        return batch

    def most_shots(self) -> int:
        """Returns how many shots every character has beside the drawings of a query."""
        return min(len(drawings) for of_each in self._drawings.values() for drawings in of_each) - self.queries

    def _check_drawings(self, shots: int) -> None:
        for (role, _), of_each in self._drawings.items():
            fewest = min(of_each, key=len)
            if len(fewest) < shots + self.queries:
                character, alphabet = self.images.character[fewest[0]], self.images.alphabet[fewest[0]]
                raise InputError(
                    f"Character {character} of {alphabet} in {self.images.name} ({role}) has {len(fewest)} drawings "
                    f"where {shots} shots and {self.queries} queries are wanted; lower these or leave it out."
                )
