//! The parameters of a query request. What an operation does not read is refused: a parameter that the simulator
//! ignored would be a green test of something that was never tried.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use jiff::Timestamp;

use crate::error::{Answer, ApiError};

/// Parameters below a prefix (`BlockDeviceMapping.1.`), the whole request's with none.
#[derive(Debug, Clone)]
pub(crate) struct Params {
    prefix: String,
    all: Rc<BTreeMap<String, String>>,
    read: Rc<RefCell<BTreeSet<String>>>,
}

impl Params {
    pub(crate) fn new(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let all: BTreeMap<_, _> = pairs.into_iter().collect();
        let read = BTreeSet::from(["Action".to_owned(), "Version".to_owned(), "DryRun".to_owned()]);
        Self { prefix: String::new(), all: Rc::new(all), read: Rc::new(RefCell::new(read)) }
    }

    /// All of them, for fingerprints and the log.
    pub(crate) fn all(&self) -> &BTreeMap<String, String> {
        &self.all
    }

    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let key = format!("{}{name}", self.prefix);
        let value = self.all.get(&key).cloned();
        if value.is_some() {
            self.read.borrow_mut().insert(key);
        }
        value
    }

    pub(crate) fn need(&self, name: &str) -> Answer<String> {
        self.get(name).filter(|value| !value.is_empty()).ok_or_else(|| ApiError::missing(&self.full(name)))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) fn flag(&self, name: &str) -> Answer<Option<bool>> {
        match self.get(name).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(ApiError::value(&self.full(name), other)),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Answer<Option<u64>> {
        self.get(name).map(|value| value.parse().map_err(|_| ApiError::value(&self.full(name), &value))).transpose()
    }

    pub(crate) fn instant(&self, name: &str) -> Answer<Option<Timestamp>> {
        self.get(name).map(|value| value.parse().map_err(|_| ApiError::value(&self.full(name), &value))).transpose()
    }

    /// One of several words.
    pub(crate) fn word(&self, name: &str, allowed: &[&str]) -> Answer<Option<String>> {
        match self.get(name) {
            Some(value) if !allowed.contains(&value.as_str()) => Err(ApiError::value(&self.full(name), &value)),
            other => Ok(other),
        }
    }

    /// `Name.1`, `Name.2`, ...: in the order of their numbers, gaps allowed.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.indexes(name).into_iter().filter_map(|index| self.get(&format!("{name}.{index}"))).collect()
    }

    /// `Name.1.Field`, ...: one view for each.
    pub(crate) fn structs(&self, name: &str) -> Vec<Params> {
        self.indexes(name).into_iter().map(|index| self.below(&format!("{name}.{index}"))).collect()
    }

    /// The parameters of a nested structure.
    pub(crate) fn below(&self, name: &str) -> Params {
        Params { prefix: format!("{}{name}.", self.prefix), all: self.all.clone(), read: self.read.clone() }
    }

    fn indexes(&self, name: &str) -> BTreeSet<u32> {
        let start = format!("{}{name}.", self.prefix);
        let numbers = self.all.keys().filter_map(|key| key.strip_prefix(&start));
        numbers.filter_map(|rest| rest.split('.').next().and_then(|number| number.parse().ok())).collect()
    }

    /// Called by every operation after it has read what it understands and before it acts.
    pub(crate) fn done(&self) -> Answer<()> {
        let read = self.read.borrow();
        match self.all.keys().find(|key| !read.contains(*key)) {
            None => {}
            Some(unknown) => {
                return Err(ApiError::refuse(
                    "UnknownParameter",
                    format!("The parameter {unknown} is not recognized (by this simulator)"),
                ));
            }
        }
        if self.all.get("DryRun").is_some_and(|value| value == "true") {
            let message = "Request would have succeeded, but DryRun flag is set.";
            return Err(ApiError::new(412, "DryRunOperation", message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Params {
        Params::new(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn lists_are_in_the_order_of_their_numbers() {
        let params = params(&[("Id.10", "j"), ("Id.2", "b"), ("Filter.1.Name", "n"), ("Filter.1.Value.1", "v")]);
        assert_eq!(params.list("Id"), ["b", "j"]);
        let filter = &params.structs("Filter")[0];
        assert_eq!((filter.need("Name").unwrap(), filter.list("Value")), ("n".to_owned(), vec!["v".to_owned()]));
        assert!(params.done().is_ok());
    }

    #[test]
    fn what_nobody_read_is_refused() {
        let params = params(&[("Action", "X"), ("Odd.1.Thing", "1")]);
        assert_eq!(params.done().unwrap_err().code, "UnknownParameter");
    }
}
