"""Holds requests and answers against `connect.openapi.yaml`: whatever it does not describe is a problem."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import yaml
from jsonschema import Draft202012Validator

_METHODS = frozenset({"get", "post", "patch", "delete"})


class Description:
    """The description, ready to judge.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        document = yaml.safe_load(path.read_text("utf-8"))
        paths: dict[str, Any] = _whole(document["paths"], document)
        self._validators: dict[int, Draft202012Validator] = {}
        self._operations = [
            (method, re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))), item)
            for template, item in paths.items()
            for method in _METHODS & set(item)
        ]
        self.seen: set[str] = set()

    @property
    def operations(self) -> frozenset[str]:
        """The ids of all operations."""
        return frozenset(item[method]["operationId"] for method, _, item in self._operations)

    def problems_of(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes,
        status: int,
        media_type: str,
        answer: bytes,
    ) -> list[str]:
        """What of an exchange the description does not allow.

        Args:
            method: the request's method.
            target: its path and query, as it was sent.
            headers: its header fields, in lower case.
            body: its body.
            status: the answer's status.
            media_type: its `Content-Type`; empty if it has none.
            answer: its body.
        """
        path, _, query = target.partition("?")
        fits = [
            (item, item[known], match)
            for known, pattern, item in self._operations
            if known == method.lower() and (match := pattern.fullmatch(path))
        ]
        if not fits:
            return [f"{method} {path} is not described"]
        ((item, operation, match),) = fits
        self.seen.add(operation["operationId"])
        problems = self._of_parameters(item, operation, match.groupdict(), dict(parse_qsl(query)))
        if operation.get("security", True) and not re.fullmatch(r"Bearer \S+", headers.get("authorization", "")):
            problems.append("the token is missing")
        if "authorization" in headers and operation.get("security") == []:
            problems.append("the token is sent where none is asked for")
        if "requestBody" in operation:
            problems += self._of_body(operation["requestBody"], headers.get("content-type", ""), body)
        elif body:
            problems.append("there is a body")
        if str(status) not in operation["responses"]:
            return [*problems, f"status {status} is not described"]
        problems += self._of_body(operation["responses"][str(status)], media_type, answer)
        return [f"{operation['operationId']}: {problem}" for problem in problems]

    def _of_parameters(
        self, item: Mapping[str, Any], operation: Mapping[str, Any], path: Mapping[str, str], query: Mapping[str, str]
    ) -> list[str]:
        given = {("path", name): value for name, value in path.items()}
        given |= {("query", name): value for name, value in query.items()}
        problems = []
        for parameter in (*item.get("parameters", ()), *operation.get("parameters", ())):
            value = given.pop((parameter["in"], parameter["name"]), None)
            if value is not None:
                problems += self._check(parameter["schema"], value)
        return problems + [f"the parameter {name} is not described" for _, name in given]

    def _of_body(self, described: Mapping[str, Any], media_type: str, body: bytes) -> list[str]:
        media = media_type.partition(";")[0]
        if "content" not in described:
            return ["there is a body"] if body else []
        if media not in described["content"]:
            return [f"the media type {media!r} is not described"]
        schema = described["content"][media].get("schema")
        try:
            return [] if schema is None else self._check(schema, json.loads(body))
        except ValueError:
            return ["the body is no JSON"]

    def _check(self, schema: Mapping[str, Any], value: object) -> list[str]:
        validator = self._validators.setdefault(id(schema), Draft202012Validator(schema))
        return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


def _whole(node: Any, document: Mapping[str, Any]) -> Any:
    """A part of the document with all that it refers to in the references' places; nothing refers to itself."""
    if isinstance(node, list):
        return [_whole(each, document) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" not in node:
        return {key: _whole(value, document) for key, value in node.items()}
    found: Any = document
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return _whole(found, document)
