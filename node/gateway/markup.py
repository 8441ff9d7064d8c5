"""XML of S3, both ways: hostile documents into a plain tree, answers out of small pieces.

What comes in is parsed by defusedxml: no entities, no external references, no DTD; bounded in bytes, elements and
depth. Namespaces are dropped, as S3 does: some clients send one, some none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import ParseError
from xml.sax.saxutils import escape

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from node.gateway.errors import S3Code, S3Error

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element as ParsedElement

NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
PROLOGUE: Final = '<?xml version="1.0" encoding="UTF-8"?>\n'
DEPTH_MAX: Final = 16
ELEMENTS_MAX: Final = 100_000
"""10,000 parts of a CompleteMultipartUpload with seven children each, and room."""
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\r\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a document: its local name, its text, its children."""

    name: str
    text: str
    children: tuple[Element, ...]
    attributes: tuple[tuple[str, str], ...] = ()

    def all(self, name: str) -> tuple[Element, ...]:
        """Return the children of a name."""
        return tuple(child for child in self.children if child.name == name)

    def find(self, name: str) -> Element | None:
        """Return the one child of a name, None when there is none.

        Raises:
            S3Error: MalformedXML when there are two.
        """
        found = self.all(name)
        if len(found) > 1:
            raise S3Error(S3Code.MALFORMED_XML)
        return found[0] if found else None

    def text_of(self, name: str) -> str | None:
        """Return the text of the one child of a name, None when there is none."""
        found = self.find(name)
        return None if found is None else found.text

    def require(self, name: str) -> str:
        """Return the text of the one child of a name.

        Raises:
            S3Error: MalformedXML when there is none.
        """
        text = self.text_of(name)
        if text is None:
            raise S3Error(S3Code.MALFORMED_XML)
        return text

    def number_of(self, name: str, *, least: int = 0) -> int | None:
        """Return a child's whole number, None when there is no such child.

        Raises:
            S3Error: MalformedXML for anything else, InvalidArgument below the least.
        """
        text = self.text_of(name)
        if text is None:
            return None
        stripped = text.strip()
        if not re.fullmatch(r"-?\d{1,10}", stripped, re.ASCII):
            raise S3Error(S3Code.MALFORMED_XML)
        if int(stripped) < least:
            raise S3Error(S3Code.INVALID_ARGUMENT, f"'{name}' must be at least {least}")
        return int(stripped)


def parse(body: bytes, *roots: str) -> Element:
    """Read a document whose root has one of these names.

    Raises:
        S3Error: MalformedXML.
    """
    if body.count(b"<") > 2 * ELEMENTS_MAX:  # each has a beginning and an end
        raise S3Error(S3Code.MALFORMED_XML)
    try:
        parsed: ParsedElement = fromstring(body, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError, LookupError) as error:
        raise S3Error(S3Code.MALFORMED_XML) from error
    root = _element(parsed, 0)
    if root.name not in roots:
        raise S3Error(S3Code.MALFORMED_XML)
    return root


def _element(parsed: ParsedElement, depth: int) -> Element:
    if depth > DEPTH_MAX:
        raise S3Error(S3Code.MALFORMED_XML)
    return Element(
        name=parsed.tag.rpartition("}")[2],
        text=parsed.text or "",
        children=tuple(_element(child, depth + 1) for child in parsed),
        attributes=tuple((name.rpartition("}")[2], text) for name, text in parsed.attrib.items()),
    )


def node(name: str, *children: str) -> str:
    """Return an element around other elements."""
    return f"<{name}>{''.join(children)}</{name}>"


def leaf(name: str, text: str | int | None) -> str:
    """Return an element with text; nothing at all for None."""
    if text is None:
        return ""
    return f"<{name}>{_CONTROL.sub(_reference, escape(str(text)))}</{name}>"


def flag(name: str, is_set: bool) -> str:  # noqa: FBT001 (the value itself)
    """Return an element that says true or false."""
    return f"<{name}>{'true' if is_set else 'false'}</{name}>"


def document(root: str, *children: str) -> bytes:
    """Return a whole answer in S3's namespace."""
    return f'{PROLOGUE}<{root} xmlns="{NAMESPACE}">{"".join(children)}</{root}>'.encode()


def bare_document(root: str, *children: str) -> bytes:
    """Return a whole answer without a namespace, as errors are."""
    return f"{PROLOGUE}<{root}>{''.join(children)}</{root}>".encode()


def shown_time(milliseconds: int) -> str:
    """Return a time as S3's documents write it."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"


def http_time(milliseconds: int) -> str:
    """Return a time as HTTP's headers write it."""
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment.weekday()]
    months = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
    return f"{day}, {moment.day:02d} {months[moment.month - 1]} {moment.year} {moment:%H:%M:%S} GMT"


def _reference(found: re.Match[str]) -> str:
    return f"&#x{ord(found[0]):X};"
