//! How files are packed, and the bytes that come out.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream as XzStream};
use thiserror::Error;
use tidemill_dataflow::source::SourceError;

/// How a file is packed, told from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
    Bzip2,
    Xz,
}

/// Bytes of a packed file read at once.
pub(super) const PACKED_BUFFER: usize = 256 << 10;
/// The largest window of Zstandard, which `--long=31` asks for: the frame says what it needs, and only that is taken.
const ZSTD_WINDOW: u32 = 31;
/// The memory for xz: its largest dictionary, 1.5 GiB, and what is beside it. The file says what it needs.
const XZ_MEMORY: u64 = 2 << 30;

impl Packing {
    const ALL: [Packing; 5] = [Packing::Plain, Packing::Gzip, Packing::Zstd, Packing::Bzip2, Packing::Xz];

    /// Its name in checkpoints.
    pub(super) fn name(self) -> &'static str {
        match self {
            Packing::Plain => "plain",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Bzip2 => "bzip2",
            Packing::Xz => "xz",
        }
    }

    pub(super) fn named(name: &str) -> Option<Packing> {
        Packing::ALL.into_iter().find(|packing| packing.name() == name)
    }

    /// The packing of content that starts with these bytes.
    pub(super) fn of(start: &[u8]) -> Packing {
        match start {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            // A frame, or a skippable frame, which some tools write first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Packing::Zstd,
            // Behind the level stands a block, or the end of an empty stream.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31 | 0x17, ..] => Packing::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            _ => Packing::Plain,
        }
    }

    /// The bytes that are packed in a file, which is read from where it stands.
    pub(super) fn unpack(self, file: File) -> io::Result<Box<dyn Read + Send>> {
        let size = file.metadata()?.len();
        let file = BufReader::with_capacity(PACKED_BUFFER, file);
        let bytes: Box<dyn Read + Send> = match self {
            Packing::Plain => return Ok(Box::new(file.into_inner())),
            Packing::Gzip => Box::new(Members::<GzDecoder<_>>::new(file)),
            Packing::Bzip2 => Box::new(Members::<BzDecoder<_>>::new(file)),
            Packing::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(file)?;
                decoder.window_log_max(ZSTD_WINDOW)?;
                Box::new(decoder)
            }
            Packing::Xz => {
                let stream = XzStream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
                Box::new(XzDecoder::new_stream(file, stream))
            }
        };
        Ok(Box::new(Checked { bytes, packing: self, size }))
    }
}

/// What is wrong with packed data, and what to do.
#[derive(Debug, Error)]
#[error("{0}")]
struct Damage(String);

/// Why a file cannot be read on: a damaged one is refused, since the next try would end in the same way.
pub(super) fn unreadable(partition: String, source: io::Error) -> SourceError {
    match source.get_ref().and_then(|error| error.downcast_ref::<Damage>()) {
        Some(damage) => SourceError::Refused { partition, problem: damage.to_string() },
        None => SourceError::Io { partition, source },
    }
}

/// The same error once more.
pub(super) fn repeated(error: &io::Error) -> io::Error {
    let text = error.to_string();
    match error.get_ref().is_some_and(|error| error.is::<Damage>()) {
        true => io::Error::new(error.kind(), Damage(text)),
        false => io::Error::new(error.kind(), text),
    }
}

/// Packed bytes whose errors say what is wrong with the file.
struct Checked {
    bytes: Box<dyn Read + Send>,
    packing: Packing,
    /// Of the file, when it was opened.
    size: u64,
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer).map_err(|error| self.explained(&error))
    }
}

impl Checked {
    fn explained(&self, error: &io::Error) -> io::Error {
        if let Some(code) = error.raw_os_error() {
            return io::Error::from_raw_os_error(code);
        }
        let (packing, size) = (self.packing.name(), self.size);
        let sentence = if is_cut_short(error) {
            format!(
                "its {packing} data is cut short: the file ends, at {size} bytes, in the middle of it. Is it still being \
                 written? Then wait for it; otherwise fetch it again, or unpack what is left and give that"
            )
        } else {
            format!(
                "its {packing} data is damaged ({error}); fetch it again, or unpack what can be unpacked and give that"
            )
        };
        let goes_on = "What was read of it before stays, and the same command goes on";
        io::Error::new(error.kind(), Damage(format!("{sentence}. {goes_on}")))
    }
}

/// Whether a packed file ended too early, as one does that is still being written.
pub(super) fn is_cut_short(error: &io::Error) -> bool {
    error.kind() == ErrorKind::UnexpectedEof
}

type Packed = BufReader<File>;

/// A decoder of one of the members that a packed file consists of.
trait Member: Read + Sized {
    fn new(file: Packed) -> Self;
    fn into_inner(self) -> Packed;
    /// The first byte of each member.
    const FIRST: u8;
}

impl Member for GzDecoder<Packed> {
    const FIRST: u8 = 0x1f;

    fn new(file: Packed) -> Self {
        GzDecoder::new(file)
    }

    fn into_inner(self) -> Packed {
        self.into_inner()
    }
}

impl Member for BzDecoder<Packed> {
    const FIRST: u8 = b'B';

    fn new(file: Packed) -> Self {
        BzDecoder::new(file)
    }

    fn into_inner(self) -> Packed {
        self.into_inner()
    }
}

/// All members of a file, one behind the other. Zeros between and behind them are padding, as their own tools have it.
struct Members<M> {
    /// `None` behind the last one.
    member: Option<M>,
}

impl<M: Member> Members<M> {
    fn new(file: Packed) -> Self {
        Members { member: Some(M::new(file)) }
    }
}

impl<M: Member> Read for Members<M> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 {
                return Ok(read);
            }
            self.member = match self.member.take().map(M::into_inner) {
                Some(file) => next(file, M::FIRST)?.map(M::new),
                None => None,
            };
        }
        Ok(0)
    }
}

/// The file at its next member, if there is one.
fn next(mut file: Packed, first: u8) -> io::Result<Option<Packed>> {
    loop {
        let bytes = file.fill_buf()?;
        let Some(zeros) = bytes.iter().position(|byte| *byte != 0) else {
            let all = bytes.len();
            if all == 0 {
                return Ok(None);
            }
            file.consume(all);
            continue;
        };
        if bytes[zeros] != first {
            return Err(io::Error::new(ErrorKind::InvalidData, "something else stands behind its end"));
        }
        file.consume(zeros);
        return Ok(Some(file));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use super::*;

    const TEXT: &[u8] = b"some lines\nof some log\n";

    fn gzip() -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2() -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    }

    fn xz() -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    }

    fn zstandard() -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    }

    /// A frame that tools skip.
    const SKIPPED: &[u8] = b"\x50\x2a\x4d\x18\x03\0\0\0abc";

    #[track_caller]
    fn unpacked(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut content = Vec::new();
        Packing::of(bytes).unpack(file)?.read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn packing_is_told_by_content_not_by_name() {
        for (bytes, packing) in [
            (gzip(), Packing::Gzip),
            (zstandard(), Packing::Zstd),
            (SKIPPED.to_vec(), Packing::Zstd),
            (bzip2(), Packing::Bzip2),
            (xz(), Packing::Xz),
            (b"{\"a\":1}".to_vec(), Packing::Plain),
            (b"BZh is how a line may begin".to_vec(), Packing::Plain),
            (Vec::new(), Packing::Plain),
        ] {
            assert_eq!(Packing::of(&bytes), packing);
            assert_eq!(Packing::named(packing.name()), Some(packing));
        }
    }

    #[test]
    fn members_frames_and_padding_are_read_as_their_own_tools_read_them() {
        let twice = [TEXT, TEXT].concat();
        for (what, bytes, content) in [
            ("gzip", gzip(), TEXT),
            ("gzip, two members", [gzip(), gzip()].concat(), &twice),
            ("gzip, zeros behind it", [gzip(), vec![0; 300_000]].concat(), TEXT),
            ("gzip, zeros between", [gzip(), vec![0; 512], gzip()].concat(), &twice),
            ("bzip2", bzip2(), TEXT),
            ("bzip2, two streams", [bzip2(), bzip2()].concat(), &twice),
            ("bzip2, zeros behind it", [bzip2(), vec![0; 10]].concat(), TEXT),
            ("xz", xz(), TEXT),
            ("xz, two streams", [xz(), xz()].concat(), &twice),
            ("xz, padding", [xz(), vec![0; 8], xz(), vec![0; 512]].concat(), &twice),
            ("zstd", zstandard(), TEXT),
            ("zstd, skipped frames", [SKIPPED, &zstandard(), SKIPPED, &zstandard(), SKIPPED].concat(), &twice),
        ] {
            assert_eq!(unpacked(&bytes).unwrap(), content, "{what}");
        }
    }

    #[test]
    fn a_long_window_is_read() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(TEXT).unwrap();
        encoder.flush().unwrap();
        encoder.write_all(TEXT).unwrap();
        assert_eq!(unpacked(&encoder.finish().unwrap()).unwrap(), [TEXT, TEXT].concat());
    }

    #[test]
    fn what_is_wrong_with_packed_data_is_said() {
        for whole in [gzip(), bzip2(), xz(), zstandard()] {
            let name = Packing::of(&whole).name();
            for cut in [whole.len() - 1, whole.len() - 5, whole.len() / 2, 7] {
                let error = unpacked(&whole[..cut]).unwrap_err();
                assert!(is_cut_short(&error), "{name} {cut}: {error}");
                assert!(error.to_string().contains(&format!("its {name} data is cut short")), "{error}");
                assert!(error.to_string().contains(&format!("at {cut} bytes")), "{error}");
            }
            let mut damaged = whole.clone();
            let middle = damaged.len() / 2;
            damaged[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0x5a);
            let behind = [whole.as_slice(), b"something else"].concat();
            for bytes in [damaged, behind] {
                let error = unpacked(&bytes).unwrap_err();
                assert!(error.to_string().contains(&format!("its {name} data is damaged (")), "{name}: {error}");
            }
        }
    }
}
