"""Pictures in the body of a request: ``data:`` addresses, as OpenAI's API takes them."""

from __future__ import annotations

import base64
import binascii
import re

from adapterhub.data.images import ImageFile
from adapterhub.errors import DataError, RequestError

#: Most pixels of a picture: the engine decodes it between two steps, which shall not take long.
MAX_SERVED_PIXELS = 2**24
_START = re.compile(r"data:image/[a-z0-9.+-]{1,32};base64,", re.IGNORECASE)
_NAME = "input.image"


def picture_of(address: str) -> ImageFile:
    """Return the picture in a ``data:`` address. Nothing is fetched from anywhere.

    Raises:
        RequestError: when it is none, or too large.
    """
    start = _START.match(address)
    if start is None:
        raise RequestError(
            "is no data: address of a picture",
            place=_NAME,
            hint="Give data:image/png;base64, and the file in base64; nothing is fetched",
        )
    try:
        content = base64.b64decode(address[start.end() :], validate=True)
    except binascii.Error as error:
        raise RequestError(f"is not base64: {error}", place=_NAME) from error
    picture = ImageFile(_NAME, content)
    try:
        picture.check_header(MAX_SERVED_PIXELS)
    except DataError as error:
        raise RequestError(error.problem, place=_NAME, hint=error.hint) from error
    return picture
