"""Hooks of schemathesis: they give it what no generator can guess.

Most generated requests get ids of things that are there, and bodies that the platform's rules take. The others stay as they were generated.
Nothing that the lab stands on is taken away.
"""

import random
import re

import schemathesis

import lab

RANDOM = random.Random(7)
# Of ten requests so many are helped along.
HELPED = 7
# What takes a thing out of service, or the key that is asked with.
ENDS = re.compile(r"/(suspend|drain|forget|rotate|abort|cancel)$")
KEPT = set(lab.THINGS.values())
# Ids by the word that they stand behind in paths, the newest last.
POOL = {word: [id] for word, id in lab.THINGS.items()}


def takes_away(case):
    return case.method in ("DELETE", "PUT", "PATCH") or bool(ENDS.search(case.path))


def help_along(case):
    label = case.operation.label
    for word, name in lab.PARAMETER.findall(case.path):
        ids = [id for id in POOL.get(word, []) if not (takes_away(case) and id in KEPT)]
        if ids and case.path_parameters.get(name) not in ids:
            case.path_parameters[name] = ids[-1]
    body = lab.sound_body(label, dict(case.path_parameters or {}))
    if body is not None:
        case.body = body
    for name in list(case.query or {}):
        if case.method != "GET":
            del case.query[name]
    case.query = {**(case.query or {}), **lab.sound_query(label)}
    for name in list(case.headers or {}):
        if name.lower() in ("if-match", "if-none-match", "idempotency-key", "x-callback-url"):
            del case.headers[name]


@schemathesis.hook
def before_call(context, case, kwargs):
    is_sound = case.meta is None or case.meta.generation.mode.is_positive
    if is_sound and RANDOM.randrange(10) < HELPED:
        help_along(case)
    for name, value in (case.path_parameters or {}).items():
        if takes_away(case) and str(value) in KEPT:
            case.path_parameters[name] = "of-nothing"
    # Nobody waits long for machines that are not there.
    if case.path.endswith("/await") or (case.query or {}).get("wait"):
        case.query = {**(case.query or {}), "wait_timeout": 1}


@schemathesis.hook
def after_call(context, case, response):
    label, code = case.operation.label, response.status_code
    lab.note(label, response)
    word = lab.word_of_made(label)
    if word and code in (201, 202):
        made = response.json().get("id")
        if isinstance(made, str) and made not in POOL.setdefault(word, []):
            POOL[word].append(made)
    if code == 404 or (case.method == "DELETE" and code < 300):
        for word, name in lab.PARAMETER.findall(case.path):
            id = (case.path_parameters or {}).get(name)
            if id in POOL.get(word, []) and id not in KEPT:
                POOL[word].remove(id)
