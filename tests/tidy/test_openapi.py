"""openapi.json and the code say the same: routes, problem types, limits, options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import resources
from typing import Any, cast

import pytest
from jsonschema import Draft202012Validator

from slimq import __version__, errors
from slimq.api.accept import Acceptor
from slimq.api.app import route_table
from slimq.api.handler_in import MEMBERS as HANDLER_MEMBERS
from slimq.api.jobs import Waits
from slimq.api.jobs_in import MEMBERS as JOB_MEMBERS
from slimq.api.ports import NodePort
from slimq.api.types import POLICY_MEMBERS, WEIGHT_MAX
from slimq.core.handler import LANGS, OPTION_NAMES
from slimq.core.jobtype import is_name
from slimq.core.limits import (
    ARGV_MAX,
    BATCH_MAX,
    CONCURRENCY_MAX,
    FUNCTION_BYTES_MAX,
    FUNCTION_FILES_MAX,
    FUNCTION_PROCESSES_MAX,
    IDEMPOTENCY_KEY_MAX,
    JSON_JOBS_MAX,
    LIST_IDS_MAX,
    LIST_MAX,
    WAIT_MAX_S,
)

DOCUMENT: Any = json.loads(resources.files("slimq.api").joinpath("openapi.json").read_bytes())
SCHEMAS = DOCUMENT["components"]["schemas"]
PARAMETERS = DOCUMENT["components"]["parameters"]
OPERATIONS = [
    (method.upper(), path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]


def http_errors(base: type[errors.SlimqError] = errors.SlimqError) -> Iterator[Any]:
    yield base
    for kind in base.__subclasses__():
        if kind is not errors.StartError:
            yield from http_errors(kind)


def nodes(node: Any = DOCUMENT) -> Iterator[dict[str, Any]]:
    """Yield every object of the document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


def resolve(node: Any) -> Any:
    while isinstance(node, dict) and "$ref" in node:
        at = DOCUMENT
        for name in node["$ref"].removeprefix("#/").split("/"):
            at = at[name]
        node = at
    return node


def test_the_document_is_openapi_3_1_of_this_version():
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert DOCUMENT["info"]["version"] == __version__
    Draft202012Validator.check_schema({"$defs": SCHEMAS})


def test_every_route_of_the_app_is_in_the_document_and_no_other():
    nothing = object()
    table = route_table(cast(NodePort, nothing), cast(Acceptor, nothing), Waits())
    served = {(method, path) for path, methods in table.items() for method in methods}
    assert {(method, path) for method, path, _ in OPERATIONS} == served


def test_every_problem_type_is_in_the_document_as_its_class_says():
    kinds = {kind.slug: kind for kind in http_errors()}
    listed = SCHEMAS["Problem"]["properties"]["type"]["enum"]
    assert listed == [f"/problems/{slug}" for slug in kinds]
    examples = DOCUMENT["components"]["examples"]
    assert examples.keys() == kinds.keys()
    for slug, example in examples.items():
        value = example["value"]
        assert value["type"] == f"/problems/{slug}"
        assert (value["status"], value["title"]) == (kinds[slug].status, kinds[slug].title)


def test_a_problem_is_documented_under_its_own_status():
    kinds = {kind.slug: kind for kind in http_errors()}
    for _, _, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            if status == "default":
                continue
            content = resolve(response)["content"].get("application/problem+json", {})
            for slug in content.get("examples", ()):
                assert str(kinds[slug].status) == status


def test_every_operation_has_a_name_of_its_own_a_summary_and_a_tag_that_exists():
    tags = {tag["name"] for tag in DOCUMENT["tags"]}
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)
    for _, path, operation in OPERATIONS:
        assert operation["summary"]
        assert set(operation["tags"]) <= tags
        in_path = {p["name"] for p in map(resolve, operation.get("parameters", []))}
        assert set(re.findall(r"\{(\w+)\}", path)) <= in_path


def test_every_reference_leads_somewhere_and_every_component_is_used():
    used = {node["$ref"] for node in nodes() if "$ref" in node}
    for reference in used:
        assert resolve({"$ref": reference}) is not None
    for kind in ("schemas", "parameters", "responses"):
        for name in DOCUMENT["components"][kind]:
            assert f"#/components/{kind}/{name}" in used, name


def _examples() -> Iterator[Any]:
    for method, path, operation in OPERATIONS:
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (resolve(body).get("content", {}) for body in bodies):
            for media, each in content.items():
                values = [each["example"]] if "example" in each else []
                values += [resolve(value)["value"] for value in each.get("examples", {}).values()]
                for value in values:
                    yield pytest.param(each["schema"], value, id=f"{method} {path} {media}")


@pytest.mark.parametrize(("schema", "value"), list(_examples()))
def test_every_example_fits_its_schema(schema: Any, value: Any):
    Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)


def test_every_query_parameter_is_bounded():
    for name, parameter in PARAMETERS.items():
        schema = resolve(parameter["schema"])
        bounds = {"enum", "const", "pattern", "maxLength", "maximum"}
        assert bounds & schema.keys() or parameter["in"] == "header", name


def test_the_bounds_are_those_of_the_code():
    assert PARAMETERS["Limit"]["schema"]["maximum"] == LIST_MAX
    assert PARAMETERS["Wait"]["schema"]["maximum"] == WAIT_MAX_S
    assert PARAMETERS["IdempotencyKey"]["schema"]["maxLength"] == IDEMPOTENCY_KEY_MAX
    assert SCHEMAS["AcceptedRange"]["properties"]["count"]["minimum"] == LIST_IDS_MAX + 1
    text, argv, files = SCHEMAS["HandlerBody"]["oneOf"]
    assert (text["maxLength"], argv["maxItems"]) == (FUNCTION_BYTES_MAX, ARGV_MAX)
    assert files["maxProperties"] == FUNCTION_FILES_MAX
    options = SCHEMAS["Options"]["properties"]
    assert options["processes"]["maximum"] == FUNCTION_PROCESSES_MAX
    assert options["batch_size"]["maximum"] == BATCH_MAX
    assert options["concurrency"]["maximum"] == CONCURRENCY_MAX
    policy = SCHEMAS["PolicyChange"]["properties"]
    assert policy["weight"]["maximum"] == WEIGHT_MAX
    assert policy["concurrency"]["maximum"] == CONCURRENCY_MAX
    assert policy["batch_size"]["maximum"] == BATCH_MAX
    jobs = DOCUMENT["paths"]["/jobs"]["post"]["requestBody"]["content"]["application/json"]
    assert jobs["schema"]["oneOf"][1]["maxItems"] == JSON_JOBS_MAX


def test_the_members_of_bodies_are_those_of_the_code():
    assert tuple(SCHEMAS["Options"]["properties"]) == OPTION_NAMES
    assert tuple(SCHEMAS["Lang"]["enum"]) == LANGS
    assert tuple(SCHEMAS["NewHandler"]["properties"]) == HANDLER_MEMBERS
    assert set(SCHEMAS["NewJob"]["properties"]) == set(JOB_MEMBERS)
    assert tuple(SCHEMAS["PolicyChange"]["properties"]) == POLICY_MEMBERS


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-D", "a" * 128, "", "-a", "a b", "a" * 129, "é"])
def test_a_name_is_what_the_code_takes_for_one(name: str):
    assert Draft202012Validator(SCHEMAS["Name"]).is_valid(name) is is_name(name)
