"""Checks `openapi/`: valid by independent validators, open where we receive, and named as AuthPI's own SDK names things.

Run with the packages of requirements.txt: `python tests/interop/validate_openapi.py`. Prints a line per check and ends with 1 if
any fails.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, Iterator

from authpi_admin.generated import models
from authpi_admin.generated.resources.deliveries import DeliveriesResource
from authpi_admin.generated.resources.events import EventsResource
from authpi_admin.generated.resources.redeliver import RedeliverResource
from authpi_admin.generated.resources.webhooks import WebhooksResource
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from description import DOCUMENT, EVENTS, OPENAPI, Description

# Our schema, AuthPI's model of it, and the members that only we have.
SAME_MEMBERS = [
    ("CreateWebhookInput", models.CreateWebhookInput, set()),
    ("UpdateWebhook", models.UpdateWebhook, set()),
    ("Webhook", models.Webhook, set()),
    ("WebhookListItem", models.WebhookListItem, set()),
    ("WebhookWithSecrets", models.WebhooksCreateResponse, {"signature_secret_plain", "bearer_token_plain"}),
    ("WebhookWithSecrets", models.WebhooksUpdateResponse, {"signature_secret_plain", "bearer_token_plain"}),
    ("WebhookDelivery", models.WebhookDeliveriesListItem, set()),
    ("RedeliveredWebhookDelivery", models.WebhookDeliveriesRedeliverResponse, set()),
    ("Event", models.Event, set()),
    ("EventAggregate", models.EventsAggregateResponse, set()),
    ("Me", models.CallerIdentity, set()),
    ("CallerAccountAccess", models.CallerAccountAccess, set()),
    ("CallerOrganizationAccess", models.CallerOrganizationAccess, set()),
    ("ApiError", models.ApiError, set()),
    ("FieldError", models.FieldError, set()),
    ("PreconditionFailedError", models.PreconditionFailedError, {"currentETag"}),
]

# Our operation and the SDK's call for it.
SAME_PARAMETERS = [
    ("webhooks.list", WebhooksResource.list),
    ("webhooks.create", WebhooksResource.create),
    ("webhooks.get", WebhooksResource.get),
    ("webhooks.update", WebhooksResource.update),
    ("webhooks.delete", WebhooksResource.delete),
    ("webhooks.listDeliveries", DeliveriesResource.list),
    ("webhooks.redeliver", DeliveriesResource.redeliver),
    ("webhooks.redeliverFailed", RedeliverResource.create),
    ("events.list", EventsResource.list),
    ("events.aggregate", EventsResource.aggregate),
    ("events.get", EventsResource.get),
]

URL = "https://example.com/hooks/authpi"
ACCEPTED = [
    ("CreateWebhookInput", {"name": "n", "url": URL}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "auth": {"type": "signature"}, "events": ["user.created"]}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "auth": {"type": "bearer+signature", "signature_algorithm": "hmac-sha256"}}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "auth": {"type": "bearer", "bearer_token": "t", "later": 1}, "status": None}),
    ("UpdateWebhook", {}),
    ("UpdateWebhook", {"description": None, "metadata": None, "auth": None, "status": "disabled"}),
    ("RedeliverFailedInput", {}),
    ("Webhook", {"id": "a", "account_id": "b", "name": "", "url": "", "auth": {"type": "ed25519", "key": 1}, "events": ["new.type"],
                 "created_at": 1, "status": "quarantined", "new": []}),
    ("PreconditionFailedError", {"error": "e", "error_description": "", "retryable": False, "currentETag": '"1"'}),
]
REFUSED = [
    ("CreateWebhookInput", {"url": URL}),
    ("CreateWebhookInput", {"name": "", "url": URL}),
    ("CreateWebhookInput", {"name": "n"}),
    ("CreateWebhookInput", {"name": "n", "url": "example.com/hooks"}),
    ("CreateWebhookInput", {"name": "n", "url": "ftp://example.com"}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "auth": {"type": "basic"}}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "auth": {"type": "signature", "signature_algorithm": "md5"}}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "auth": {}}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "events": ["user.*"]}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "events": []}),
    ("CreateWebhookInput", {"name": "n", "url": URL, "status": "failing"}),
    ("UpdateWebhook", {"url": "nowhere"}),
    ("UpdateWebhook", {"events": ["user.made"]}),
    ("RedeliverFailedInput", {"after": "yesterday"}),
]


def main() -> int:
    description = Description()
    failed = 0
    for check in CHECKS:
        mistakes = list(check(description))
        print(f"{'FAIL' if mistakes else 'ok  '}  {check.__doc__}")
        for mistake in mistakes:
            print(f"      {mistake}")
        failed += bool(mistakes)
    return 1 if failed else 0


def is_openapi(description: Description) -> Iterator[str]:
    """authpi.yaml is valid OpenAPI 3.1"""
    try:
        validate(description.document, base_uri=DOCUMENT.as_uri())
    except Exception as error:  # noqa: BLE001: whatever the validator says is the mistake
        yield str(error)


def is_json_schema(description: Description) -> Iterator[str]:
    """the event schemas are valid JSON Schema 2020-12, under the id of their place"""
    for name, schema in description.events.items():
        try:
            Draft202012Validator.check_schema(schema)
        except Exception as error:  # noqa: BLE001
            yield f"{name}: {error}"
        if schema.get("$id") != name:
            yield f"{name}: its $id is {schema.get('$id')!r}"


def examples_hold(description: Description) -> Iterator[str]:
    """each example is valid by its schema"""
    for name, schema in description.events.items():
        for example in schema.get("examples", []):
            for mistake in description.mistakes(f"events/{name}", example):
                yield f"{name}: {mistake}"


def references_resolve(description: Description) -> Iterator[str]:
    """every reference points to something"""
    for name, schema in [("authpi.yaml", description.document), *((f"events/{n}", s) for n, s in description.events.items())]:
        for where, node in walk(schema):
            if isinstance(node, dict) and isinstance(node.get("$ref"), str):
                try:
                    description.registry.resolver(name).lookup(node["$ref"])
                except Exception as error:  # noqa: BLE001
                    yield f"{name}#{where}: {error}"


def payloads_are_lenient(description: Description) -> Iterator[str]:
    """each payload says how sure it is, describes its members and requires none"""
    for name, schema in description.events.items():
        if not name.startswith("data/"):
            continue
        for word in ("title", "description", "x-authpi-source", "x-authpi-subject"):
            if not schema.get(word):
                yield f"{name}: no {word}"
        if schema.get("required"):
            yield f"{name}: requires {schema['required']}"
        yield from (f"{name}: {m} is not described" for m, s in schema["properties"].items() if not s.get("description"))
        known = description.events["subject.json"]["properties"]
        yield from (f"{name}: {s} is not in subject.json" for s in schema.get("x-authpi-subject", []) if s not in known)


def catalogue_is_the_peers(description: Description) -> Iterator[str]:
    """the catalogue has AuthPI's event types in AuthPI's order, each with a payload"""
    peer = [str(member) for member in models.WebhookEventType]
    ours = description.events["event-type.json"]["enum"]
    entries = description.events["catalogue.json"]["oneOf"]
    if ours != peer:
        yield f"event-type.json: {differing(ours, peer)}"
    if [entry["properties"]["type"]["const"] for entry in entries] != peer:
        yield "catalogue.json: other types, or in another order"
    for entry in entries:
        if "$ref" not in entry["properties"].get("data", {}):
            yield f"catalogue.json: {entry['title']} has no payload"


def members_are_the_peers(description: Description) -> Iterator[str]:
    """each schema has the members that AuthPI's SDK has"""
    for name, model, own in SAME_MEMBERS:
        peer = set(getattr(model, "model_fields", None) or model.__annotations__)
        ours = set(description.document["components"]["schemas"][name]["properties"]) - own
        if ours != peer:
            yield f"{name}: {differing(ours, peer)}"


def parameters_are_the_peers(description: Description) -> Iterator[str]:
    """each call has the parameters that AuthPI's SDK has"""
    operations = {name: (path, operation) for path, _, name, operation in description.operations()}
    for name, call in SAME_PARAMETERS:
        path, operation = operations[name]
        ours = {p["name"].lower().replace("-", "_") for p in description.parameters(path, operation) if p["in"] != "path"}
        if "requestBody" in operation:
            ours.add("body")
        peer = set(inspect.signature(call).parameters) - {"self", "timeout", "headers", "resource_id", "delivery_id", "event_id"}
        if ours != peer:
            yield f"{name}: {differing(ours, peer)}"
    yield from (f"{name} is compared with nothing" for name in operations if name not in dict(SAME_PARAMETERS) and name != "me.get")


def received_is_open(description: Description) -> Iterator[str]:
    """what is received is open: no closed enumeration, length, pattern or member list"""
    roots: dict[str, Any] = {}
    for _, _, name, operation in description.operations():
        for status, answer in operation["responses"].items():
            for media in description.resolve(answer).get("content", {}).values():
                roots[f"{name} {status}"] = media["schema"]
    seen: set[str] = set()
    for root, schema in roots.items():
        yield from closed(description, schema, root, seen)
    for name in ("envelope.json", "event.json", "subject.json"):
        yield from closed(description, description.events[name], name, seen)


def closed(description: Description, schema: Any, where: str, seen: set[str]) -> Iterator[str]:
    if isinstance(schema, list):
        for item in schema:
            yield from closed(description, item, where, seen)
        return
    if not isinstance(schema, dict):
        return
    ref = schema.get("$ref")
    if ref and ref.startswith("#/") and ref not in seen:
        seen.add(ref)
        yield from closed(description, description.resolve(schema), ref, seen)
    for word in ("pattern", "minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "oneOf"):
        if word in schema:
            yield f"{where}: {word}"
    if schema.get("additionalProperties") is False:
        yield f"{where}: additionalProperties is false"
    if "enum" in schema:
        yield f"{where}: a closed enum"
    branches = schema.get("anyOf", [])
    open_enum = {"type": "string"} in branches
    for branch in branches:
        if not (open_enum and "enum" in branch):
            yield from closed(description, branch, where, seen)
    for word in ("properties", "items"):
        inner = schema.get(word)
        for part in inner.values() if word == "properties" and inner else [inner]:
            yield from closed(description, part, where, seen)


def names_stay_apart(description: Description) -> Iterator[str]:
    """no two schemas, members or values are alike once written as Rust names"""
    schemas = description.document["components"]["schemas"]
    groups = [("schemas", list(schemas))]
    groups += [(f"members of {n}", list(s.get("properties", {}))) for n, s in schemas.items()]
    groups += [(f"members of {n}", list(s.get("properties", {}))) for n, s in description.events.items()]
    groups += [("payloads", [s["title"] for s in description.events.values()])]
    groups += [("event types", [e["title"] for e in description.events["catalogue.json"]["oneOf"]])]
    for _, node in walk(description.document):
        if isinstance(node, dict) and isinstance(node.get("enum"), list):
            groups.append(("values", node["enum"]))
    groups.append(("event type names", description.events["event-type.json"]["enum"]))
    for what, names in groups:
        mangled: dict[str, str] = {}
        for name in names:
            other = mangled.setdefault(snake(name), name)
            if other != name:
                yield f"{what}: {other} and {name}"


def snake(name: str) -> str:
    parted = re.sub(r"([a-z0-9])(?=[A-Z])|([A-Z])(?=[A-Z][a-z])", r"\1\2_", name)
    return re.sub(r"[^a-z0-9μ]+", "_", parted.lower()).strip("_")


def texts_are_prose(description: Description) -> Iterator[str]:
    """no description holds a code block, which would become a doctest"""
    for name, schema in [("authpi.yaml", description.document), *description.events.items()]:
        for where, node in walk(schema):
            text = node.get("description") if isinstance(node, dict) else None
            if isinstance(text, str) and ("```" in text or re.search(r"^(    |\t)", text, re.MULTILINE)):
                yield f"{name}#{where}"


def requests_are_judged(description: Description) -> Iterator[str]:
    """AuthPI's older create call is valid, and each common mistake is not"""
    for name, instance in ACCEPTED:
        for mistake in description.mistakes(f"/components/schemas/{name}", instance):
            yield f"{name} {instance}: {mistake}"
    for name, instance in REFUSED:
        if not description.mistakes(f"/components/schemas/{name}", instance):
            yield f"{name} {instance} is taken for valid"


def provenance_is_whole(description: Description) -> Iterator[str]:
    """PROVENANCE.md names each operation, schema, header and payload"""
    text = (OPENAPI / "PROVENANCE.md").read_text()
    shapes = ("Response", "Page")
    wanted = [name for _, _, name, _ in description.operations()]
    wanted += [n for n in description.document["components"]["schemas"] if not n.endswith(shapes)]
    wanted += [name.removeprefix("data/").removesuffix(".json") for name in description.events if name.startswith("data/")]
    wanted += [f"events/{name}" for name in description.events if not name.startswith("data/")]
    wanted += ["`ETag`", "`Retry-After`", "`If-Match`", "Idempotent-Replayed", "X-Webhook-Signature"]
    words = set(re.findall(r"[\w./-]+", text))
    for name in wanted:
        if name.strip("`") not in words and name not in text:
            yield name


def walk(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    yield where, node
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, f"{where}/{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from walk(value, f"{where}/{index}")


def differing(ours: Any, peer: Any) -> str:
    return f"only here {sorted(set(ours) - set(peer))}, only there {sorted(set(peer) - set(ours))}"


CHECKS = [
    is_openapi,
    is_json_schema,
    references_resolve,
    examples_hold,
    payloads_are_lenient,
    catalogue_is_the_peers,
    members_are_the_peers,
    parameters_are_the_peers,
    received_is_open,
    names_stay_apart,
    texts_are_prose,
    requests_are_judged,
    provenance_is_whole,
]

if __name__ == "__main__":
    assert EVENTS.is_dir()
    sys.exit(main())
