"""The OpenAPI document as one page of HTML: no script, and nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { overflow: auto; padding: .75rem; border: 1px solid #8884; border-radius: .4rem }
summary { cursor: pointer; padding: .3rem 0 }
summary b { display: inline-block; min-width: 3.5rem }
h2 { border-bottom: 1px solid #8884; margin-top: 2rem }
"""


def page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document."""
    groups: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            groups.setdefault(operation["tags"][0], []).append(_operation(path, method, operation))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(entries)}" for tag, entries in groups.items()]
    schemas = [
        f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary>'
        f"{_code(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    ]
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f"<p>{escape(info['description'])}</p>"
        f'<p>The same for programs: <a href="/openapi.json">/openapi.json</a></p>'
        f"{''.join(parts)}<h2>schemas</h2>{''.join(schemas)}</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    asked = operation.get("requestBody", {}).get("content", {})
    answers = operation["responses"]["200"]["content"]
    return (
        f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code> "
        f"{escape(operation['summary'])}</summary>"
        f"{_parameters(operation)}{_contents('request', asked)}{_contents('answer', answers)}"
        f"</details>"
    )


def _parameters(operation: dict[str, Any]) -> str:
    return "".join(
        f"<p>{escape(each['in'])} <code>{escape(each['name'])}</code> "
        f"{escape(each.get('description', ''))}</p>"
        for each in operation.get("parameters", ())
    )


def _contents(what: str, contents: dict[str, Any]) -> str:
    return "".join(
        f"<p>{what}, {escape(kind)}: {_link(content['schema'])}</p>"
        for kind, content in contents.items()
    )


def _link(schema: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    return f'<a href="#{escape(name)}"><code>{escape(name)}</code></a>' if name else "text"


def _code(schema: dict[str, Any]) -> str:
    return f"<pre>{escape(json.dumps(schema, indent=2, ensure_ascii=False))}</pre>"
