"""Follows every link of the document once, with what really was made, and holds each answer against the document.

A create is followed by what can be read of the new thing, what lies in it, what can be done with it, and its end. Prints one JSON object: how
many links were followed, and every call that was not answered with success.
"""

import json

import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.generation.stateful.state_machine import StepOutput
from schemathesis.specs.openapi import expressions
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

import lab

SCHEMA = schemathesis.openapi.from_url(lab.URL + "/docs/openapi.json")
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
# In this order: what ends a thing comes last, and what brings it back after that.
LATER = ("/suspend", "/unsuspend", "/drain", "/undrain", "/rotate", "/resume", "/abort", "/cancel", "/jobs/{id}/retry", "/resolve", "/forget")
# A stream has no end: the fuzzer reads the beginning of it.
STREAMS = ("/api/v1/events", "/api/v1/fqdns/{fqdnID}/requests")
# What is undone was made: an undo is come to by links alone.
UNDRIVEN = (*STREAMS, "/api/v1/undo", "/login-sessions/validate")
KEPT = set(lab.THINGS.values())
FOLLOWED = set()
CALLED = {}
READS = set()
FAILED = []


def order(target):
    method, path = target.split(" ", 1)
    if path.endswith("/undelete"):
        return 7
    if method == "DELETE":
        return 6 if path.endswith("}") and path.count("{") == 1 else 4
    if path.endswith("/undo"):
        return 8
    for place, end in enumerate(LATER):
        if path.endswith(end):
            return 5 + place / 100
    return {"GET": 0, "PUT": 1, "PATCH": 1}.get(method, 2)


def call(label, path_parameters, query, headers, body):
    method, path = label.split(" ", 1)
    operation = SCHEMA[path][method]
    media = next(iter(lab.OPERATIONS[label].get("requestBody", {}).get("content", {})), None)
    given = {"path_parameters": path_parameters, "query": {**lab.sound_query(label), **query}, "headers": headers}
    if media is not None and body is not None:
        given.update(body=body, media_type=media)
    case = operation.Case(**given)
    answer = case.call(headers={"Authorization": lab.SESSION.headers["Authorization"]})
    checks = CHECKS if path.endswith("/await") or answer.status_code == 501 else [not_a_server_error, *CHECKS]
    case.validate_response(answer, checks=checks)
    lab.note(label, answer)
    CALLED.setdefault(label, set()).add(answer.status_code)
    if not 200 <= answer.status_code < 300:
        FAILED.append({"operation": label, "status": answer.status_code, "said": answer.text[:300]})
    return StepOutput(response=answer, case=case)


def succeeded(output):
    return 200 <= output.response.status_code < 300


def value_of(expression, output):
    if isinstance(expression, dict):
        return {name: value_of(inner, output) for name, inner in expression.items()}
    return expressions.evaluate(expression, output)


def reach(label, target, link, output):
    """Follows a link; None: the answer has nothing to follow it with, or what the lab stands on would be changed."""
    if target.endswith(STREAMS):
        return None
    values = {name: value_of(where, output) for name, where in link.get("parameters", {}).items()}
    if any(not isinstance(value, str) for value in values.values()):
        return None
    known = {one["name"]: one["in"] for one in lab.OPERATIONS[target]["parameters"]}
    path = {name: value for name, value in values.items() if known[name] == "path"}
    if order(target) > 0 and any(value in KEPT for value in path.values()):
        return None
    FOLLOWED.add(f"{label} -> {target}")
    for word, parameter in lab.PARAMETER.findall(target):
        path.setdefault(parameter, "APP_ENV" if word == "env-vars" else "none")
    if target.startswith("POST") and target.endswith("/{fqdnID}/certificates"):
        # The example's certificate is for this name alone.
        path["fqdnID"] = lab.THINGS["fqdns"]
    headers = {name: value for name, value in values.items() if known[name] == "header"}
    body = lambda: value_of(link["requestBody"], output) if "requestBody" in link else lab.sound_body(target, path)
    again = lambda: call(target, path, {}, headers, body())
    reached = again()
    if target.startswith("GET ") and succeeded(reached) and lab.word_of_made(label):
        READS.add(label)
    return reached, again


def follow(label, output, above, make=None):
    """Follows the links of an answer. `above`: the operations that led here, which are not gone through again. `make`: makes another one of what
    the answer shows, for what can be done once."""
    above = above | {label}
    targets = sorted(lab.links(lab.OPERATIONS[label]), key=lambda one: order(one[0]))
    early = []
    for target, link in targets:
        if f"{label} -> {target}" in FOLLOWED or target in above:
            continue
        if order(target) >= 5:
            for repeat in early:
                repeat()
            early = []
            # What a read leads to comes before the end of what was read.
            if make is None and label.startswith("GET ") and label.endswith("}"):
                break
        reached = reach(label, target, link, output)
        if reached is None:
            continue
        reached, again = reached
        if not succeeded(reached):
            if order(target) == 0:
                early.append(again)
            elif order(target) >= 5 and make is not None:
                # It has ended another way.
                other = make()
                if succeeded(other):
                    reach(label, target, link, other)
            continue
        if target.endswith("/login-sessions"):
            call(target.rsplit("/api/v1", 1)[0] + "/api/v1/internal/v1/login-sessions/validate", {}, {}, {}, None)
        follow(target, reached, above, again if lab.word_of_made(target) else None)
    if make is None:
        return
    # Another one is read, and ended with the entity tag that the reader saw.
    for item, link in targets:
        ends = [(target, end) for target, end in lab.links(lab.OPERATIONS[item]) if order(target) == 6]
        if order(item) == 0 and ends and f"{item} -> {ends[0][0]}" not in FOLLOWED:
            other = make()
            read = reach(label, item, link, other) if succeeded(other) else None
            if read is not None and succeeded(read[0]):
                reach(item, *ends[0], read[0])


def roots():
    found = [label for label in lab.OPERATIONS if "{" not in label and not label.endswith(UNDRIVEN)]
    return sorted(found, key=lambda label: (order(label), "/retire" in label, "/rotate" in label, label))


def begin(label):
    make = lambda: call(label, {}, {}, {}, lab.sound_body(label, {}))
    output = make()
    if succeeded(output):
        follow(label, output, frozenset(), make if lab.word_of_made(label) else None)


for label in roots():
    begin(label)
# What there was nothing of before is there now, or has been done meanwhile.
for label in roots():
    if label.startswith("GET ") or not any(200 <= code < 300 for code in CALLED[label]):
        begin(label)
creates = sorted(label for label in lab.OPERATIONS if lab.word_of_made(label))
never = [label for label in lab.OPERATIONS if not any(200 <= code < 300 for code in CALLED.get(label, ()))]
print(json.dumps({
    "links": sum(1 for operation in lab.OPERATIONS.values() for _ in lab.links(operation)),
    "followed": len(FOLLOWED),
    "creates": creates,
    "unread": [label for label in creates if label not in READS],
    "never": {label: sorted(CALLED.get(label, ())) for label in sorted(never)},
    "failed": FAILED,
}))
