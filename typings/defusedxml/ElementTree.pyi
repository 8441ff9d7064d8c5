"""What the gateway uses of defusedxml."""

from xml.etree.ElementTree import Element

def fromstring(
    text: bytes, forbid_dtd: bool = False, forbid_entities: bool = True, forbid_external: bool = True
) -> Element: ...
