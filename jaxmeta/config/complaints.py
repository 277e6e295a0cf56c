"""What is wrong on the command line, in one sentence."""

import re

from jaxmeta.config.read import nearest_key, without_kind

# How tyro reports what pydantic refused.
_INVALID = re.compile(
    r"config\.?([\w.]*): \d+ validation errors? for \w+ (\S+) (.*?) \[type=.*?input_value=(.*?), input_type"
)
# How it reports what Python reads as no number.
_NUMBER = re.compile(
    r"parsing --([\w.-]+): (?:(invalid literal for int\(\) with base 10)|could not convert string to float): ('.*?')"
)


def sentence(complaint: str, command: str, *, configured: bool, known: bool) -> str:
    """Turns the box that tyro draws around a complaint into a sentence.

    Args:
      complaint: what tyro printed.
      command: the word that was typed first.
      configured: whether its options are keys of a config.
      known: whether there is such a command.
    """
    lines = [line.strip(" │╭╮╰╯") for line in complaint.splitlines()][1:]
    rules = [place for place, line in enumerate(lines) if re.fullmatch(r"[─-]{5,}", line)]
    # With a plain terminal the first rule stands above the complaint; the next one ends it.
    first = rules[0] + 1 if rules[:1] == [0] else 0
    last = next((place for place in rules if place >= first), len(lines))
    what = " ".join(" ".join(lines[first:last]).split()).rstrip(".")
    if invalid := _INVALID.search(what):
        section, key, reason, value = invalid.groups()
        key = without_kind(".".join(part for part in (section, key) if part))
        return f"the command line: `{key}`: {reason[0].lower()}{reason[1:]}, got {value}."
    if number := _NUMBER.search(what):
        key, whole, value = number.groups()
        return f"the command line: `{key}` must be a {'whole ' if whole else ''}number, got {value}."
    unknown = re.match(r"Unrecognized options: --([^\s,=]+)", what)
    if unknown and configured:
        return f"the command line: unknown key `{unknown[1]}`; {nearest_key(unknown[1])}"
    more = f"jaxmeta {command} --help" if known else "jaxmeta --help"
    return f"the command line: {what[0].lower()}{what[1:]}; see `{more}`."
