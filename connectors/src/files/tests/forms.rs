//! Packings and encodings: read the same, refused by name, known again in another one.

use super::*;

fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn xz(content: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn utf16(content: &str) -> Vec<u8> {
    content.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// The same content in many forms.
fn forms(content: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = content.as_bytes();
    let marked = format!("\u{feff}{content}");
    vec![
        ("plain", bytes.to_vec()),
        ("gzip", gzip(bytes)),
        ("gzip, zeros", [gzip(bytes), vec![0; 700]].concat()),
        ("zstd", zstd::encode_all(bytes, 1).unwrap()),
        ("bzip2", bzip2(bytes)),
        ("xz", xz(bytes)),
        ("mark", marked.clone().into_bytes()),
        ("gzip, mark", gzip(marked.as_bytes())),
        ("utf-16", utf16(&marked)),
        ("utf-16 without mark", utf16(content)),
        ("xz, utf-16", xz(&utf16(content))),
    ]
}

#[test]
fn every_form_gives_the_same_blocks_and_goes_on_where_it_stopped() {
    let content = events(0..2_000);
    for (form, bytes) in forms(&content) {
        let folder = folder();
        let path = write(&folder, "a", bytes);
        let mut whole = open_one(&path, &[]).unwrap();
        let blocks = read_all(&mut *whole, 0, 10_000);
        assert_eq!(joined(&blocks), content.as_bytes(), "{form}");
        for stop in [0, 1, 5, blocks.len()] {
            let mut reader = open_one(&path, &[]).unwrap();
            for _ in 0..stop {
                reader.read(0, 10_000, None).unwrap();
            }
            let mut resumed = open_one(&path, &bindings(&*reader)).unwrap();
            assert_eq!(read_all(&mut *resumed, 0, 10_000), blocks[stop..], "{form} {stop}");
            assert_eq!(resumed.position(0), whole.position(0), "{form} {stop}");
        }
    }
}

#[test]
fn a_file_is_known_again_in_another_form() {
    let content = events(0..2_000);
    let forms = forms(&content);
    for (was, before) in &forms {
        for (is, after) in &forms {
            // Bytes that were read as they are are not decoded later.
            if ["plain", "gzip", "gzip, zeros", "zstd", "bzip2", "xz"].contains(was) && is.contains("utf-16")
                || is.contains("mark")
            {
                continue;
            }
            let folder = folder();
            let path = write(&folder, "a", before);
            let mut reader = open_one(&path, &[]).unwrap();
            reader.read(0, 50_000, None).unwrap();
            let (recorded, rest) = (bindings(&*reader), joined(&read_all(&mut *reader, 0, 50_000)));
            fs::remove_file(&path).unwrap();
            let packed = write(&folder, "a.packed", after);
            let mut resumed = open_one(&packed, &recorded).unwrap();
            assert_eq!(joined(&read_all(&mut *resumed, 0, 50_000)), rest, "{was} -> {is}");
            assert_eq!(resumed.partitions()[0].name, path.to_str().unwrap());
        }
    }
}

#[test]
fn a_growing_file_in_utf_16_is_read_line_by_line() {
    let folder = folder();
    let text = utf16("\u{feff}erste\nzw\u{f6}lf \u{1f600}\ndritte\n");
    let (mut recorded, mut read) = (Vec::new(), Vec::new());
    for cut in 2..=text.len() {
        let path = write(&folder, "a", &text[..cut]);
        let mut reader = open_one(&path, &recorded).unwrap();
        read.extend(joined(&read_all(&mut *reader, 0, 8)));
        recorded = bindings(&*reader);
    }
    assert_eq!(String::from_utf8(read).unwrap(), "erste\nzw\u{f6}lf \u{1f600}\ndritte\n");
}

#[test]
fn what_holds_no_lines_is_refused_before_anything_is_read() {
    let folder = folder();
    let good = write(&folder, "good", events(0..3));
    for (content, problem) in [
        (b"PK\x03\x04whatever".to_vec(), "it is a zip archive; unpack it (unzip -p"),
        (gzip(b"PK\x03\x04whatever"), "a zip archive within gzip data"),
        (gzip(&gzip(b"line\n")), "gzip data within gzip data"),
        (b"PAR1\x15\x04..".to_vec(), "a Parquet file"),
        ("\u{feff}{\"a\":1}\n".chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(), "UTF-32"),
    ] {
        let path = write(&folder, "other", content);
        match open(&[good.clone(), path.clone()], &[]).map(|_| ()) {
            Err(SourceError::Refused { partition, problem: said }) => {
                assert_eq!(partition, path.to_str().unwrap());
                assert!(said.contains(problem), "{said}");
            }
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
}

#[test]
fn bytes_that_an_older_build_took_as_they_are_stay_so() {
    let folder = folder();
    let content = format!("\u{feff}{}", events(0..20));
    let path = write(&folder, "a", &content);
    // The older build counted the mark, and knew no head.
    let plain = write(&folder, "b", format!("xxx{}", events(0..20)));
    let mut recorded = bindings(&*reader_at(&plain, 500));
    let read = usize::try_from(recorded[0].end).unwrap();
    let mut digest = digest::ContentDigest::default();
    digest.update(&content.as_bytes()[..read]);
    recorded[0].digest = digest.record(digest::LastLine::Ended).text();
    recorded[0].name = path.to_str().unwrap().to_owned();
    recorded[0].detail["path"] = recorded[0].name.clone().into();
    recorded[0].detail.as_object_mut().unwrap().remove("head");
    let mut resumed = open_one(&path, &recorded).unwrap();
    assert_eq!(joined(&read_all(&mut *resumed, 0, 500)), content.as_bytes()[read..]);
}

#[test]
fn a_packed_file_that_is_still_written_goes_on_when_it_is_whole() {
    let content = events(0..30_000);
    let packed = gzip(content.as_bytes());
    let folder = folder();
    let path = write(&folder, "a.gz", &packed[..packed.len() / 2]);
    let mut reader = open_one(&path, &[]).unwrap();
    let mut read = Vec::new();
    let error = loop {
        match reader.read(0, 10_000, None) {
            Ok(block) => read.extend(block.expect("it has no end yet").bytes),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("is cut short") && error.contains("still being written?"), "{error}");
    let recorded = bindings(&*reader);
    fs::write(&path, &packed).unwrap();
    read.extend(joined(&read_all(&mut *open_one(&path, &recorded).unwrap(), 0, 10_000)));
    assert_eq!(read, content.as_bytes());
}
