//! Topics in a folder: what is fixed when one is made, and which ones there are.
//!
//! ```text
//! DIR/TOPIC/topic.json             number of partitions and an identity; its being there makes the folder a topic
//! DIR/TOPIC/writer.lock            held by the one writer
//! DIR/TOPIC/published              where each partition ends for readers
//! DIR/TOPIC/3/00000000000000004711.log     the segment of partition 3 that begins with offset 4711
//! ```

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tidemill_connectors::messages::Topics;

use crate::disk::{Disk, create_folders};
use crate::error::{At, LogError};
use crate::published::{self, End};

/// The version of everything stored below a topic's folder.
const FORMAT: u32 = 1;
const DESCRIPTION: &str = "topic.json";
const LOCK: &str = "writer.lock";
const MAX_PARTITIONS: u32 = 10_000;

#[derive(Serialize, Deserialize)]
struct Description {
    format: u32,
    partitions: u32,
    id: String,
}

/// A topic that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions it has, for ever.
    pub partitions: u32,
    /// A random text given when it was made, by which one that was made anew under the same name is told.
    pub id: String,
    pub(crate) folder: PathBuf,
}

impl Topic {
    /// The topic of this name below `root`; none if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or was made by another version.
    pub fn find(root: &Path, name: &str) -> Result<Option<Topic>, LogError> {
        check_name(name)?;
        let folder = root.join(name);
        let path = folder.join(DESCRIPTION);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(LogError::io(&path, "read", error)),
        };
        let description: Description =
            serde_json::from_slice(&text).map_err(|error| LogError::damaged(&path, 0, error.to_string()))?;
        let Description { format, partitions, id } = description;
        if format != FORMAT {
            let path = path.display();
            let remedy = "use the program that made it, or another folder";
            return Err(LogError::Refused(format!(
                "{path}: the topic has format {format} and this program knows {FORMAT}; {remedy}"
            )));
        }
        Ok(Some(Topic { name: name.to_owned(), partitions, id, folder }))
    }

    /// The topics below `root` that are meant, sorted by name. A folder that is not there holds none.
    ///
    /// # Errors
    /// If the folder, or a topic in it, cannot be read.
    pub fn list(root: &Path, meant: &Topics) -> Result<Vec<Topic>, LogError> {
        let entries = match fs::read_dir(root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(LogError::io(root, "list", error)),
        };
        let mut topics = Vec::new();
        for entry in entries {
            let entry = entry.at(root, "list")?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if check_name(&name).is_ok() && meant.matches(&name) {
                topics.extend(Topic::find(root, &name)?);
            }
        }
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(topics)
    }

    /// Makes the topic, durably; called with its lock held.
    pub(crate) fn make(disk: &dyn Disk, root: &Path, name: &str, partitions: u32) -> Result<Topic, LogError> {
        let id = format!("{:016x}", RandomState::new().build_hasher().finish());
        let topic = Topic { name: name.to_owned(), partitions, id: id.clone(), folder: root.join(name) };
        for partition in 0..partitions {
            let folder = topic.partition_folder(partition);
            create_folders(disk, &folder).at(&folder, "create")?;
        }
        let (slot, at) = published::slot(1, &vec![End::default(); partitions as usize]);
        put(disk, &topic.folder.join(published::NAME), &slot, at)?;
        // What makes the folder a topic comes last, in one step.
        let (path, unfinished) = (topic.folder.join(DESCRIPTION), topic.folder.join("topic.json.new"));
        let text = serde_json::to_vec(&Description { format: FORMAT, partitions, id })
            .expect("numbers and a text can always be written as JSON");
        put(disk, &unfinished, &text, 0)?;
        disk.rename(&unfinished, &path).and_then(|()| disk.sync_folder(&topic.folder)).at(&path, "create")?;
        Ok(topic)
    }

    pub(crate) fn partition_folder(&self, partition: u32) -> PathBuf {
        self.folder.join(partition.to_string())
    }

    /// Refuses a partition that the topic does not have.
    pub(crate) fn check(&self, partition: u32) -> Result<(), LogError> {
        if partition < self.partitions {
            return Ok(());
        }
        let (name, count) = (&self.name, self.partitions);
        Err(LogError::Refused(format!("topic {name} has {count} partitions, counted from 0, and no {partition}")))
    }
}

/// Writes a new file, durably but for its name.
fn put(disk: &dyn Disk, path: &Path, bytes: &[u8], at: u64) -> Result<(), LogError> {
    let file = disk.create(path).at(path, "create")?;
    file.write_at(bytes, at).and_then(|()| file.sync()).at(path, "write")
}

/// The file that a topic's writer holds locked.
pub(crate) fn lock_path(root: &Path, name: &str) -> PathBuf {
    root.join(name).join(LOCK)
}

/// Refuses what cannot be the name of a topic and of its folder.
pub(crate) fn check_name(name: &str) -> Result<(), LogError> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if !name.is_empty() && name.len() <= 249 && !name.starts_with('.') && name.bytes().all(known) {
        return Ok(());
    }
    let remedy = "use letters, digits, `.`, `_` and `-`, no dot first";
    Err(LogError::Refused(format!("`{name}` cannot be a topic's name; {remedy}")))
}

pub(crate) fn check_partitions(partitions: u32) -> Result<(), LogError> {
    if (1..=MAX_PARTITIONS).contains(&partitions) {
        return Ok(());
    }
    Err(LogError::Refused(format!("a topic cannot have {partitions} partitions; use 1 to {MAX_PARTITIONS}")))
}
