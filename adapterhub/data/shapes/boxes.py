"""Boxes around objects in images: COCO and Pascal VOC.

Examples have ``image``, ``width`` and ``height`` in pixels, and ``objects`` with ``bbox`` ``[x, y,
width, height]`` in pixels from 0, as in COCO, and ``label``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from adapterhub.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from adapterhub.data.store import Example


def is_coco(example: Example) -> bool:
    """Return whether an object is a whole file of COCO."""
    return all(
        isinstance(example.get(key), list) for key in ("images", "annotations", "categories")
    )


def coco(example: Example, place: str) -> Iterator[Example]:
    """Yield the images of a COCO file, also those without objects; crowds are left out.

    Source: https://cocodataset.org/#format-data
    """
    try:
        labels = {each["id"]: each["name"] for each in example["categories"]}
        boxes: dict[Any, list[dict[str, Any]]] = {each["id"]: [] for each in example["images"]}
        for at, each in enumerate(example["annotations"], start=1):
            _add_box(boxes, labels, each, f"{place}, annotation {at}")
        for image in example["images"]:
            yield {
                "image": image["file_name"],
                "width": image.get("width"),
                "height": image.get("height"),
                "objects": boxes[image["id"]],
            }
    except (KeyError, TypeError) as error:
        raise DataError(f"is not complete: no {error}", place=place) from error


def voc(text: str, origin: str) -> Example:
    """Return the image and boxes of an annotation file of Pascal VOC.

    Its pixels count from 1 and a box holds its last pixel, so the first corner is moved by 1.
    Source: Everingham et al., VOC2012 development kit, section 8.

    Raises:
        DataError: when it is not such a file.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DataError("declares entities, which annotation files do not have", place=origin)
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DataError(f"is not valid XML: {error}", place=origin) from error
    objects = [
        _voc_object(each, f"{origin}, object {at}")
        for at, each in enumerate(root.iter("object"), 1)
    ]
    return {
        "image": _text(root, "filename", origin),
        "width": _number(root, "size/width", origin),
        "height": _number(root, "size/height", origin),
        "objects": objects,
    }


def _add_box(
    boxes: dict[Any, list[dict[str, Any]]],
    labels: dict[Any, str],
    annotation: dict[str, Any],
    place: str,
) -> None:
    if annotation.get("iscrowd"):
        return
    box = annotation["bbox"]
    if annotation["image_id"] not in boxes:
        raise DataError(f"there is no image {annotation['image_id']!r}", place=place)
    if annotation["category_id"] not in labels:
        raise DataError(f"there is no category {annotation['category_id']!r}", place=place)
    if not isinstance(box, list) or len(box) != 4:
        raise DataError(f"a box is [x, y, width, height], not {box!r:.80}", place=place)
    found = {"bbox": box, "label": labels[annotation["category_id"]]}
    boxes[annotation["image_id"]].append(found)


def _voc_object(element: ElementTree.Element, place: str) -> dict[str, Any]:
    left, top, right, bottom = (
        _number(element, f"bndbox/{name}", place) for name in ("xmin", "ymin", "xmax", "ymax")
    )
    box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
    return {"bbox": box, "label": _text(element, "name", place)}


def _text(element: ElementTree.Element, path: str, place: str) -> str:
    found = (element.findtext(path) or "").strip()
    if not found:
        raise DataError(f"has no {path}", place=place)
    return found


def _number(element: ElementTree.Element, path: str, place: str) -> float:
    text = _text(element, path, place)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path} must be a number, not {text!r:.40}", place=place) from None
