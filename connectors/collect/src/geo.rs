//! Country and city of an address, from a MaxMind DB file on this machine.

use std::net::IpAddr;
use std::path::Path;

use maxminddb::{MaxMindDbError, Reader, path};

/// An opened database.
pub(crate) struct GeoDatabase(Reader<Vec<u8>>);

/// Where an address is, as far as the database knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// ISO 3166 code.
    pub(crate) country: Option<&'a str>,
    /// English name.
    pub(crate) city: Option<&'a str>,
}

impl GeoDatabase {
    /// Reads the whole file into memory.
    pub(crate) fn open(path: &Path) -> Result<GeoDatabase, MaxMindDbError> {
        Reader::open_readfile(path).map(GeoDatabase)
    }

    /// Looks an address up; none if the database knows nothing of it.
    pub(crate) fn place(&self, address: IpAddr) -> Option<Place<'_>> {
        let found = self.0.lookup(address).ok()?;
        // A database of another kind lacks these paths: then nothing is known, as for an address that is not in it.
        let country = found.decode_path(&path!["country", "iso_code"]).ok().flatten();
        let city = found.decode_path(&path!["city", "names", "en"]).ok().flatten();
        (country.is_some() || city.is_some()).then_some(Place { country, city })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A database that knows one IPv4 network of 24 bits.
    pub(crate) fn database(network: [u8; 3], country: &str, city: &str) -> Vec<u8> {
        let mut tree = Vec::new();
        let nodes = 24_u32;
        for depth in 0..nodes {
            let bit = (network[depth as usize / 8] >> (7 - depth % 8)) & 1;
            // The data section follows 16 zero bytes behind the tree; its first entry has this number.
            let next = if depth + 1 == nodes { nodes + 16 } else { depth + 1 };
            let sides = if bit == 0 { [next, nodes] } else { [nodes, next] };
            sides.iter().for_each(|side| tree.extend_from_slice(&side.to_be_bytes()[1..]));
        }
        let mut file = tree;
        file.extend_from_slice(&[0; 16]);
        map(&mut file, 2);
        text(&mut file, "country");
        map(&mut file, 1);
        text(&mut file, "iso_code");
        text(&mut file, country);
        text(&mut file, "city");
        map(&mut file, 1);
        text(&mut file, "names");
        map(&mut file, 1);
        text(&mut file, "en");
        text(&mut file, city);
        file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        map(&mut file, 9);
        text(&mut file, "node_count");
        file.push(6 << 5 | 4);
        file.extend_from_slice(&nodes.to_be_bytes());
        for (name, value) in [
            ("record_size", 24_u8),
            ("ip_version", 4),
            ("binary_format_major_version", 2),
            ("binary_format_minor_version", 0),
        ] {
            text(&mut file, name);
            file.extend_from_slice(&[5 << 5 | 1, value]);
        }
        text(&mut file, "database_type");
        text(&mut file, "Test-City");
        text(&mut file, "languages");
        file.extend_from_slice(&[1, 4]);
        text(&mut file, "en");
        text(&mut file, "description");
        map(&mut file, 0);
        text(&mut file, "build_epoch");
        file.extend_from_slice(&[4, 2, 0x65, 0, 0, 0]);
        file
    }

    fn map(file: &mut Vec<u8>, entries: u8) {
        file.push(7 << 5 | entries);
    }

    fn text(file: &mut Vec<u8>, text: &str) {
        let length = u8::try_from(text.len()).unwrap();
        if length < 29 {
            file.push(2 << 5 | length)
        } else {
            file.extend_from_slice(&[2 << 5 | 29, length - 29])
        }
        file.extend_from_slice(text.as_bytes());
    }

    #[test]
    fn an_address_is_placed_and_an_unknown_one_is_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("city.mmdb");
        std::fs::write(&file, database([81, 2, 69], "GB", "London")).unwrap();
        let database = GeoDatabase::open(&file).unwrap();
        let london = Place { country: Some("GB"), city: Some("London") };
        assert_eq!(database.place([81, 2, 69, 160].into()), Some(london));
        assert_eq!(database.place([81, 2, 70, 1].into()), None);
        assert_eq!(database.place("2001:db8::1".parse().unwrap()), None);
        std::fs::write(&file, "no database").unwrap();
        assert!(GeoDatabase::open(&file).is_err());
    }
}
