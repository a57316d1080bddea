//! Compiles the .proto files with protox, so that no system `protoc` is needed.

use std::path::PathBuf;

/// What is between our own parts.
const OWN: [&str; 2] = ["proto/intent.proto", "proto/feed.proto"];
/// What is published; its descriptors are kept beside the code, for server reflection.
const PUBLISHED: &str = "proto/hosting/intent_api/v1/intent_api.proto";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in OWN.iter().chain([&PUBLISHED]) {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(OWN, ["proto"])?;
    // What few tenants and policies have takes no room in the others.
    let mut own = tonic_prost_build::configure().bytes(".").btree_map(".");
    for boxed in ["Route.http", "TenantState.http", "Brand.http", "HttpPolicy.basic_auth"] {
        own = own.boxed(format!(".hosting.intent.v1.{boxed}"));
    }
    own.compile_fds(descriptors)?;
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file(PUBLISHED)?;
    let kept = PathBuf::from(std::env::var("OUT_DIR")?).join("intent_api.binpb");
    std::fs::write(kept, compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
