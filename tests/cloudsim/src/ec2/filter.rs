//! Filters of the describing calls. A filter that an operation does not know is refused, as the provider does; one
//! that the simulator lacks is refused too, so that it cannot silently find everything.

use super::params::Params;
use crate::auth::policy::fits;
use crate::error::{Answer, ApiError};
use crate::world::resource::Tags;

/// One filter: a name and values, one of which must fit.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    name: String,
    values: Vec<String>,
}

/// What a resource shows to filters: names may come several times.
pub(crate) type Fields = Vec<(&'static str, String)>;

/// All filters of a request, each with a name that is among `known`, `tag-key` or `tag:...`.
pub(crate) fn read(params: &Params, known: &[&str]) -> Answer<Vec<Filter>> {
    let mut filters = Vec::new();
    for one in params.structs("Filter") {
        let name = one.need("Name")?;
        let values = one.list("Value");
        if values.is_empty() {
            return Err(ApiError::missing("filter value"));
        }
        if values.len() > 200 {
            return Err(ApiError::refuse("FilterLimitExceeded", "The maximum number of filter values is 200"));
        }
        if !known.contains(&name.as_str()) && name != "tag-key" && !name.starts_with("tag:") {
            return Err(ApiError::refuse("InvalidParameterValue", format!("The filter '{name}' is invalid")));
        }
        filters.push(Filter { name, values });
    }
    Ok(filters)
}

/// Whether a resource fits all of them.
pub(crate) fn all_fit(filters: &[Filter], fields: &Fields, tags: &Tags) -> bool {
    filters.iter().all(|filter| {
        let any = |value: &str| filter.values.iter().any(|pattern| fits(pattern, value));
        match filter.name.strip_prefix("tag:") {
            Some(key) => tags.get(key).is_some_and(|value| any(value)),
            None if filter.name == "tag-key" => tags.keys().any(|key| any(key)),
            None => fields.iter().any(|(name, value)| *name == filter.name && any(value)),
        }
    })
}
