//! Pages of a listing. A token names the last thing shown, so that a listing that changes meanwhile is neither
//! repeated nor cut; and where the weather asks for it, every full page is followed by an empty one with a token.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::find::Cx;
use super::params::Params;
use super::xml::{Xml, list, text};
use crate::error::{Answer, ApiError};

#[derive(Debug, Serialize, Deserialize)]
struct Token {
    operation: String,
    after: String,
    empty: bool,
}

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Page {
    operation: &'static str,
    size: Option<usize>,
    token: Option<Token>,
}

/// Reads MaxResults and NextToken. `ids` is whether the request names ids, which cannot be paged.
pub(crate) fn read(params: &Params, operation: &'static str, range: (u64, u64), ids: bool) -> Answer<Page> {
    let size = params.number("MaxResults")?;
    if let Some(size) = size {
        if ids {
            let message = "The parameter MaxResults cannot be used with a list of ids";
            return Err(ApiError::refuse("InvalidParameterCombination", message));
        }
        if size < range.0 || size > range.1 {
            let message = format!(
                "Value ( {size} ) for parameter maxResults is invalid. Expecting a value between {} and {}.",
                range.0, range.1
            );
            return Err(ApiError::refuse("InvalidParameterValue", message));
        }
    }
    let token = params.get("NextToken").map(|text| {
        let bytes = STANDARD.decode(&text).ok();
        let token = bytes.and_then(|bytes| serde_json::from_slice::<Token>(&bytes).ok());
        token.filter(|token| token.operation == operation).ok_or_else(|| {
            ApiError::refuse("InvalidParameterValue", format!("Value ({text}) for parameter nextToken is invalid."))
        })
    });
    Ok(Page { operation, size: size.map(|size| size as usize), token: token.transpose()? })
}

impl Page {
    /// The page's part of everything (sorted by key), as a list and perhaps a token.
    pub(crate) fn of(&self, cx: &Cx<'_>, name: &'static str, mut items: Vec<(String, Vec<Xml>)>) -> Vec<Xml> {
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let between = cx.sim.with(|world| world.settings.weather.empty_pages);
        if let Some(token) = &self.token {
            if token.empty {
                let token = Token { operation: self.operation.to_owned(), after: token.after.clone(), empty: false };
                return vec![list(name, []), encode(&token)];
            }
            items.retain(|(key, _)| *key > token.after);
        }
        // a token without MaxResults goes on with the provider's own page
        let size = self.size.unwrap_or(if self.token.is_some() { 1000 } else { usize::MAX });
        let more = items.len() > size;
        items.truncate(size);
        let after = items.last().map(|(key, _)| key.clone());
        let mut out = vec![list(name, items.into_iter().map(|(_, xml)| xml))];
        if let (true, Some(after)) = (more, after) {
            out.push(encode(&Token { operation: self.operation.to_owned(), after, empty: between }));
        }
        out
    }
}

fn encode(token: &Token) -> Xml {
    text("nextToken", STANDARD.encode(serde_json::to_vec(token).unwrap_or_default()))
}
