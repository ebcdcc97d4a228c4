"""Holds every example of OpenAPI 3.1 documents against its schema, with the jsonschema that others use."""

import json
import sys

from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


def bodies(document):
    routes = {**document["paths"], **document.get("webhooks", {})}
    for path, item in routes.items():
        for method, operation in item.items():
            for body in [operation.get("requestBody", {}), *operation["responses"].values()]:
                for media_type, content in body.get("content", {}).items():
                    yield f"{method.upper()} {path} {media_type}", content


def examples(document, content):
    if "example" in content:
        yield content["example"]
    for example in content.get("examples", {}).values():
        if "$ref" in example:
            example = document["components"]["examples"][example["$ref"].rsplit("/", 1)[1]]
        yield example["value"]


wrong = 0
for name in sys.argv[1:]:
    with open(name, encoding="utf-8") as file:
        document = json.load(file)
    registry = Registry().with_resource("urn:document", Resource(document, DRAFT202012))
    tried = 0
    for what, content in bodies(document):
        schema = json.loads(json.dumps(content["schema"]).replace('"#/', '"urn:document#/'))
        validator = Draft202012Validator(schema, registry=registry, format_checker=FormatChecker())
        for example in examples(document, content):
            tried += 1
            for fault in validator.iter_errors(example):
                wrong += 1
                print(f"{what}: {fault.json_path}: {fault.message}")
    print(f"{name}: {tried} examples")
sys.exit(wrong > 0)
