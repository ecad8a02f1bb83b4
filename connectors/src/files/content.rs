//! A file's content, unpacked and decoded, as a stream of bytes from any offset.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::encoding::Encoding;
use super::foreign;
use super::packing::{PACKED_BUFFER, Packing};

/// How many bytes of content two files are told apart by, before more is read.
pub(super) const HEAD: usize = 4 << 10;
/// Bytes from which packing, encoding and head are told.
const LOOK: usize = 4 * HEAD;

/// How a file holds its content. Offsets count bytes of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) packing: Packing,
    pub(super) encoding: Encoding,
}

impl Form {
    /// Its name in checkpoints, such as `gzip+utf-16le`.
    pub(super) fn name(self) -> String {
        let packing = self.packing.name();
        self.encoding.name().map_or_else(|| packing.to_owned(), |encoding| format!("{packing}+{encoding}"))
    }

    pub(super) fn named(name: &str) -> Option<Form> {
        let (packing, encoding) = name.split_once('+').map_or((name, None), |(packing, rest)| (packing, Some(rest)));
        let encoding = encoding.map_or(Some(Encoding::Utf8), Encoding::named)?;
        Some(Form { packing: Packing::named(packing)?, encoding })
    }

    /// Whether a file may grow by lines: what is packed is written at once.
    pub(super) fn grows(self) -> bool {
        self.packing == Packing::Plain
    }

    /// Whether any place of the content can be gone to.
    pub(super) fn is_seekable(self) -> bool {
        self == Form { packing: Packing::Plain, encoding: Encoding::Utf8 }
    }
}

/// What identifies a file and shows that it was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stat {
    dev: u64,
    inode: u64,
    pub(super) size: u64,
    pub(super) mtime: i64,
    pub(super) mtime_ns: i64,
    ctime: i64,
    ctime_ns: i64,
}

impl Stat {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Stat {
        Stat {
            dev: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: metadata.mtime(),
            mtime_ns: metadata.mtime_nsec(),
            ctime: metadata.ctime(),
            ctime_ns: metadata.ctime_nsec(),
        }
    }

    /// What tells the file from others, whatever it is called.
    pub(super) fn file(&self) -> (u64, u64) {
        (self.dev, self.inode)
    }

    pub(super) fn is_same_file(&self, other: &Stat) -> bool {
        self.file() == other.file()
    }

    /// Whether it is the same file, renamed or linked at most: writing changes more than `ctime`.
    pub(super) fn is_unwritten(&self, other: &Stat) -> bool {
        Stat { ctime: other.ctime, ctime_ns: other.ctime_ns, ..*self } == *other
    }
}

/// A file as it was found.
pub(super) struct Look {
    pub(super) form: Form,
    /// The first bytes of content: all of it if there are fewer than [`HEAD`].
    pub(super) head: Vec<u8>,
    /// Why it cannot be read, and what to do.
    pub(super) refusal: Option<String>,
    /// Why not even the head could be unpacked.
    pub(super) broken: Option<io::Error>,
}

impl Look {
    /// Looks at the file at `path`, which is called `name`.
    pub(super) fn at(path: &Path, name: &str) -> io::Result<Look> {
        let mut file = File::open(path)?;
        let mut raw = Vec::new();
        (&mut file).take(LOOK as u64).read_to_end(&mut raw)?;
        let packing = Packing::of(&raw);
        let (mut unpacked, mut broken) = (Vec::new(), None);
        if packing == Packing::Plain {
            unpacked.clone_from(&raw);
        } else {
            file.seek(SeekFrom::Start(0))?;
            let filled = packing.unpack(file).and_then(|bytes| bytes.take(LOOK as u64).read_to_end(&mut unpacked));
            broken = filled.err();
        }
        let refusal = foreign::refusal(name, packing, &raw, &unpacked);
        let form = Form { packing, encoding: Encoding::of(&unpacked) };
        let mut head = Vec::with_capacity(HEAD);
        let text = form.encoding.text(Box::new(Cursor::new(unpacked)), true);
        text.take(HEAD as u64).read_to_end(&mut head)?;
        Ok(Look { form, head, refusal, broken })
    }

    /// Whether `head` is all of the content.
    pub(super) fn is_whole(&self) -> bool {
        self.head.len() < HEAD
    }
}

/// An open file.
pub(super) enum Stream {
    /// Its bytes are its content.
    Seekable(File),
    Unpacked(Box<dyn Read + Send>),
}

impl Stream {
    /// Opens a file at its beginning.
    pub(super) fn open(path: &Path, form: Form) -> io::Result<(Stream, Stat)> {
        let file = File::open(path)?;
        let stat = Stat::of(&file.metadata()?);
        let stream = if form.is_seekable() {
            Stream::Seekable(file)
        } else {
            Stream::Unpacked(form.encoding.text(form.packing.unpack(file)?, form.grows()))
        };
        Ok((stream, stat))
    }

    /// Moves a freshly opened stream to `offset` in the content: by seeking, or by reading up to there.
    /// Gives whether the content is that long.
    pub(super) fn skip_to(&mut self, offset: u64) -> io::Result<bool> {
        if let Stream::Seekable(file) = self {
            return Ok(file.seek(SeekFrom::Start(offset))? <= file.metadata()?.len());
        }
        self.pass(offset, |_| ())
    }

    /// Reads the next `count` bytes of content and shows them to `seen`. Gives whether there were so many.
    pub(super) fn pass(&mut self, count: u64, mut seen: impl FnMut(&[u8])) -> io::Result<bool> {
        let mut left = count;
        let mut buffer = Vec::new();
        while left > 0 {
            buffer.clear();
            self.fill(&mut buffer, PACKED_BUFFER.min(usize::try_from(left).unwrap_or(usize::MAX)))?;
            if buffer.is_empty() {
                return Ok(false);
            }
            seen(&buffer);
            left -= buffer.len() as u64;
        }
        Ok(true)
    }

    /// Appends `count` more bytes of content, fewer only at its end.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>, count: usize) -> io::Result<()> {
        buffer.reserve(count);
        let limit = count as u64;
        match self {
            Stream::Seekable(file) => file.take(limit).read_to_end(buffer)?,
            Stream::Unpacked(bytes) => bytes.take(limit).read_to_end(buffer)?,
        };
        Ok(())
    }

    /// The size on disk now, where it is that of the content.
    pub(super) fn plain_size(&self) -> io::Result<Option<u64>> {
        match self {
            Stream::Seekable(file) => Ok(Some(file.metadata()?.len())),
            Stream::Unpacked(_) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_known_by_its_name() {
        let named = |name: &str| Form::named(name).map(Form::name);
        for name in ["plain", "gzip", "zstd", "bzip2", "xz", "plain+utf-16le", "gzip+utf-8-bom"] {
            assert_eq!(named(name).as_deref(), Some(name));
        }
        for name in ["", "zip", "plain+", "plain+latin-1"] {
            assert_eq!(named(name), None);
        }
    }

    #[test]
    fn a_look_shows_what_a_file_starts_with() {
        let folder = tempfile::TempDir::new().unwrap();
        let text = "{\"a\":1}\n".repeat(2_000);
        let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (content, name) in [
            (text.clone().into_bytes(), "plain"),
            (zstd::encode_all(text.as_bytes(), 1).unwrap(), "zstd"),
            (zstd::encode_all(&utf16[..], 1).unwrap(), "zstd+utf-16be"),
            (["\u{feff}", &text].concat().into_bytes(), "plain+utf-8-bom"),
        ] {
            let path = folder.path().join("a");
            std::fs::write(&path, content).unwrap();
            let look = Look::at(&path, "a").unwrap();
            assert_eq!((look.form.name().as_str(), look.head.as_slice()), (name, &text.as_bytes()[..HEAD]));
            assert!(!look.is_whole() && look.refusal.is_none() && look.broken.is_none());
        }
    }
}
