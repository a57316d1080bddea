//! The example of `docs/operators/grpc.md`, run as it stands there.

use std::collections::BTreeMap;

use hosting_proto::intent_api::DESCRIPTORS;
use hosting_proto::intent_api::intents_client::IntentsClient;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::{Value, json};

use crate::grpc::{Wire, by, client, next};
use crate::harness::TestApi;

const GUIDE: &str = include_str!("../../../../docs/operators/grpc.md");

/// A line of the example: the variable that it sets and where it finds that, the call, and its message.
#[derive(Debug, PartialEq)]
struct Line<'g> {
    sets: Option<(&'g str, &'g str)>,
    call: &'g str,
    message: &'g str,
}

/// `call METHOD 'MESSAGE'`, or `NAME=$(call METHOD 'MESSAGE' | jq [-r] .PATH)`.
fn line(text: &str) -> Option<Line<'_>> {
    let (sets, rest) = match text.split_once("=$(call ") {
        Some((name, rest)) => (Some(name), rest),
        None => (None, text.strip_prefix("call ")?),
    };
    let (call, rest) = rest.split_once(" '")?;
    let (message, end) = rest.rsplit_once('\'')?;
    let sets = sets.map(|name| (name, end.rsplit_once(" .").unwrap().1.strip_suffix(')').unwrap()));
    Some(Line { sets, call, message })
}

/// The lines between the fences of `sh` blocks.
fn lines() -> Vec<Line<'static>> {
    let blocks = GUIDE.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let all =
        blocks.flat_map(str::lines).filter(|text| !text.starts_with("call()") && !text.starts_with("set "));
    all.map(|text| line(text).unwrap_or_else(|| panic!("neither a call nor a variable: {text}"))).collect()
}

/// Messages by their names, from JSON and back (the JSON mapping of proto3), as grpcurl does it.
struct Messages(DescriptorPool);

impl Messages {
    fn named(&self, name: &str) -> MessageDescriptor {
        self.0
            .get_message_by_name(&format!("hosting.intent_api.v1.{name}"))
            .unwrap_or_else(|| panic!("no message {name}"))
    }

    fn read<T: Message + Default>(&self, name: &str, json: &str) -> T {
        let mut text = serde_json::Deserializer::from_str(json);
        let message = DynamicMessage::deserialize(self.named(name), &mut text);
        message.unwrap_or_else(|error| panic!("{name}: {error}: {json}")).transcode_to().unwrap()
    }

    fn write<T: Message>(&self, name: &str, message: &T) -> Value {
        let mut dynamic = DynamicMessage::new(self.named(name));
        dynamic.transcode_from(message).unwrap();
        let options = SerializeOptions::new();
        dynamic.serialize_with_options(serde_json::value::Serializer, &options).unwrap()
    }
}

async fn carry_out(
    intents: &mut IntentsClient<Wire>,
    messages: &Messages,
    key: &str,
    call: &str,
    message: &str,
) -> Value {
    macro_rules! unary {
        ($method:ident, $request:literal, $response:literal) => {{
            let answer = intents.$method(by(key, messages.read($request, message))).await;
            let answer = answer.unwrap_or_else(|status| panic!("{call} {message}: {status:?}"));
            messages.write($response, &answer.into_inner())
        }};
    }
    match call {
        "Apply" => unary!(apply, "ApplyRequest", "ApplyResponse"),
        "Get" => unary!(get, "GetRequest", "GetResponse"),
        "List" => unary!(list, "ListRequest", "ListResponse"),
        "Delete" => unary!(delete, "DeleteRequest", "DeleteResponse"),
        "Plan" => unary!(plan, "PlanRequest", "PlanResponse"),
        "Bulk" => unary!(bulk, "BulkRequest", "BulkResponse"),
        "Watch" => {
            let stream = intents.watch(by(key, messages.read("WatchRequest", message))).await;
            let first = next(&mut stream.unwrap().into_inner()).await.unwrap();
            messages.write("WatchResponse", &first)
        }
        other => panic!("no call {other}"),
    }
}

#[tokio::test]
async fn the_example_of_the_guide_runs() {
    let test = TestApi::with_fleet().await;
    test.brand("acme").await;
    let messages = Messages(DescriptorPool::decode(DESCRIPTORS).unwrap());
    let mut intents = client(&test);
    let mut variables = BTreeMap::from([
        ("REGION", test.region.clone()),
        ("CLUSTER", test.cluster.clone()),
        ("SHARD", test.shard.clone()),
    ]);
    let mut answers = Vec::new();
    for Line { sets, call, message } in lines() {
        let mut filled = message.to_owned();
        for (name, value) in &variables {
            filled = filled.replace(&format!("${name}"), value);
        }
        let answer = carry_out(&mut intents, &messages, &test.admin, call, &filled).await;
        if let Some((name, path)) = sets {
            let found = path.split('.').fold(&answer, |value, part| &value[part]);
            // `jq` without `-r` keeps the quotes of a text.
            let text = if name == "ETAG" { found.to_string() } else { found.as_str().unwrap().to_owned() };
            variables.insert(name, text);
        }
        answers.push((call, answer));
    }
    let of = |call: &str| {
        answers.iter().filter(|(of, _)| *of == call).map(|(_, answer)| answer).collect::<Vec<_>>()
    };
    for call in ["Apply", "Get", "List", "Delete", "Plan", "Bulk", "Watch"] {
        assert!(!of(call).is_empty(), "the guide shows no {call}");
    }
    assert_eq!(of("Apply")[2]["settlement"]["outcome"], "OUTCOME_READY", "{answers:?}");
    assert_eq!(of("List")[0]["resources"][0]["id"], json!(variables["NAME"]));
    assert_eq!((&of("Bulk")[0]["done"], of("Bulk")[0]["results"].as_array().unwrap().len()), (&json!(2), 2));
    assert_eq!(of("Delete")[0]["settlement"]["outcome"], "OUTCOME_READY");
    assert_eq!(test.get(&format!("/tenants/{}", variables["TENANT"])).await.status, 404);
}
