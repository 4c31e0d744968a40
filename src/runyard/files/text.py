"""Text files that a person has written on whatever system: UTF-8, or what their first bytes say."""

import codecs

from runyard.errors import UserErrorException

#: The longer mark first: UTF-32's begins as UTF-16's does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str, what: str) -> str:
    """The file's text; UserErrorException begins with ``what``, which calls the file by its name."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UserErrorException(f"{what} cannot be read: {error.strerror}.") from None
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        shown = encoding.upper().replace("-SIG", "")
        raise UserErrorException(f"{what} is no {shown} text; save it as UTF-8.") from None
