//! A TOML file as a plain value with the place of every key and value, and the list of mistakes found in it.
//!
//! Kept apart from serde on purpose: serde stops at the first mistake, and a person wants to see all of them at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use serde::Serialize;
use serde_json::{Map, Value};
use toml::de::{DeTable, DeValue};

/// One mistake, with its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub text: String,
}

/// All mistakes of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileMistakes {
    /// The file as the person named it.
    pub file: String,
    /// In order of their place.
    pub mistakes: Vec<Mistake>,
}

/// A parsed file.
#[derive(Debug)]
pub struct Document {
    name: String,
    text: String,
    /// Pointer (`/replicate/0/to`) -> bytes of the key (or of the value in a list) and of the value.
    places: HashMap<String, (Range<usize>, Range<usize>)>,
    mistakes: Vec<Mistake>,
    /// Pointers that a mistake was noted for.
    wrong: Vec<String>,
}

impl Document {
    /// Parses `text`. Syntax errors become mistakes, and then the value is worthless (`None`).
    pub fn parse(name: impl Into<String>, text: &str) -> (Self, Option<Value>) {
        let mut document =
            Self { name: name.into(), text: text.to_owned(), places: HashMap::new(), mistakes: vec![], wrong: vec![] };
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // one slip makes the parser miss every bracket that is open there: one complaint a place says it all
            let places: BTreeMap<usize, String> = (errors.iter())
                .map(|error| (error.span().map_or(0, |span| span.start), error.message().replace('\n', ", ")))
                .collect();
            for (at, message) in places {
                document.mistake_at(at, message);
            }
            return (document, None);
        }
        let mut path = String::new();
        let value = document.table(table.get_ref(), &mut path);
        (document, Some(value))
    }

    fn table(&mut self, table: &DeTable<'_>, path: &mut String) -> Value {
        let mut map = Map::new();
        for (key, value) in table {
            let name = key.get_ref().to_string();
            let kept = path.len();
            *path = below(path, &name);
            self.places.insert(path.clone(), (key.span(), value.span()));
            let value = self.value(value.get_ref(), path);
            path.truncate(kept);
            map.insert(name, value);
        }
        Value::Object(map)
    }

    fn value(&mut self, value: &DeValue<'_>, path: &mut String) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => {
                // numbers beyond 64 bits stay texts, and the shape check then refuses them
                i64::from_str_radix(number.as_str(), number.radix())
                    .map_or_else(|_| Value::String(number.to_string()), Value::from)
            }
            DeValue::Float(number) => number
                .as_str()
                .parse::<f64>()
                .ok()
                .and_then(serde_json::Number::from_f64)
                .map_or_else(|| Value::String(number.as_str().to_owned()), Value::Number),
            DeValue::Boolean(truth) => Value::Bool(*truth),
            DeValue::Datetime(date) => Value::String(date.to_string()),
            DeValue::Array(items) => {
                let mut list = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    let kept = path.len();
                    *path = below(path, &index.to_string());
                    self.places.insert(path.clone(), (item.span(), item.span()));
                    list.push(self.value(item.get_ref(), path));
                    path.truncate(kept);
                }
                Value::Array(list)
            }
            DeValue::Table(table) => self.table(table, path),
        }
    }

    /// Notes a mistake in the value at `pointer`; where the file has no such value, at its nearest parent.
    pub fn wrong_value(&mut self, pointer: &str, text: impl Into<String>) {
        self.wrong.push(pointer.to_owned());
        let at = self.place(pointer).map_or(0, |(_, value)| value.start);
        self.mistake_at(at, text.into());
    }

    /// Notes a mistake in the key at `pointer`.
    pub fn wrong_key(&mut self, pointer: &str, text: impl Into<String>) {
        self.wrong.push(pointer.to_owned());
        let at = self.place(pointer).map_or(0, |(key, _)| key.start);
        self.mistake_at(at, text.into());
    }

    fn place(&self, pointer: &str) -> Option<&(Range<usize>, Range<usize>)> {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.places.get(pointer) {
                return Some(place);
            }
            pointer = &pointer[..pointer.rfind('/')?];
        }
    }

    fn mistake_at(&mut self, offset: usize, text: String) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        self.mistakes.push(Mistake { line, column, text });
    }

    /// Whether nothing was found so far at `pointer` and below. What was wrong has been taken out of the value, so
    /// a check for something missing asks here before it complains.
    pub fn is_fine(&self, pointer: &str) -> bool {
        let inside =
            |wrong: &str| wrong.strip_prefix(pointer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        !self.wrong.iter().any(|wrong| inside(wrong))
    }

    /// All mistakes in order, or none.
    pub fn finish(mut self) -> Option<FileMistakes> {
        self.mistakes.sort();
        self.mistakes.dedup();
        (!self.mistakes.is_empty()).then_some(FileMistakes { file: self.name, mistakes: self.mistakes })
    }
}

/// The pointer of `key` below `path`.
pub fn below(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// ` — did you mean ...?` with the nearest candidate, the list of candidates if none is near, nothing without any.
pub fn suggestion<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    match nearest(typed, candidates.iter().copied()) {
        Some(candidate) => format!(" — did you mean `{candidate}`?"),
        None if candidates.is_empty() => String::new(),
        None => format!(" — there {}", listed(&candidates)),
    }
}

/// The candidate that was probably meant, if one is near enough.
pub fn nearest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&typed.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

fn listed(candidates: &[&str]) -> String {
    let names: Vec<String> = candidates.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [one] => format!("is only {one}"),
        [most @ .., last] => format!("are {} and {last}", most.join(", ")),
        [] => String::new(),
    }
}
