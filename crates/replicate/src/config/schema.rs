//! The JSON Schemas of both files, generated from the types. The same schemas are what the files are checked against,
//! so an editor that knows them agrees with the program.

use std::sync::OnceLock;

use schemars::JsonSchema;
use serde_json::Value;

use super::raw::RawSettings;
use super::raw_policy::RawPolicy;

/// The schema of `replicate.toml`.
pub fn settings() -> Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(schema_of::<RawSettings>).clone()
}

/// The schema of a policy.
pub fn policy() -> Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(schema_of::<RawPolicy>).clone()
}

fn schema_of<T: JsonSchema>() -> Value {
    let mut schema = schemars::schema_for!(T).to_value();
    simplify(&mut schema);
    schema
}

/// TOML has no null: takes it out of what `schemars` writes for optional keys, and the defaults with it.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.remove("default");
            if let Some(Value::Array(kinds)) = map.get("type") {
                let kinds: Vec<Value> = kinds.iter().filter(|kind| *kind != "null").cloned().collect();
                if let [one] = kinds.as_slice() {
                    map.insert("type".to_owned(), one.clone());
                }
            }
            if let Some(Value::Array(branches)) = map.get("anyOf") {
                let null = |branch: &&Value| branch.get("type").is_some_and(|kind| kind == "null");
                let rest: Vec<Value> = branches.iter().filter(|branch| !null(branch)).cloned().collect();
                match rest.as_slice() {
                    [Value::Object(one)] => {
                        map.remove("anyOf");
                        map.extend(one.clone());
                    }
                    _ => {
                        map.insert("anyOf".to_owned(), Value::Array(rest));
                    }
                }
            }
            map.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}
