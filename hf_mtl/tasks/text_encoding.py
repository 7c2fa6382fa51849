"""How the text of a file is encoded: which codec reads it, and what bytes that do not fit it may be instead."""

from __future__ import annotations

import codecs
import difflib
import re
from contextlib import suppress
from encodings.aliases import aliases

from ..errors import InputError

UTF_8 = "utf-8"
MARKS = {  # codec -> its byte order mark; that of UTF-32 begins like that of UTF-16
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    UTF_8: codecs.BOM_UTF8,
}
NO_ENCODINGS = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape")  # of the text of a file
ESCAPE = "hf_mtl.escape"
ESCAPED = re.compile("[\udc00-\udcff]+")
USUAL = (UTF_8, "cp1252")  # what a file is likely to be that is said to be something else
NAME_IT = "save the file as UTF-8, or name its encoding"
AROUND = 12  # characters that are shown on each side of the one that is told


def check_encoding(encoding: object, where: str) -> None:
    """Raise InputError for what is no name of a text encoding; `where` begins the message."""
    if isinstance(encoding, str) and _is_encoding(encoding):
        return
    names, written = {name.replace("_", "-") for name in (*aliases, *aliases.values())}, str(encoding).lower()
    swapped = sorted(name for name in names if sorted(name) == sorted(written))
    close = [*swapped, *difflib.get_close_matches(written.replace("_", "-"), sorted(names), n=3)]
    near = next((f" (did you mean {name!r}?)" for name in close if _is_encoding(name)), "")
    raise InputError(
        f"{where}encoding is {encoding!r}, which Python knows no text encoding by{near}; wanted a name such as utf-8, "
        "cp1252, utf-16 or shift-jis"
    )


def _is_encoding(name: str) -> bool:
    try:
        codec = codecs.lookup(name).name
        "a".encode(name)  # LookupError of a codec that is for no text, such as base64
        return codec.replace("-", "_") not in NO_ENCODINGS
    except (LookupError, ValueError):
        return False


def stream_codec(encoding: str | None, head: bytes) -> tuple[str, bytes]:
    """The codec that a text is read with, and the byte order mark before it, which is no part of it.

    Args:
        encoding: what the text is said to be; UTF-8 unless given.
        head: its first bytes.

    Raises:
        InputError: for what begins like a text of another encoding, or like a binary file.
    """
    wanted = codecs.lookup(encoding or UTF_8).name.replace("utf-8-sig", UTF_8)
    found = next((codec for codec, mark in MARKS.items() if head.startswith(mark)), None) or _by_zeros(head)
    if wanted in ("utf-16", "utf-32"):
        codec = f"{wanted}-le" if found is None or not found.startswith(wanted) else found
    else:
        codec = wanted
    if found not in (None, codec) or (b"\0" in head[:4] and not codec.startswith(("utf-16", "utf-32"))):
        kind = (found or "utf-16").removesuffix("-le").removesuffix("-be").upper()
        named = found if found is None or not head.startswith(MARKS[found]) else kind.lower()
        what_to_do = f"; its first bytes fit encoding: {named}" if named else ""
        other = " or a binary file" if kind != "UTF-8" else ""
        raise InputError(f"begins like {kind}{other}, wanted {_title(codec)} text; {NAME_IT}{what_to_do}")
    if codec.startswith(("utf-16", "utf-32")) and head and b"\0" not in head:
        raise InputError(f"begins like no {_title(codec)}, in which every line end has a zero byte; {NAME_IT}")
    mark = MARKS.get(codec, b"")
    return codec, mark if head.startswith(mark) else b""


def _by_zeros(head: bytes) -> str | None:
    """UTF-16 without a mark, where every other one of the first bytes is zero, as of Latin letters."""
    if len(head) < 4 or all(head[:4]):
        return None
    even, odd = set(head[0:4:2]), set(head[1:4:2])
    return "utf-16-be" if even == {0} and 0 not in odd else "utf-16-le" if odd == {0} and 0 not in even else None


def error_handler(codec: str) -> str:
    """What a decoder does with bytes that do not fit: each is a surrogate, U+DC00 and its value, which no text has."""
    return "surrogateescape" if codec == UTF_8 else ESCAPE


def _escaped(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]), error.end


codecs.register_error(ESCAPE, _escaped)


def bytes_of(text: str, codec: str) -> bytes:
    """The bytes that a text was decoded from."""
    if text.isascii() and codec == UTF_8:
        return text.encode()
    try:
        return text.encode(codec)
    except UnicodeEncodeError:
        clean, misfits = ESCAPED.split(text), ESCAPED.findall(text)
        found = [part.encode(codec) for part in clean]
        for place, misfit in enumerate(misfits, 1):
            found[place] = bytes(ord(character) & 0xFF for character in misfit) + found[place]
        return b"".join(found)


def num_bytes(text: str, codec: str) -> int:
    """How many bytes a text was decoded from."""
    return len(text) if codec == UTF_8 and text.isascii() else len(bytes_of(text, codec))


def misfit(text: str, codec: str, offset: int) -> str | None:
    """What is wrong with the first byte of a text that does not fit the codec; None where all fit.

    Args:
        text: a line, or a value of JSON; bytes that do not fit are as `error_handler` makes them.
        codec: it was decoded with.
        offset: bytes of the file before the text.
    """
    try:
        _ = text.isascii() or text.encode()
        return None
    except UnicodeEncodeError as error:
        before, byte = num_bytes(text[: error.start], codec), ord(text[error.start]) & 0xFF
    return (
        f"is no {_title(codec)}: byte 0x{byte:02x} at offset {offset + before} of the file, {before} of its line; "
        f"{NAME_IT}{_proposal(text, codec, before)}"
    )


def _title(codec: str) -> str:
    return codec.upper() if codec.startswith("utf-") else codec


def _proposal(text: str, codec: str, place: int) -> str:
    """Which usual encoding the text may be of, and what it says then; "" where none gives a text.

    Args:
        text: with a misfit.
        codec: it was decoded with.
        place: the bytes before the misfit.
    """
    raw = bytes_of(text, codec)
    is_damaged_utf_8 = codec == UTF_8 and not ESCAPED.sub("", text).isascii()  # letters that are two bytes or more
    for other in USUAL if not is_damaged_utf_8 else ():
        if other == codec:
            continue
        with suppress(UnicodeDecodeError):
            found, at = raw.decode(other), len(raw[:place].decode(other, "ignore"))
            shown = found[max(0, at - AROUND) : at + AROUND].strip()
            return f"; in encoding: {other} it is {shown!r}"
    return ""
