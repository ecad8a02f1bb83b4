//! A file's unpacked content as a stream of bytes from any offset.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

/// How a file is packed, told from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    /// Its name in checkpoints.
    pub(super) fn name(self) -> &'static str {
        match self {
            Packing::Plain => "plain",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        }
    }

    fn of(start: &[u8]) -> Packing {
        match start {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            // A frame, or a skippable frame, which some tools write first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }

    /// How the file at `path` is packed.
    pub(super) fn of_file(path: &Path) -> io::Result<Packing> {
        let mut start = Vec::with_capacity(4);
        File::open(path)?.take(4).read_to_end(&mut start)?;
        Ok(Packing::of(&start))
    }
}

/// What identifies a file and shows that it was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Stat {
    pub(super) dev: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    mtime: i64,
    mtime_ns: i64,
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

    pub(super) fn is_same_file(&self, other: &Stat) -> bool {
        (self.dev, self.inode) == (other.dev, other.inode)
    }
}

/// An open file.
pub(super) enum Stream {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
    Zstd(zstd::Decoder<'static, BufReader<File>>),
}

/// Bytes of a packed file read at once.
const PACKED_BUFFER: usize = 256 << 10;

impl Stream {
    /// Opens a file at its beginning.
    pub(super) fn open(path: &Path, packing: Packing) -> io::Result<(Stream, Stat)> {
        let file = File::open(path)?;
        let stat = Stat::of(&file.metadata()?);
        let stream = match packing {
            Packing::Plain => Stream::Plain(file),
            Packing::Gzip => Stream::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(PACKED_BUFFER, file)))),
            Packing::Zstd => Stream::Zstd(zstd::Decoder::with_buffer(BufReader::with_capacity(PACKED_BUFFER, file))?),
        };
        Ok((stream, stat))
    }

    /// Moves a freshly opened stream to `offset` in the content: a plain file seeks, a packed one unpacks.
    /// `seen` gets what is unpacked on the way. Gives whether the content is that long.
    pub(super) fn skip_to(&mut self, offset: u64, mut seen: impl FnMut(&[u8])) -> io::Result<bool> {
        if let Stream::Plain(file) = self {
            return Ok(file.seek(SeekFrom::Start(offset))? <= file.metadata()?.len());
        }
        let mut left = offset;
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
            Stream::Plain(file) => file.take(limit).read_to_end(buffer)?,
            Stream::Gzip(decoder) => packed("gzip", decoder.as_mut().take(limit).read_to_end(buffer))?,
            Stream::Zstd(decoder) => packed("zstd", decoder.take(limit).read_to_end(buffer))?,
        };
        Ok(())
    }

    /// The size on disk of a plain file now.
    pub(super) fn plain_size(&self) -> io::Result<Option<u64>> {
        match self {
            Stream::Plain(file) => Ok(Some(file.metadata()?.len())),
            Stream::Gzip(_) | Stream::Zstd(_) => Ok(None),
        }
    }
}

fn packed(what: &str, result: io::Result<usize>) -> io::Result<usize> {
    result.map_err(|error| io::Error::new(error.kind(), format!("its {what} data is damaged or cut short ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_told_by_content_not_by_name() {
        assert_eq!(Packing::of(b"\x1f\x8b\x08"), Packing::Gzip);
        assert_eq!(Packing::of(b"\x28\xb5\x2f\xfd"), Packing::Zstd);
        assert_eq!(Packing::of(b"\x50\x2a\x4d\x18"), Packing::Zstd);
        assert_eq!(Packing::of(b"{\"a\":1}"), Packing::Plain);
        assert_eq!(Packing::of(b""), Packing::Plain);
    }
}
