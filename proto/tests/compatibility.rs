//! The published package against what was released of it: what programs were built with goes on working. And that all of it is explained.
#![allow(clippy::unwrap_used, reason = "helpers of tests are not recognised as tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorProto, FileDescriptorSet};

const FILE: &str = "hosting/intent_api/v1/intent_api.proto";

fn compiled(folder: &Path) -> FileDescriptorProto {
    let set: FileDescriptorSet = protox::compile([FILE], [folder]).unwrap_or_else(|error| panic!("{error}"));
    set.file.into_iter().find(|file| file.name() == FILE).unwrap()
}

fn here(folder: &str) -> FileDescriptorProto {
    compiled(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
}

/// What a program that was built with a package relies on: facts by what they are about. A package may have more of them later, and must keep each as it is.
type Facts = BTreeMap<String, String>;

fn facts(file: &FileDescriptorProto) -> Facts {
    let mut facts = Facts::new();
    facts.insert("package".to_owned(), file.package().to_owned());
    facts.insert("syntax".to_owned(), file.syntax().to_owned());
    for message in &file.message_type {
        of_message(&mut facts, "", message);
    }
    for each in &file.enum_type {
        of_enum(&mut facts, "", each);
    }
    for service in &file.service {
        for rpc in &service.method {
            facts.insert(
                format!("rpc {}.{}", service.name(), rpc.name()),
                format!(
                    "takes {} stream={}, gives {} stream={}",
                    rpc.input_type(),
                    rpc.client_streaming(),
                    rpc.output_type(),
                    rpc.server_streaming()
                ),
            );
        }
        facts.insert(format!("service {}", service.name()), String::new());
    }
    facts
}

fn of_message(facts: &mut Facts, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}{}", message.name());
    facts.insert(format!("message {name}"), String::new());
    for field in &message.field {
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let oneof = oneof.and_then(|at| message.oneof_decl.get(usize::try_from(at).ok()?));
        let fact = format!(
            "{} as {}: {} {} {}, optional={}, oneof={}",
            field.name(),
            field.json_name(),
            Label::try_from(field.label.unwrap_or_default()).unwrap().as_str_name(),
            Type::try_from(field.r#type.unwrap_or_default()).unwrap().as_str_name(),
            field.type_name(),
            field.proto3_optional(),
            oneof.map_or("none", |oneof| oneof.name()),
        );
        facts.insert(format!("field {name} {}", field.number()), fact);
    }
    for range in &message.reserved_range {
        for number in range.start()..range.end() {
            facts.insert(format!("reserved {name} {number}"), String::new());
        }
    }
    for reserved in &message.reserved_name {
        facts.insert(format!("reserved {name} {reserved}"), String::new());
    }
    let inner = format!("{name}.");
    message.nested_type.iter().for_each(|nested| of_message(facts, &inner, nested));
    message.enum_type.iter().for_each(|each| of_enum(facts, &inner, each));
}

fn of_enum(facts: &mut Facts, scope: &str, each: &EnumDescriptorProto) {
    let name = format!("{scope}{}", each.name());
    facts.insert(format!("enum {name}"), String::new());
    for value in &each.value {
        facts.insert(format!("value {name} {}", value.number()), value.name().to_owned());
    }
    for range in &each.reserved_range {
        for number in range.start()..=range.end() {
            facts.insert(format!("reserved {name} {number}"), String::new());
        }
    }
    for reserved in &each.reserved_name {
        facts.insert(format!("reserved {name} {reserved}"), String::new());
    }
}

/// What of a release is no longer so.
fn breaks(released: &FileDescriptorProto, now: &FileDescriptorProto) -> Vec<String> {
    let now = facts(now);
    let mut found = Vec::new();
    for (about, was) in facts(released) {
        match now.get(&about) {
            None => found.push(format!("{about} is gone ({was})")),
            Some(is) if *is != was => found.push(format!("{about} was {was:?} and is {is:?}")),
            Some(_) => {}
        }
    }
    found
}

#[test]
fn what_was_released_is_kept() {
    let breaks = breaks(&here("released"), &here("proto"));
    assert!(
        breaks.is_empty(),
        "this breaks programs that were built with the release (docs/operators/grpc.md, \"What changes\"):\n{}",
        breaks.join("\n")
    );
}

/// A small package, and ways to break it.
const SAMPLE: &str = r#"
syntax = "proto3";
package sample.v1;
service Things {
  rpc Get(GetRequest) returns (GetResponse);
  rpc Watch(GetRequest) returns (stream GetResponse);
}
message GetRequest {
  reserved 9, 12 to 14;
  reserved "old";
  string id = 1;
  uint32 size = 2;
  oneof which {
    string one = 3;
    string other = 4;
  }
  optional uint64 since = 5;
  map<string, string> more = 6;
}
message GetResponse {
  repeated string names = 1;
  Kind kind = 2;
  enum Inner {
    INNER_UNSPECIFIED = 0;
  }
}
enum Kind {
  reserved 7;
  KIND_UNSPECIFIED = 0;
  KIND_ONE = 1;
}
"#;

fn sample(text: &str) -> FileDescriptorProto {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    compiled(folder.path())
}

#[test]
fn each_kind_of_break_is_found() {
    let released = sample(SAMPLE);
    for (from, to, about) in [
        ("package sample.v1", "package sample.v2", "package"),
        ("rpc Get(GetRequest) returns (GetResponse);", "", "rpc Things.Get is gone"),
        ("rpc Get(", "rpc Fetch(", "rpc Things.Get is gone"),
        ("rpc Get(GetRequest)", "rpc Get(GetResponse)", "rpc Things.Get was"),
        ("rpc Get(GetRequest)", "rpc Get(stream GetRequest)", "rpc Things.Get was"),
        ("returns (stream GetResponse)", "returns (GetResponse)", "rpc Things.Watch was"),
        ("service Things", "service Others", "service Things is gone"),
        ("  string id = 1;\n", "", "field GetRequest 1 is gone"),
        ("string id = 1", "string name = 1", "field GetRequest 1 was"),
        ("string id = 1", "string id = 8", "field GetRequest 1 is gone"),
        ("string id = 1", "bytes id = 1", "field GetRequest 1 was"),
        ("string id = 1", "repeated string id = 1", "field GetRequest 1 was"),
        ("string id = 1", "optional string id = 1", "field GetRequest 1 was"),
        ("string id = 1", "string id = 1 [json_name = \"key\"]", "field GetRequest 1 was"),
        ("uint32 size = 2", "uint64 size = 2", "field GetRequest 2 was"),
        ("repeated string names", "string names", "field GetResponse 1 was"),
        ("Kind kind = 2", "Inner kind = 2", "field GetResponse 2 was"),
        ("    string other = 4;\n  }", "  }\n  string other = 4;", "field GetRequest 4 was"),
        ("oneof which", "oneof what", "field GetRequest 3 was"),
        ("optional uint64 since", "uint64 since", "field GetRequest 5 was"),
        ("map<string, string> more", "map<string, bytes> more", "field GetRequest.MoreEntry 2 was"),
        ("reserved 9, 12 to 14;", "reserved 9, 12 to 13;", "reserved GetRequest 14 is gone"),
        ("reserved \"old\";", "", "reserved GetRequest old is gone"),
        ("  reserved 7;\n", "", "reserved Kind 7 is gone"),
        ("  KIND_ONE = 1;\n", "", "value Kind 1 is gone"),
        ("KIND_ONE = 1", "KIND_FIRST = 1", "value Kind 1 was"),
        ("KIND_ONE = 1", "KIND_ONE = 2", "value Kind 1 is gone"),
        ("  enum Inner {\n    INNER_UNSPECIFIED = 0;\n  }\n", "", "enum GetResponse.Inner is gone"),
    ] {
        let text = SAMPLE.replacen(from, to, 1);
        assert_ne!(text, SAMPLE, "{from}");
        let found = breaks(&released, &sample(&text));
        assert!(found.iter().any(|found| found.starts_with(about)), "{from} -> {to}: {found:?}");
    }
    for (from, to) in [
        ("string id = 1;", "string id = 1;\n  string name = 20;"),
        ("string other = 4;", "string other = 4;\n    string third = 21;"),
        ("KIND_ONE = 1;", "KIND_ONE = 1;\n  KIND_TWO = 2;"),
        ("reserved 9,", "reserved 9, 11,"),
        ("rpc Get(", "rpc List(GetRequest) returns (GetResponse);\n  rpc Get("),
        ("enum Kind", "message New {}\nenum Kind"),
        ("string id = 1;", "// Said better.\n  string id = 1;"),
    ] {
        let text = SAMPLE.replacen(from, to, 1);
        assert_ne!(text, SAMPLE, "{from}");
        assert_eq!(breaks(&released, &sample(&text)), Vec::<String>::new(), "{from} -> {to}");
    }
}

/// Everything that has a name, and its path in the descriptor (google/protobuf/descriptor.proto, `SourceCodeInfo.Location.path`).
fn named(file: &FileDescriptorProto) -> Vec<(String, Vec<i32>)> {
    fn number(at: usize) -> i32 {
        i32::try_from(at).unwrap()
    }
    fn enumeration(each: &EnumDescriptorProto, path: &[i32], all: &mut Vec<(String, Vec<i32>)>) {
        all.push((format!("enum {}", each.name()), path.to_vec()));
        for (at, value) in each.value.iter().enumerate() {
            all.push((value.name().to_owned(), [path, &[2, number(at)]].concat()));
        }
    }
    fn message(one: &DescriptorProto, path: &[i32], all: &mut Vec<(String, Vec<i32>)>) {
        if one.options.as_ref().is_some_and(|options| options.map_entry()) {
            return;
        }
        all.push((format!("message {}", one.name()), path.to_vec()));
        let mut synthetic = BTreeSet::new();
        for (at, field) in one.field.iter().enumerate() {
            synthetic.extend(field.oneof_index.filter(|_| field.proto3_optional()));
            all.push((format!("{}.{}", one.name(), field.name()), [path, &[2, number(at)]].concat()));
        }
        for (at, oneof) in
            one.oneof_decl.iter().enumerate().filter(|(at, _)| !synthetic.contains(&number(*at)))
        {
            all.push((format!("{}.{}", one.name(), oneof.name()), [path, &[8, number(at)]].concat()));
        }
        for (at, nested) in one.nested_type.iter().enumerate() {
            message(nested, &[path, &[3, number(at)]].concat(), all);
        }
        for (at, each) in one.enum_type.iter().enumerate() {
            enumeration(each, &[path, &[4, number(at)]].concat(), all);
        }
    }
    let mut all = Vec::new();
    for (at, one) in file.message_type.iter().enumerate() {
        message(one, &[4, number(at)], &mut all);
    }
    for (at, each) in file.enum_type.iter().enumerate() {
        enumeration(each, &[5, number(at)], &mut all);
    }
    for (at, service) in file.service.iter().enumerate() {
        all.push((format!("service {}", service.name()), vec![6, number(at)]));
        for (of, rpc) in service.method.iter().enumerate() {
            all.push((format!("rpc {}", rpc.name()), vec![6, number(at), 2, number(of)]));
        }
    }
    all
}

/// What has no comment before it.
fn unexplained(file: &FileDescriptorProto) -> Vec<String> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let commented: BTreeSet<&[i32]> = locations
        .filter(|location| !location.leading_comments().trim().is_empty())
        .map(|location| location.path.as_slice())
        .collect();
    let all = named(file).into_iter();
    all.filter(|(_, path)| !commented.contains(path.as_slice())).map(|(name, _)| name).collect()
}

#[test]
fn everything_published_is_explained() {
    let file = here("proto");
    assert!(named(&file).len() > 150, "{}", named(&file).len());
    assert_eq!(unexplained(&file), Vec::<String>::new());
    let silent = unexplained(&sample(SAMPLE));
    for name in [
        "service Things",
        "rpc Get",
        "message GetRequest",
        "GetRequest.id",
        "GetRequest.which",
        "enum Kind",
        "KIND_ONE",
    ] {
        assert!(silent.contains(&name.to_owned()), "{name}: {silent:?}");
    }
}

/// Each call has messages of its own, so that one can get a field that another has not; each enumeration has a zero that means nothing.
#[test]
fn names_leave_room_for_what_comes() {
    let file = here("proto");
    for rpc in file.service.iter().flat_map(|service| &service.method) {
        let of = |end: &str| format!(".{}.{}{end}", file.package(), rpc.name());
        assert_eq!((rpc.input_type(), rpc.output_type()), (of("Request").as_str(), of("Response").as_str()));
    }
    for each in &file.enum_type {
        let zero = each.value.iter().find(|value| value.number() == 0).unwrap();
        assert!(zero.name().ends_with("_UNSPECIFIED"), "{}", zero.name());
    }
}
