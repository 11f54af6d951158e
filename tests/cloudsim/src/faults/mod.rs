//! The fault layer: rules that change what happens to a request or to its answer, and how an answer is delivered.

pub(crate) mod apply;
pub(crate) mod rule;

use crate::http::Response;

/// How an answer leaves.
#[derive(Debug)]
pub(crate) enum Delivery {
    Whole(Response),
    /// So many bytes of the body, then the connection ends: with a reset, or as if all were well.
    Cut {
        response: Response,
        after: usize,
        reset: bool,
    },
    /// The connection ends without a word.
    Nothing {
        reset: bool,
    },
}
