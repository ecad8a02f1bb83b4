//! Files that hold no lines of text, by name, and what to do with them.

use super::encoding::Encoding;
use super::packing::Packing;

/// First bytes, what has them, and what to do, with `{}` for the file's name.
const MAGICS: [(&[u8], &str, &str); 27] = [
    (b"PK\x03\x04", "a zip archive", UNZIP),
    (b"PK\x05\x06", "an empty zip archive", UNZIP),
    (b"PK\x07\x08", "a zip archive in several parts", UNZIP),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it (7z x {}) and give the files"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it (unrar x {}) and give the files"),
    (b"\x04\x22\x4d\x18", "packed with lz4", "unpack it (lz4 -d {})"),
    (b"\x02\x21\x4c\x18", "packed with lz4", "unpack it (lz4 -d {})"),
    (b"\xff\x06\0\0sNaPpY", "packed with snappy", "unpack it and give the plain file"),
    (b"\x1f\x9d", "packed with compress", "unpack it (gzip -dc {} > FILE) and give that"),
    (b"\x1f\xa0", "packed with compress", "unpack it (gzip -dc {} > FILE) and give that"),
    (b"LZIP", "packed with lzip", "unpack it (lzip -d {})"),
    (b"\x89LZO\0\r\n", "packed with lzop", "unpack it (lzop -d {})"),
    (b"]\0\0\x80\0\xff\xff\xff\xff\xff\xff\xff\xff", "packed with lzma", "unpack it (xz -dc {} > FILE) and give that"),
    (b"MSCF", "a cabinet archive", "unpack it (cabextract {}) and give the files"),
    (b"!<arch>\n", "an ar archive", "unpack it (ar x {}) and give the files"),
    (b"070701", "a cpio archive", "unpack it (cpio -i < {}) and give the files"),
    (b"PAR1", "a Parquet file", "export it as one JSON object a line"),
    (b"ORC", "an ORC file", "export it as one JSON object a line"),
    (b"Obj\x01", "an Avro file", "export it as one JSON object a line"),
    (b"ARROW1", "an Arrow file", "export it as one JSON object a line"),
    (b"SQLite format 3\0", "an SQLite database", "export the table as one JSON object a line"),
    (b"%PDF-", "a PDF", NO_LINES),
    (b"\x7fELF", "a program", NO_LINES),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document", NO_LINES),
    (b"\x89PNG\r\n\x1a\n", "an image", NO_LINES),
    (b"ElfFile\0", "a Windows event log", "export it as one JSON object a line"),
    (b"LPKSHHRH", "a systemd journal", "export it (journalctl -o json --file {} > FILE) and give that"),
];

const UNZIP: &str = "unpack it (unzip -p {} > FILE) and give that";
const NO_LINES: &str = "give files of lines: NDJSON or web server logs";

/// What a file is that cannot be read, and what to do; `raw` is its start, `unpacked` the start of what is packed in it.
pub(super) fn refusal(name: &str, packing: Packing, raw: &[u8], unpacked: &[u8]) -> Option<String> {
    let quoted = if name.contains([' ', '\'']) { format!("{name:?}") } else { name.to_owned() };
    let say = |what: &str, remedy: &str| Some(format!("it is {what}; {}", remedy.replace("{}", &quoted)));
    let magic = |bytes: &[u8]| MAGICS.iter().find(|(magic, ..)| bytes.starts_with(magic) && is_told(magic, bytes));
    if let Some((_, what, remedy)) = magic(raw) {
        return say(what, remedy);
    }
    if is_tar(unpacked) {
        return match packing {
            Packing::Plain => say("a tar archive", "unpack it (tar -xf {}) and give the files"),
            _ => say(
                &format!("a tar archive, packed with {}", packing.name()),
                "unpack it (tar -xf {}) and give the files",
            ),
        };
    }
    if Encoding::is_utf32(unpacked) {
        return say("text in UTF-32", "convert it (iconv -f UTF-32 -t UTF-8 {} > FILE) and give that");
    }
    if ends_lines_with_cr(unpacked) {
        return say("text whose lines end in CR alone", "convert it (tr '\\r' '\\n' < {} > FILE) and give that");
    }
    if packing == Packing::Plain {
        return None;
    }
    let within = match Packing::of(unpacked) {
        Packing::Plain => magic(unpacked).map(|(_, what, _)| (*what).to_owned())?,
        inner => format!("{} data", inner.name()),
    };
    say(&format!("{within} within {} data", packing.name()), "unpack it once and give what comes out")
}

/// Whether the first bytes tell what a file is. Letters and digits alone may begin a line too: then no text stands behind.
fn is_told(magic: &[u8], bytes: &[u8]) -> bool {
    const LOOKED_AT: usize = 512;
    let is_no_text = |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\n' | b'\r');
    let may_be_text = magic.iter().all(u8::is_ascii_alphanumeric);
    let behind = bytes.get(magic.len()..).unwrap_or_default();
    !may_be_text || behind.is_empty() || behind.iter().take(LOOKED_AT).any(is_no_text)
}

/// Whether the content has carriage returns between its lines, as old Macs wrote them, and no line feed.
fn ends_lines_with_cr(start: &[u8]) -> bool {
    let returns = start.iter().filter(|byte| **byte == b'\r').count();
    Encoding::of(start) == Encoding::Utf8 && returns > 1 && !start.contains(&b'\n')
}

/// Whether content starts with the header of a tar archive: of today, or of version 7, which is told by its checksum.
fn is_tar(start: &[u8]) -> bool {
    let Some(header) = start.get(..512) else { return false };
    if &header[257..262] == b"ustar" {
        return true;
    }
    let digits = header[148..156].iter().filter(|byte| !matches!(byte, b' ' | 0));
    let recorded = digits.map(|digit| matches!(digit, b'0'..=b'7').then(|| u32::from(digit - b'0')));
    let recorded = recorded.into_iter().try_fold(0_u32, |sum, digit| Some(sum * 8 + digit?));
    let sum: u32 = header[..148].iter().chain(&header[156..]).map(|byte| u32::from(*byte)).sum();
    header[0] != 0 && recorded == Some(sum + 8 * u32::from(b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(ustar: bool) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..10].copy_from_slice(b"access.log");
        header[124..135].copy_from_slice(b"00000000012");
        if ustar {
            header[257..263].copy_from_slice(b"ustar\0");
        }
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }

    #[test]
    fn what_holds_no_lines_is_refused_by_name_with_what_to_do() {
        let utf32: Vec<u8> = "\u{feff}ab".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect();
        for (packing, raw, unpacked, expected) in [
            (
                Packing::Plain,
                &b"PK\x03\x04rest"[..],
                &b"PK\x03\x04rest"[..],
                "it is a zip archive; unpack it (unzip -p a.x > FILE)",
            ),
            (Packing::Plain, &tar(true), &tar(true), "it is a tar archive; unpack it (tar -xf a.x)"),
            (Packing::Gzip, b"\x1f\x8b", &tar(true), "it is a tar archive, packed with gzip; unpack it (tar -xf a.x)"),
            (Packing::Xz, b"\xfd7zXZ\0", &tar(false), "it is a tar archive, packed with xz"),
            (Packing::Gzip, b"\x1f\x8b", b"\x1f\x8b\x08", "it is gzip data within gzip data; unpack it once"),
            (Packing::Zstd, b"\x28\xb5\x2f\xfd", b"PAR1", "it is a Parquet file within zstd data"),
            (Packing::Plain, b"PAR1", b"PAR1", "it is a Parquet file; export it"),
            (
                Packing::Plain,
                b"a\rb\r",
                b"a\rb\r",
                "it is text whose lines end in CR alone; convert it (tr '\\r' '\\n' < a.x",
            ),
            (Packing::Plain, &utf32, &utf32, "it is text in UTF-32; convert it (iconv"),
        ] {
            let refusal = refusal("a.x", packing, raw, unpacked).unwrap();
            assert!(refusal.starts_with(expected), "{refusal}");
        }
        let spaced = refusal("my log.zip", Packing::Plain, b"PK\x03\x04", b"PK\x03\x04").unwrap();
        assert!(spaced.contains("unzip -p \"my log.zip\""), "{spaced}");
    }

    #[test]
    fn lines_are_not_refused() {
        let long = b"192.0.2.1 - - line of a log\n".repeat(40);
        for content in [
            &b""[..],
            b"{\"a\":1}\n",
            b"PK",
            b"a\r",
            b"a\r\nb",
            b"POST /",
            b"OR",
            &long,
            &vec![0; 600],
            b"LOG",
            b"ORC.example:80 192.0.2.1 - -\n",
            b"PAR1 a\n",
            b"070701 b\n",
        ] {
            assert_eq!(refusal("a", Packing::Plain, content, content), None);
            assert_eq!(refusal("a", Packing::Gzip, b"\x1f\x8b", content), None);
        }
    }
}
