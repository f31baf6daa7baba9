"""The OpenAPI document, made of the operations and their schemas, and a page that shows it."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, JSONResponse

from adapterhub.server.schemas.base import ErrorAnswer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import BaseModel
    from starlette.responses import Response

    from adapterhub.server.context import Call
    from adapterhub.server.operations import Handler, Operation

_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"{(\w+)(?::\w+)?}")
_DESCRIPTION = (
    "Text, labels and vectors from one frozen backbone and many adapters. The `model` of a "
    "request is the backbone's name, an adapter, or a blend such as `a@prod*0.7+b*0.3`. "
    "Every answer tells in its headers which adapters and which backbone gave it."
)


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of some operations."""
    models: list[tuple[type[BaseModel], Any]] = [(ErrorAnswer, "validation")]
    for each in operations:
        models += [(kind, "validation") for kind in (each.body, each.answer) if kind is not None]
    _, definitions = models_json_schema(list(dict.fromkeys(models)), ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        path = _PARAMETER.sub(r"{\1}", each.path)
        paths.setdefault(path, {})[each.method.lower()] = _operation(each)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "adapterhub",
            "version": version("adapterhub"),
            "description": _DESCRIPTION,
        },
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def describing(operations: Sequence[Operation]) -> tuple[Handler, Handler]:
    """Return the handlers of the document and of its page."""
    found = document(operations)

    async def as_json(_call: Call, _body: None) -> Response:
        """Describe the API."""
        return JSONResponse(found)

    async def as_page(_call: Call, _body: None) -> Response:
        """Describe the API for people."""
        from adapterhub.server.openapi_page import page

        policy = "default-src 'none'; style-src 'unsafe-inline'"
        return HTMLResponse(page(found), headers={"Content-Security-Policy": policy})

    return as_json, as_page


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": operation.handler.__name__,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(operation),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": True, "description": text, "schema": _TEXT}
        for name, text in operation.query
    ]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        content = {"application/json": {"schema": _ref(operation.body)}}
        found["requestBody"] = {"required": True, "content": content}
    if not operation.open:
        found["security"] = [{}, {"key": []}]
    return found


def _responses(operation: Operation) -> dict[str, Any]:
    kind = operation.media
    schema = {"type": "string"} if operation.answer is None else _ref(operation.answer)
    if operation.answer is None and kind == "application/json":
        schema = {"type": "object"}
    content: dict[str, Any] = {kind: {"schema": schema}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    error = {"application/json": {"schema": _ref(ErrorAnswer)}}
    return {
        "200": {"description": "What was asked for.", "content": content},
        "default": {"description": "What went wrong.", "content": error},
    }


_TEXT = {"type": "string", "minLength": 1}


def _ref(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REF.format(model=model.__name__)}
