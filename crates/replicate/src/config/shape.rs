//! Checks a document against a JSON Schema that this program generated from its own types: unknown keys, missing
//! keys, wrong types and wrong words, every one of them, each with a suggestion.
//!
//! Knows only the part of JSON Schema that `schemars` writes for our types. What is wrong is taken out of the value,
//! so that the rest can still be decoded and checked for sense in the same go.

use serde_json::{Map, Value};

use super::document::{Document, below, suggestion};

/// Checks `value` against `schema` and removes what does not fit.
pub fn check(document: &mut Document, schema: &Value, value: &mut Value) {
    let shape = Shape { root: schema };
    if !shape.fits(document, schema, value, "") {
        *value = Value::Object(Map::new());
    }
}

struct Shape<'a> {
    root: &'a Value,
}

impl<'a> Shape<'a> {
    fn resolve(&self, schema: &'a Value) -> &'a Value {
        match schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#')) {
            Some(pointer) => self.root.pointer(pointer).map_or(schema, |found| self.resolve(found)),
            None => schema,
        }
    }

    /// Whether the value may stay; what is wrong inside of it has been removed and reported.
    fn fits(&self, document: &mut Document, schema: &'a Value, value: &mut Value, at: &str) -> bool {
        let schema = self.resolve(schema);
        if let Some(words) = words(schema) {
            return check_word(document, &words, value, at);
        }
        let schema = match schema.get("anyOf").and_then(Value::as_array) {
            Some(branches) => {
                let branches: Vec<&Value> = branches.iter().map(|branch| self.resolve(branch)).collect();
                let Some(branch) = branches.iter().copied().find(|branch| kind_fits(branch, value)) else {
                    let wanted: Vec<String> = branches.iter().map(|branch| kind_word(branch)).collect();
                    document.wrong_value(at, format!("this must be {}, not {}", wanted.join(" or "), word_of(value)));
                    return false;
                };
                if let Some(words) = words(branch) {
                    return check_word(document, &words, value, at);
                }
                branch
            }
            None => schema,
        };
        if !kind_fits(schema, value) {
            let name = last(at);
            document.wrong_value(at, format!("{name} must be {}, not {}", kind_word(schema), word_of(value)));
            return false;
        }
        match value {
            Value::Object(map) => self.table(document, schema, map, at),
            Value::Array(items) => return self.list(document, schema, items, at),
            Value::Number(number) => return check_range(document, schema, number, at),
            _ => {}
        }
        true
    }

    fn table(&self, document: &mut Document, schema: &'a Value, map: &mut Map<String, Value>, at: &str) {
        let others = schema.get("additionalProperties").filter(|others| others.is_object());
        let mut wrong = Vec::new();
        for (key, value) in map.iter_mut() {
            let here = below(at, key);
            match schema.get("properties").and_then(|known| known.get(key)).or(others) {
                Some(inner) => {
                    if !self.fits(document, inner, value, &here) {
                        wrong.push(key.clone());
                    }
                }
                None => {
                    document.wrong_key(&here, unknown(key, schema));
                    wrong.push(key.clone());
                }
            }
        }
        for required in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            if !map.contains_key(required) {
                let place = if at.is_empty() { String::new() } else { format!(" in {}", last(at)) };
                document.wrong_key(at, format!("`{required}` is missing{place}"));
            }
        }
        map.retain(|key, _| !wrong.contains(key));
    }

    fn list(&self, document: &mut Document, schema: &'a Value, items: &mut [Value], at: &str) -> bool {
        let Some(inner) = schema.get("items") else { return true };
        let mut fine = true;
        for (index, item) in items.iter_mut().enumerate() {
            fine &= self.fits(document, inner, item, &below(at, &index.to_string()));
        }
        // a list without one of its items would shift the places of the others: it is left out as a whole
        fine
    }
}

/// What to say about an unknown key. One that smells of a secret gets the answer that matters.
fn unknown(key: &str, schema: &Value) -> String {
    let smell = ["passphrase", "password", "secret", "identity", "key", "token"];
    let references: Vec<&str> =
        keys(schema).filter(|known| known.ends_with("-file") || known.ends_with("-env")).collect();
    if smell.contains(&key) && !references.is_empty() {
        let names: Vec<String> = references.iter().map(|name| format!("`{name}`")).collect();
        return format!("a secret must not stand in this file — name where it lies with {}", names.join(" or "));
    }
    format!("`{key}` is not a key here{}", suggestion(key, keys(schema)))
}

fn keys(schema: &Value) -> impl Iterator<Item = &str> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(|known| known.keys().map(String::as_str))
}

/// The words of an enumeration of plain words, with or without a description of each.
fn words(schema: &Value) -> Option<Vec<String>> {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return Some(words.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    }
    if let Some(word) = schema.get("const").and_then(Value::as_str) {
        return Some(vec![word.to_owned()]);
    }
    let branches = schema.get("oneOf")?.as_array()?;
    let mut found = Vec::new();
    for branch in branches {
        found.extend(words(branch)?);
    }
    Some(found)
}

fn check_word(document: &mut Document, words: &[String], value: &Value, at: &str) -> bool {
    match value.as_str() {
        Some(text) if words.iter().any(|word| word == text) => true,
        Some(text) => {
            let suggestion = suggestion(text, words.iter().map(String::as_str));
            document.wrong_value(at, format!("`{text}` is not a known {}{suggestion}", plain(at)));
            false
        }
        None => {
            document.wrong_value(at, format!("{} must be a text, not {}", last(at), word_of(value)));
            false
        }
    }
}

fn check_range(document: &mut Document, schema: &Value, number: &serde_json::Number, at: &str) -> bool {
    let Some(number) = number.as_i64() else { return true };
    let bound = |key: &str| schema.get(key).and_then(Value::as_i64);
    let widest = (schema.get("format").and_then(Value::as_str) == Some("uint32")).then_some(i64::from(u32::MAX));
    let (least, most) = (bound("minimum").unwrap_or(i64::MIN), bound("maximum").or(widest).unwrap_or(i64::MAX));
    if (least..=most).contains(&number) {
        return true;
    }
    let range = if number < least { format!("at least {least}") } else { format!("at most {most}") };
    document.wrong_value(at, format!("{} = {number} is out of range — {range} is allowed", plain(at)));
    false
}

fn kind_fits(schema: &Value, value: &Value) -> bool {
    let Some(kind) = schema.get("type").and_then(Value::as_str) else {
        // an enumeration of words has no type of its own
        return words(schema).is_none() || value.is_string();
    };
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    }
}

fn kind_word(schema: &Value) -> String {
    if let Some(words) = words(schema) {
        return words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" or ");
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => "a table",
        Some("array") => "a list",
        Some("string") => "a text",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        _ => "something else",
    }
    .to_owned()
}

fn word_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a table",
    }
}

/// The last key of a pointer in backticks; for an item of a list, the list's.
fn last(at: &str) -> String {
    match plain(at) {
        "" => "the file".to_owned(),
        name if at.rsplit('/').next().is_some_and(|end| end.parse::<usize>().is_ok()) => format!("an item of `{name}`"),
        name => format!("`{name}`"),
    }
}

fn plain(at: &str) -> &str {
    at.rsplit('/').find(|part| part.parse::<usize>().is_err()).unwrap_or_default()
}
