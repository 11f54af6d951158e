//! The list of a page blob's ranges, in the order in which it comes: written and cleared ranges are mixed there, and a
//! reader that sorts them by kind, as vendors' SDKs did, makes corrupt copies.

use model::{Error, Extent, Kind, Result};
use quick_xml::Reader;
use quick_xml::events::Event;

/// A part of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Page {
    /// Ascending, without overlap: cleared ranges are zero.
    pub ranges: Vec<Extent>,
    /// Whether there is more behind the last one.
    pub more: bool,
}

/// Reads a `PageList`.
pub(super) fn parse(text: &[u8]) -> Result<Page> {
    let wrong = |why: &str| Error::new(Kind::Permanent, "cannot read a list of pages").because(why.to_owned());
    let mut reader = Reader::from_reader(text);
    let (mut page, mut closed) = (Page { ranges: Vec::new(), more: false }, false);
    let (mut field, mut start, mut end) = (String::new(), None, None);
    let mut buffer = Vec::new();
    loop {
        match reader.read_event_into(&mut buffer).map_err(|error| wrong(&error.to_string()))? {
            Event::Start(tag) => field = String::from_utf8_lossy(tag.name().as_ref()).into_owned(),
            Event::Text(text) => {
                let text = text.decode().map_err(|error| wrong(&error.to_string()))?;
                let text = text.trim();
                match field.as_str() {
                    "Start" => start = text.parse::<u64>().ok(),
                    "End" => end = text.parse::<u64>().ok(),
                    "NextMarker" => page.more |= !text.is_empty(),
                    _ => {}
                }
            }
            Event::End(tag) => {
                field.clear();
                let name = tag.name();
                let cleared = match name.as_ref() {
                    b"PageRange" => false,
                    b"ClearRange" => true,
                    b"PageList" => {
                        closed = true;
                        continue;
                    }
                    _ => continue,
                };
                let (from, to) = (start.take(), end.take());
                let range = from.zip(to).filter(|(from, to)| from <= to && *to < u64::MAX);
                let (from, to) = range.ok_or_else(|| wrong("a range has no start or no end"))?;
                let len = to + 1 - from;
                let known = page.ranges.last().map_or(0, Extent::end);
                if from < known || !from.is_multiple_of(512) || !len.is_multiple_of(512) {
                    return Err(wrong("its ranges are out of order, or no whole pages"));
                }
                page.ranges.push(if cleared { Extent::zero(from, len) } else { Extent::data(from, len) });
            }
            // a list that was cut off would pass for a disk with fewer changes
            Event::Eof if closed => return Ok(page),
            Event::Eof => return Err(wrong("it ends too early")),
            _ => {}
        }
        buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_written_and_cleared_ranges_is_kept() {
        let text = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><PageList><PageRange><Start>0</Start><End>511</End>\
                    </PageRange><ClearRange><Start>512</Start><End>1535</End></ClearRange><PageRange><Start>4096</Start>\
                    <End>4607</End></PageRange><NextMarker>3</NextMarker></PageList>";
        let page = parse(text.trim_start_matches('\u{feff}').as_bytes()).unwrap();
        assert_eq!(page.ranges, [Extent::data(0, 512), Extent::zero(512, 1024), Extent::data(4096, 512)]);
        assert!(page.more);
        let empty = parse(b"<PageList><NextMarker/></PageList>").unwrap();
        assert_eq!(empty, Page { ranges: Vec::new(), more: false });
        assert_eq!(parse(b"<PageList/>").unwrap_or(empty), Page { ranges: Vec::new(), more: false });
    }

    #[test]
    fn what_is_cut_off_or_out_of_order_is_refused() {
        let range = |from: u64, to: u64| format!("<PageRange><Start>{from}</Start><End>{to}</End></PageRange>");
        for text in [
            format!("<PageList>{}", range(0, 511)),
            format!("<PageList>{}{}</PageList>", range(512, 1023), range(0, 511)),
            format!("<PageList>{}</PageList>", range(0, 500)),
            "<PageList><PageRange><Start>0</Start></PageRange></PageList>".to_owned(),
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
