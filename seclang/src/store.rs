//! What is known of one message: all bytes in one buffer, all values as spans into it.
//!
//! Nothing here is owned by a rule; rules see `Item`s. A store is reused from request to request, so that a warm engine
//! allocates nothing.

use crate::link::{Key, Look};
use crate::vars::{self, Var};

/// A piece of the store's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// A value under a key.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub key: Span,
    pub value: Span,
}

/// The collections that are filled from the message; the others derive from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fields {
    ArgsGet,
    ArgsPost,
    RequestHeaders,
    Cookies,
    Files,
    FileSizes,
    MultipartNames,
    PartHeaders,
    XmlAttributes,
    ResponseHeaders,
}

const FIELDS: usize = Fields::ResponseHeaders as usize + 1;

#[derive(Debug)]
pub struct Store {
    bytes: Vec<u8>,
    fields: [Vec<Field>; FIELDS],
    single: [Option<Span>; vars::COUNT],
    args_size: usize,
    files_size: usize,
}

/// One value that a rule looks at.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    pub var: Var,
    pub key: Span,
    pub value: Span,
    /// The spans point into the evaluation's own buffer instead of the store.
    pub own: bool,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            bytes: Vec::new(),
            fields: Default::default(),
            single: [None; vars::COUNT],
            args_size: 0,
            files_size: 0,
        }
    }
}

impl Store {
    /// Forgets the message, keeps the memory (unless one huge message made it huge).
    pub fn clear(&mut self) {
        const KEEP: usize = 256 << 10;
        self.bytes.clear();
        if self.bytes.capacity() > KEEP {
            self.bytes.shrink_to(KEEP);
        }
        self.fields.iter_mut().for_each(Vec::clear);
        self.single = [None; vars::COUNT];
        self.args_size = 0;
        self.files_size = 0;
    }

    pub fn get(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }

    pub fn push(&mut self, text: &[u8]) -> Span {
        let start = self.bytes.len() as u32;
        self.bytes.extend_from_slice(text);
        Span { start, end: self.bytes.len() as u32 }
    }

    /// Lets `write` append to the buffer; the span of what it appended.
    pub fn push_with<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> (Span, R) {
        let start = self.bytes.len() as u32;
        let result = write(&mut self.bytes);
        (Span { start, end: self.bytes.len() as u32 }, result)
    }

    pub fn set(&mut self, var: Var, text: &[u8]) {
        let span = self.push(text);
        self.single[var as usize] = Some(span);
    }

    pub fn set_span(&mut self, var: Var, span: Span) {
        self.single[var as usize] = Some(span);
    }

    pub fn one(&self, var: Var) -> Option<&[u8]> {
        self.single[var as usize].map(|s| self.get(s))
    }

    pub fn span(&self, var: Var) -> Option<Span> {
        self.single[var as usize]
    }

    pub fn fields(&self, which: Fields) -> &[Field] {
        &self.fields[which as usize]
    }

    pub fn add(&mut self, which: Fields, key: Span, value: Span) {
        match which {
            Fields::ArgsGet | Fields::ArgsPost => {
                self.args_size += (key.end - key.start + value.end - value.start) as usize;
            }
            Fields::FileSizes => {}
            _ => {}
        }
        self.fields[which as usize].push(Field { key, value });
    }

    pub fn add_text(&mut self, which: Fields, key: &[u8], value: &[u8]) {
        let (key, value) = (self.push(key), self.push(value));
        self.add(which, key, value);
    }

    pub fn add_file_size(&mut self, key: Span, size: usize) {
        self.files_size += size;
        let value = self.push(size.to_string().as_bytes());
        self.add(Fields::FileSizes, key, value);
    }

    pub fn args(&self) -> usize {
        self.fields(Fields::ArgsGet).len() + self.fields(Fields::ArgsPost).len()
    }

    /// The first value of a header, by name without case.
    pub fn header(&self, name: &[u8]) -> Option<&[u8]> {
        let list = self.fields(Fields::RequestHeaders);
        list.iter().find(|f| self.get(f.key).eq_ignore_ascii_case(name)).map(|f| self.get(f.value))
    }

    /// The sizes that rules ask for are known once all arguments are.
    pub fn seal_sizes(&mut self) {
        self.set(Var::ArgsCombinedSize, self.args_size.to_string().as_bytes());
        self.set(Var::FilesCombinedSize, self.files_size.to_string().as_bytes());
    }

    /// The collections behind a variable and whether the key is the value.
    pub fn sources(var: Var) -> Option<(&'static [Fields], bool)> {
        use Fields::*;
        Some(match var {
            Var::Args => (&[ArgsGet, ArgsPost], false),
            Var::ArgsNames => (&[ArgsGet, ArgsPost], true),
            Var::ArgsGet => (&[ArgsGet], false),
            Var::ArgsGetNames => (&[ArgsGet], true),
            Var::ArgsPost => (&[ArgsPost], false),
            Var::ArgsPostNames => (&[ArgsPost], true),
            Var::RequestHeaders => (&[RequestHeaders], false),
            Var::RequestHeadersNames => (&[RequestHeaders], true),
            Var::RequestCookies => (&[Cookies], false),
            Var::RequestCookiesNames => (&[Cookies], true),
            Var::Files | Var::MultipartFilename => (&[Files], false),
            Var::FilesNames => (&[Files], true),
            Var::FilesSizes => (&[FileSizes], false),
            Var::MultipartName => (&[MultipartNames], false),
            Var::MultipartPartHeaders => (&[PartHeaders], false),
            Var::XmlAttributes => (&[XmlAttributes], false),
            Var::ResponseHeaders => (&[ResponseHeaders], false),
            Var::ResponseHeadersNames => (&[ResponseHeaders], true),
            _ => return None,
        })
    }

    /// The values that a target means, in the order of the message.
    pub fn collect(&self, look: &Look, out: &mut Vec<Item>) {
        let var = look.var;
        let Some((sources, names)) = Self::sources(var) else {
            if let Some(value) = self.single[var as usize] {
                out.push(Item { var, key: Span::default(), value, own: false });
            }
            return;
        };
        for source in sources {
            for field in self.fields(*source) {
                let wanted = match &look.key {
                    Key::All => true,
                    Key::Some(selector) => selector.holds(self.get(field.key)),
                    Key::Slot(_) => false,
                };
                if wanted {
                    out.push(Item {
                        var,
                        key: field.key,
                        value: if names { field.key } else { field.value },
                        own: false,
                    });
                }
            }
        }
    }

    pub fn count(&self, look: &Look) -> usize {
        match (Self::sources(look.var), &look.key) {
            (None, _) => usize::from(self.single[look.var as usize].is_some()),
            (Some((sources, _)), Key::All) => sources.iter().map(|s| self.fields(*s).len()).sum(),
            (Some((sources, _)), Key::Some(selector)) => {
                sources.iter().flat_map(|s| self.fields(*s)).filter(|f| selector.holds(self.get(f.key))).count()
            }
            (Some(_), Key::Slot(_)) => 0,
        }
    }
}
