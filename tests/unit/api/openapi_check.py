"""Holds answers against openapi.json: every call of the bench goes through here."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator

PROBLEM = "application/problem+json"
METHODS = ("get", "put", "post", "delete", "patch")


@cache
def document() -> Any:
    return json.loads(resources.files("slimq.api").joinpath("openapi.json").read_bytes())


def resolve(node: Any) -> Any:
    """Return what a `$ref` inside the document stands for."""
    while isinstance(node, dict) and "$ref" in node:
        at = document()
        for name in node["$ref"].removeprefix("#/").split("/"):
            at = at[name.replace("~1", "/")]
        node = at
    return node


def operations() -> list[tuple[str, str]]:
    return [
        (method.upper(), path)
        for path, item in document()["paths"].items()
        for method in item
        if method in METHODS
    ]


def operation(method: str, path: str) -> Any:
    return document()["paths"][path][method.lower()]


def parameters(method: str, path: str) -> list[Any]:
    return [resolve(each) for each in operation(method, path).get("parameters", [])]


def slugs(response: Any) -> list[str]:
    """Return the types of problems that a documented response lists."""
    content = resolve(response)["content"].get(PROBLEM, {})
    return list(content.get("examples", {}))


def find_path(path: str) -> str | None:
    """Return the documented path that a request path fits, the most literal one."""
    for candidate in sorted(document()["paths"], key=lambda each: (each.count("{"), each)):
        if re.fullmatch(re.sub(r"\{[a-z]+\}", "[^/]+", candidate), path):
            return str(candidate)
    return None


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": document()["components"]}
    return Draft202012Validator(whole)


def check_value(schema: Any, value: Any) -> None:
    _validator(json.dumps(schema)).validate(value)


def check_reply(method: str, path: str, status: int, media: str, body: bytes) -> None:
    """Fail when an answer is not what the document says of its route."""
    documented = find_path(path)
    documented_method = "get" if method == "HEAD" else method.lower()
    item = document()["paths"].get(documented, {})
    responses = item.get(documented_method, {}).get("responses", {})
    fallback = resolve(document()["components"]["responses"]["Problem"])
    response = resolve(responses.get(str(status), fallback))
    media = media.partition(";")[0]
    assert media in response["content"], (
        f"{method} {documented}: {status} {media} is not documented"
    )
    if media == PROBLEM:
        problem = json.loads(body)
        slug = problem["type"].removeprefix("/problems/")
        listed = [*slugs(response), *slugs(fallback)]
        assert slug in listed, f"{method} {documented}: {status} {slug} is not documented"
        check_value({"$ref": "#/components/schemas/Problem"}, problem)
        assert problem["status"] == status
    elif media == "application/json" and method != "HEAD":
        check_value(response["content"][media]["schema"], json.loads(body))
