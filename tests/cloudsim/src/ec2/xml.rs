//! The XML of the query API: elements in order, `item`s in lists, text escaped.

use std::fmt::Write;

/// One element.
#[derive(Debug, Clone)]
pub(crate) struct Xml {
    name: &'static str,
    content: Content,
}

#[derive(Debug, Clone)]
enum Content {
    Text(String),
    Children(Vec<Xml>),
}

/// An element with text.
pub(crate) fn text(name: &'static str, value: impl ToString) -> Xml {
    Xml { name, content: Content::Text(value.to_string()) }
}

/// An element with elements.
pub(crate) fn node(name: &'static str, children: Vec<Xml>) -> Xml {
    Xml { name, content: Content::Children(children) }
}

/// A list as the query API writes it: `<nameSet><item>..</item></nameSet>`.
pub(crate) fn list(name: &'static str, items: impl IntoIterator<Item = Vec<Xml>>) -> Xml {
    node(name, items.into_iter().map(|children| node("item", children)).collect())
}

/// A list of plain values.
pub(crate) fn values<T: ToString>(name: &'static str, items: impl IntoIterator<Item = T>) -> Xml {
    node(name, items.into_iter().map(|value| text("item", value)).collect())
}

/// Elements of which some may be absent.
pub(crate) trait Maybe {
    /// Adds an element if there is a value for it.
    fn maybe<T: ToString>(&mut self, name: &'static str, value: Option<T>);
}

impl Maybe for Vec<Xml> {
    fn maybe<T: ToString>(&mut self, name: &'static str, value: Option<T>) {
        if let Some(value) = value {
            self.push(text(name, value));
        }
    }
}

impl Xml {
    fn write(&self, out: &mut String) {
        let name = self.name;
        match &self.content {
            Content::Text(value) => {
                // writing to a String does not fail
                let _ = write!(out, "<{name}>{}</{name}>", quick_xml::escape::escape(value.as_str()));
            }
            Content::Children(children) if children.is_empty() => {
                let _ = write!(out, "<{name}/>");
            }
            Content::Children(children) => {
                let _ = write!(out, "<{name}>");
                for child in children {
                    child.write(out);
                }
                let _ = write!(out, "</{name}>");
            }
        }
    }
}

/// A document: one root element in a namespace.
pub(crate) fn document(root: &str, namespace: Option<&str>, children: &[Xml]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let space = namespace.map(|name| format!(" xmlns=\"{name}\"")).unwrap_or_default();
    let _ = write!(out, "<{root}{space}>");
    for child in children {
        child.write(&mut out);
    }
    let _ = write!(out, "</{root}>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_items_and_text_is_escaped() {
        let children = [list("tagSet", [vec![text("key", "a<b"), text("value", "c&d")]]), list("empty", [])];
        let expected =
            "<R xmlns=\"n\"><tagSet><item><key>a&lt;b</key><value>c&amp;d</value></item></tagSet><empty/></R>";
        assert!(document("R", Some("n"), &children).ends_with(expected));
    }
}
