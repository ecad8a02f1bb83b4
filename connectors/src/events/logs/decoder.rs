//! Blocks of log lines to events. What does not match the format is a dead letter with its addresses masked.

use std::fmt::Write;
use std::sync::Arc;

use tidemill_dataflow::hash::{hash64, hash128};
use tidemill_dataflow::source::{Block, DeadLetter, Decode, Decoded};
use tidemill_dataflow::time::EventTime;

use crate::dead_letters::mask_log_line;
use crate::events::MAX_PAGE_BYTES;
use crate::events::block_text::{SideText, Span};
use crate::events::bounds::Bounds;
use crate::events::event::{Event, EventKind, IdOrigin, Misfit};
use crate::events::lines::{TextBlock, apart, decode, is_blank, line_end, set_aside};

use super::line::{LogLine, Request};
use super::properties;
use super::reader::{LogReader, Reading};
use super::user::HashKey;
use super::w3c::Directives;

/// Decodes blocks of log lines of one file.
#[derive(Clone, Debug)]
pub struct LogDecoder {
    file: u128,
    key: HashKey,
    reader: LogReader,
    /// What lines of a W3C log mean at the start of a block.
    directives: Option<Arc<Directives>>,
    bounds: Bounds,
}

impl LogDecoder {
    /// A decoder for the file of this name, which becomes part of every event id.
    #[must_use]
    pub fn new(file: &str, key: HashKey, reader: LogReader) -> LogDecoder {
        LogDecoder { file: hash128(file.as_bytes(), 0), key, reader, directives: None, bounds: Bounds::default() }
    }

    /// The same, taking events that these bounds hold.
    #[must_use]
    pub fn within(self, bounds: Bounds) -> LogDecoder {
        LogDecoder { bounds, ..self }
    }

    /// The same for a block behind a directive.
    pub(crate) fn behind(self, directives: Option<Arc<Directives>>) -> LogDecoder {
        LogDecoder { directives, ..self }
    }

    fn decode_lines(&self, block: &TextBlock, side: &mut SideText, out: &mut Decoded<Event>) {
        let texts = Texts::new(side);
        let raw = block.text.raw();
        let mut line = LogLine::default();
        let mut lines = self.reader.lines(self.directives.clone());
        let (mut start, mut row) = (0, 0);
        while start < raw.len() {
            let end = line_end(raw.as_bytes(), start);
            let content = block.content(raw.as_bytes(), start..end);
            if let Some(reason) = block.over_long(content) {
                out.malformed.push(block.letter(row, reason, content));
            } else if lines.read(&raw[start..start + content.len()], &mut line) == Reading::Directive {
                // It says what the lines behind it mean.
            } else if let Some(time) = line.time {
                let place = (block.offset + start as u64, hash64(&raw.as_bytes()[start..end]));
                let mut event = Builder { block, side, texts: &texts };
                match self.bounds.check(time).and_then(|time| event.build(self, &line, time, place)) {
                    Ok(event) => out.records.push(event),
                    Err(reason) => out.malformed.push(block.letter(row, reason, content)),
                }
            } else if !is_blank(content) {
                out.malformed.push(block.letter(row, self.reader.reason().into(), content));
            }
            start = end + 1;
            row += 1;
        }
    }
}

impl Decode for LogDecoder {
    type Record = Event;

    fn decode(&mut self, block: Block, out: &mut Decoded<Event>) {
        decode(block, mask_log_line, out, |block, side, out| self.decode_lines(block, side, out));
    }

    fn apart(&self, block: Block) -> Result<Vec<Block>, Block> {
        Ok(apart(&block))
    }

    fn letter(&self, block: &Block, reason: String) -> DeadLetter {
        set_aside(block, &reason, mask_log_line)
    }
}

/// The event types, once a block.
struct Texts {
    page_view: Span,
    asset: Span,
    error: Span,
    other: Span,
}

impl Texts {
    fn new(side: &mut SideText) -> Texts {
        let mut add = |text: &str| side.add(|out| out.push_str(text));
        Texts { page_view: add("page_view"), asset: add("asset"), error: add("error"), other: add("other") }
    }
}

/// Makes the events of a block.
struct Builder<'b> {
    block: &'b TextBlock,
    side: &'b mut SideText,
    texts: &'b Texts,
}

impl Builder<'_> {
    /// The event of a line, or why there is none.
    fn build(
        &mut self,
        decoder: &LogDecoder,
        line: &LogLine<'_>,
        timestamp: EventTime,
        (offset, hash): (u64, u64),
    ) -> Result<Event, String> {
        let request = line.parts();
        let (kind, event_type) = self.kind(line.status, request);
        let page = match request {
            Some(request) if kind == EventKind::PageView => {
                let span = self.span(request.path);
                decoder.bounds.check_length(span.len(), MAX_PAGE_BYTES, "the request's path")?;
                span
            }
            _ => Span::NONE,
        };
        let event_id = self.side.add(|out| {
            let mut place = [0; 24];
            place[..16].copy_from_slice(&decoder.file.to_le_bytes());
            place[16..].copy_from_slice(&offset.to_le_bytes());
            write!(out, "{:032x}", hash128(&place, 0)).expect("a String takes all that is written");
        });
        let user = self.side.add(|out| decoder.key.user(&line.address, &line.agent, out));
        let app_version = match (kind, line.status) {
            (EventKind::Error, Some(status)) => {
                self.side.add(|out| write!(out, "http-{status}").expect("a String takes all that is written"))
            }
            _ => Span::NONE,
        };
        let properties = self.side.add(|out| properties::write(line, request, out));
        #[expect(clippy::cast_possible_truncation, reason = "32 of 64 well-mixed bits are what is wanted")]
        let fingerprint = hash as u32;
        Ok(Event {
            timestamp,
            server_time: None,
            amount_cents: None,
            tenant_hash: self.side.default_tenant_hash(),
            user_hash: hash64(self.side.text(&self.block.text, user).as_bytes()),
            kind_hash: hash64(self.side.text(&self.block.text, page).as_bytes()),
            fingerprint,
            line: Span::NONE,
            event_id,
            event_type,
            user,
            tenant: Span::NONE,
            session_id: Span::NONE,
            page,
            currency: Span::NONE,
            app_version,
            os: Span::NONE,
            screen_resolution: Span::NONE,
            locale: Span::NONE,
            country: Span::NONE,
            city: Span::NONE,
            properties,
            client_time: Span::NONE,
            ip: Span::NONE,
            kind,
            misfit: Misfit::None,
            id_origin: IdOrigin::Place,
            text: Arc::clone(&self.block.text),
        })
    }

    /// A page view is a GET of a page that the server did not refuse: one whose status or method it did not write counts.
    fn kind(&self, status: Option<u16>, request: Option<Request<'_>>) -> (EventKind, Span) {
        let status = status.unwrap_or(200);
        match request {
            _ if status >= 500 => (EventKind::Error, self.texts.error),
            Some(request) if matches!(request.method, "GET" | "") && status < 400 => match request.is_asset() {
                true => (EventKind::Other, self.texts.asset),
                false => (EventKind::PageView, self.texts.page_view),
            },
            _ => (EventKind::Other, self.texts.other),
        }
    }

    /// A text as a span of the block, to which it is added if it is no piece of it.
    fn span(&mut self, text: &str) -> Span {
        let raw = self.block.text.raw().as_bytes().as_ptr_range();
        let place = text.as_bytes().as_ptr_range();
        if raw.contains(&place.start) && place.end <= raw.end {
            let (start, len) = (place.start.addr() - raw.start.addr(), text.len());
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a block is shorter than 4 GiB, which BlockText checks"
            )]
            return Span::new(start as u32, len as u32);
        }
        self.side.add(|out| out.push_str(text))
    }
}
