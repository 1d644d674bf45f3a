"""The description in `openapi/`, read by validators that have nothing to do with our own code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Iterator

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

OPENAPI = Path(__file__).resolve().parents[2] / "openapi"
DOCUMENT = OPENAPI / "authpi.yaml"
EVENTS = OPENAPI / "events"
METHODS = ("get", "post", "patch", "put", "delete")


class Description:
    """`authpi.yaml` and the schemas under `events/`, with every `$ref` answered from disk."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = yaml.safe_load(DOCUMENT.read_text())
        self.events: dict[str, dict[str, Any]] = {
            path.relative_to(EVENTS).as_posix(): json.loads(path.read_text()) for path in sorted(EVENTS.rglob("*.json"))
        }
        resources = [("events/" + name, self._resource(schema)) for name, schema in self.events.items()]
        resources.append(("authpi.yaml", self._resource(self.document)))
        self.registry = Registry().with_resources(resources)

    @staticmethod
    def _resource(contents: dict[str, Any]) -> Resource:
        # Addresses are places on disk; the `$id`s, which are relative to `events/`, are checked on their own.
        return Resource(contents={k: v for k, v in contents.items() if k != "$id"}, specification=DRAFT202012)

    def validator(self, pointer: str) -> Draft202012Validator:
        """A validator for the schema at `authpi.yaml#pointer` or at `events/…`."""
        schema = {"$ref": pointer if pointer.startswith("events/") else f"authpi.yaml#{pointer}"}
        return Draft202012Validator(schema, registry=self.registry, format_checker=FormatChecker())

    def mistakes(self, pointer: str, instance: Any) -> list[str]:
        """What the schema at `pointer` has against `instance`."""
        return [
            f"{error.json_path}: {error.message}"
            for error in sorted(self.validator(pointer).iter_errors(instance), key=lambda e: e.json_path)
        ]

    def operations(self) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
        """Path, method, operation id and operation of every call."""
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method in item:
                    yield path, method, item[method]["operationId"], item[method]

    def operation_of(self, method: str, path: str) -> tuple[str, str, dict[str, Any]] | None:
        """Template, operation id and operation that a request belongs to; a fixed segment wins over a parameter."""
        found = []
        for template, verb, name, operation in self.operations():
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
            if verb == method.lower() and re.fullmatch(pattern, path):
                found.append((template.count("{"), template, name, operation))
        return min(found)[1:] if found else None

    def resolve(self, node: Any) -> Any:
        """`node`, or what its local `$ref` points to."""
        while isinstance(node, dict) and "$ref" in node and node["$ref"].startswith("#/"):
            target: Any = self.document
            for part in node["$ref"][2:].split("/"):
                target = target[part.replace("~1", "/").replace("~0", "~")]
            node = target
        return node

    def parameters(self, path: str, operation: dict[str, Any]) -> list[dict[str, Any]]:
        """Parameters of an operation, those of its path first."""
        shared = self.document["paths"][path].get("parameters", [])
        return [self.resolve(parameter) for parameter in shared + operation.get("parameters", [])]

    def answer_mistakes(self, method: str, path: str, status: int, headers: Any, body: bytes) -> list[str]:
        """What the description has against an answer."""
        found = self.operation_of(method, path)
        if found is None:
            return []
        template, name, operation = found
        answers = operation["responses"]
        key = next((k for k in (str(status), f"{status // 100}XX") if k in answers), None)
        if key is None:
            return [f"{name} is not described to answer {status}"]
        answer = self.resolve(answers[key])
        mistakes = []
        if status < 300:
            mistakes += [f"{name} {status} lacks the header {h}" for h in answer.get("headers", {}) if h == "ETag" and h not in headers]
        content = answer.get("content")
        if content is None:
            return mistakes + ([f"{name} {status} has a body"] if body else [])
        if not headers.get("content-type", "").startswith("application/json"):
            return mistakes + [f"{name} {status} is {headers.get('content-type')!r}, not application/json"]
        schema = content["application/json"]["schema"]
        pointer = schema["$ref"][1:]
        return mistakes + [f"{name} {status} {m}" for m in self.mistakes(pointer, json.loads(body))]
