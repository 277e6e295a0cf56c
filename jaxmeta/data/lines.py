"""Lines and fields of text files, with one clear sentence for whatever is wrong in them."""

import io
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence

from jaxmeta.core.checks import InputError

Path = str | os.PathLike[str]
Source = Path | io.TextIOBase | io.BufferedIOBase


def where(path: object) -> str:
    """Returns what to call the source of some lines in a sentence."""
    if isinstance(path, (str, os.PathLike)) and os.fspath(path) != "-":
        return os.fspath(path)
    return "standard input"


def open_file(path: Path) -> io.BufferedReader:
    """Opens a file for reading bytes.

    Raises:
        InputError: it is not there, or no file, or may not be read.
    """
    try:
        return pathlib.Path(path).open("rb")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; correct the path.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory; name a file in it.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); correct the path or its permissions.") from None


def decode_line(name: str, number: int, line: bytes) -> str:
    """Returns the text of one line of the file called `name`, without the CR of a CRLF.

    Raises:
        InputError: it is not UTF-8.
    """
    if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{name}, line 1: the file is UTF-16; save it as UTF-8.")
    if b"\0" in line:
        raise InputError(f"{name}, line {number}: there is a NUL byte, so this is not text; save it as UTF-8.")
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {number}: byte {error.start + 1} of the line is not UTF-8; save it as UTF-8."
        ) from None


def read_lines(path: Source) -> list[tuple[int, str]]:
    """Returns the numbered lines. Only LF and CRLF end one: a text may hold U+2028 and the like.

    Raises:
        InputError: the source is missing, empty or not UTF-8.
    """
    name = where(path)
    lines = _bytes(path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    out = [(number, decode_line(name, number, line)) for number, line in enumerate(lines, start=1)]
    while out and not out[-1][1].strip():
        out.pop()
    if not out:
        raise InputError(f"{name} is empty; write at least one line of text into it.")
    return out


def read_header(path: object, line: str) -> list[str]:
    """Returns the columns that the first line of a file names."""
    if "\r" in line.strip("\r"):
        raise InputError(f"{where(path)}, line 1: lines end with CR alone; save the file with LF line ends.")
    return [column.strip() for column in line.split("\t")]


def check_header(path: object, header: Sequence[str], needed: Sequence[str], optional: Sequence[str] = ()) -> None:
    """Raises `InputError` unless every needed column is in `header`, and no column that is read is twice in it."""
    for column in needed:
        if column not in header:
            raise InputError(
                f"{where(path)}, line 1: there is no column {column!r} among {', '.join(map(repr, header))}; the "
                f"first line must name the columns {', '.join(needed)}, separated by TAB."
            )
    for column in (*needed, *optional):
        if list(header).count(column) > 1:
            raise InputError(f"{where(path)}, line 1: the column {column!r} is there twice; rename or remove one.")


def read_fields(
    path: Source, needed: Sequence[str], *, optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields line number and fields by column of a file whose first line names its columns; none is empty.

    Raises:
        InputError: the file or a line of it is not so.
    """
    lines = read_lines(path)
    header = read_header(path, lines[0][1])
    check_header(path, header, needed, optional)
    if len(lines) == 1:
        raise InputError(f"{where(path)} has a header and no rows; add rows under it.")
    read = [column for column in (*needed, *optional) if column in header]
    for number, line in lines[1:]:
        yield number, split_fields(path, number, line, header, read)


def split_fields(path: object, number: int, line: str, header: Sequence[str], read: Sequence[str]) -> dict[str, str]:
    """Returns the fields of one line under the columns of `header` that are read; none is empty.

    Raises:
        InputError: there are too few or too many, or one is empty.
    """
    fields = line.split("\t")
    if len(fields) != len(header):
        raise InputError(
            f"{where(path)}, line {number}: {len(fields)} fields where the header has {len(header)}; separate "
            "fields by one TAB each, and replace TABs and line breaks inside a text by spaces."
        )
    values = dict(zip(header, fields, strict=True))
    for column in read:
        if not values[column].strip():
            raise InputError(f"{where(path)}, line {number}: the {column} is empty; fill it in or remove the line.")
    return {column: values[column] for column in read}


def fixed_codes(columns: Sequence[str], language: str | None) -> dict[str, str]:
    """Returns the columns of languages that are the same in all rows, by what is said of all: "eng", "eng-deu", "eng-".

    Args:
        columns: the column of the language, or the two columns of a pair of languages.
        language: the language; of a pair SOURCE-TARGET, either of which may be left out.
    """
    said = language or ""
    if len(columns) == 1:
        codes = (said,)
    elif said.endswith("-"):
        codes = (said[:-1], "")
    else:
        codes = ("", said[1:]) if said.startswith("-") else said.partition("-")[::2]
    return {column: code for column, code in zip(columns, codes, strict=True) if code}


def check_pair(columns: Sequence[str], language: str | None) -> None:
    """Raises `InputError` where a pair of languages is said so that it may be several: "zh-Hans-en"."""
    if len(columns) > 1 and (language or "").strip("-").count("-") > 1:
        raise InputError(
            f"{language!r} may be several pairs of languages; name one side alone, as SOURCE- or -TARGET, or give the "
            f"data the columns {' and '.join(columns)}."
        )


def _bytes(path: Source) -> bytes:
    if isinstance(path, io.TextIOBase):
        return path.read().encode("utf-8", "surrogateescape")
    if isinstance(path, io.BufferedIOBase):
        return path.read()
    if os.fspath(path) == "-":
        return sys.stdin.buffer.read()
    with open_file(path) as file:
        return file.read()
