"""What the lab's platform is made of, and bodies that its rules take: the document's own examples, with names that nothing has yet and ids of
things that are there."""

import json
import re

import requests

with open("lab.json", encoding="utf-8") as file:
    LAB = json.load(file)
URL = LAB["url"]
BASE = URL + "/api/v1"
THINGS = LAB["things"]
SESSION = requests.Session()
SESSION.headers["Authorization"] = "Bearer " + LAB["key"]
DOCUMENT = requests.get(URL + "/docs/openapi.json", timeout=20).json()
# What a route was answered with last: sessions, tokens and revisions are good for other routes.
LAST = {}
# Parameters of paths, each behind the word that says of what.
PARAMETER = re.compile(r"/([^/{}]+)/\{([^{}]+)\}")

OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
PATHS = {operation["operationId"]: label for label, operation in OPERATIONS.items()}
COUNT = 0


def links(operation):
    """The links of an operation's answers: the label of each one's target, and itself."""
    for answer in operation["responses"].values():
        for link in answer.get("links", {}).values():
            yield PATHS[link["operationId"]], link


def word_of_made(label):
    """The word behind which ids of what an operation makes stand in paths, by its own links; None: it makes nothing."""
    if not label.startswith("POST "):
        return None
    for target, link in links(OPERATIONS[label]):
        found = re.fullmatch(r"GET .*/([^/{}]+)/\{[^{}]+\}", target)
        if found and "$response.body#/id" in link.get("parameters", {}).values():
            return found.group(1)
    return None


def example(operation):
    for media in operation.get("requestBody", {}).get("content", {}).values():
        for found in media.get("examples", {}).values():
            return json.loads(json.dumps(found["value"]))
    return None


def named_anew(value, number):
    if isinstance(value, list):
        return [named_anew(item, number) for item in value]
    if isinstance(value, dict):
        return {name: named_anew(item, number) for name, item in value.items()}
    if not isinstance(value, str) or "BEGIN " in value:
        return value
    return re.sub(r"customer-1\b", f"customer-{number}", value).replace("crm-4711", f"crm-{number}")


def authority(label):
    """The newest authority to be promoted, the oldest one to be retired."""
    roots = json.dumps(SESSION.get(BASE + "/platform/authorities", timeout=20).json())
    found = re.findall(r'"fingerprint": "([0-9a-f]+)"', roots)
    return found[-1 if label.endswith("/promote") else 0] if found else "ab"


def sound_body(label, path_parameters):
    """A body that the operation takes; None: it has none."""
    global COUNT
    body = example(OPERATIONS[label])
    if body is None:
        return None
    COUNT += 1
    number = COUNT
    body = named_anew(body, number)
    method, path = label.split(" ", 1)
    last = path.rsplit("/", 1)[-1]
    tenant = path_parameters.get("tenantID") or THINGS["tenants"]
    if word_of_made(label):
        for field in ("id", "hostname", "dedupe_key", "tool_name"):
            if field in body:
                body[field] = f"{body[field]}-{number}"
        if last in ("regions", "clusters", "shards", "brands", "subscriptions"):
            body["name"] = f"{last}-{number}"
        if "address" in body:
            body["address"] = f"198.51.{number // 250 % 100}.{number % 250 + 1}"
        if last == "brands":
            body["base_hostname"] = f"brand-{number}.example"
            body["undelete_days"] = 30
    elif method != "POST":
        body.pop("id", None)
        if last == "{id}" and "/zone-records/" in path:
            body = {"content": f"changed-{number}"}
        if "/brands/" in path:
            body.pop("base_hostname", None)
        if "/nodes/" in path:
            body = {"hostname": f"web-{number}"}
    if last == "records":
        body = {"type": "TXT", "name": f"t{number}", "content": "of a fuzzer"}
    if last == "webroots":
        body["fqdns"] = [{"fqdn": f"site-{number}.example"}]
    for field, word in (("region_id", "regions"), ("cluster_id", "clusters"), ("shard_id", "shards"), ("brand_id", "brands")):
        if field in body:
            body[field] = THINGS[word]
    if "shard_ids" in body:
        body["shard_ids"] = [THINGS["shards"]] if path_parameters.get("clusterID") == THINGS["clusters"] else []
    if "cluster_ids" in body:
        body["cluster_ids"] = [THINGS["clusters"]]
    if "tenant_id" in body:
        body["tenant_id"] = tenant
    if last in ("webroots", "zones", "fqdns") or method != "POST":
        body.pop("subscription_id", None)
    if last == "drain":
        body = {"force": True}
    if last == "undo":
        body = {"revision": LAST.get("revision", 1)}
    if last in ("promote", "retire"):
        body["fingerprint"] = authority(label)
    if last == "retire":
        body["force"] = True
    if last == "decrypt" and "token" in LAST:
        body = {"token": LAST["token"]}
    if last == "bulk":
        body["items"][0]["parent"] = body["items"][1]["parent"] = tenant
    return body


def sound_query(label):
    """What a path takes beside its body where it cannot do without, or would wait for long."""
    if label.endswith("/login-sessions/validate"):
        return {"session_id": LAST.get("session_id", "none")}
    if label.endswith("/plan/without"):
        return {"nodes": THINGS["nodes"]}
    if label.endswith("/search"):
        return {"q": "acme"}
    if label.endswith("/await"):
        return {"wait_timeout": 1}
    return {}


def note(label, answer):
    """Keeps of an answer what other routes take."""
    if answer.status_code >= 300 or label.startswith("GET "):
        return
    try:
        body = answer.json()
    except ValueError:
        return
    if isinstance(body, dict):
        LAST.update({field: body[field] for field in ("revision", "session_id", "token") if field in body})
