//! How `tidemill rescale` reaches the supervisor of a run on this machine: a socket that only its user can open.
//!
//! Its name follows from where the run keeps its state, so both sides know it: `$XDG_RUNTIME_DIR/tidemill/<hash>.sock`, or
//! below a folder of the user's own in the folder for temporary files. Where the supervisor was given a cluster token, the
//! same one must come with every request.
//!
//! A request is one line of JSON, the answers are lines: what happens, and in the end `done` or `failed` and a reason.

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidemill_dataflow::hash::hash128;
use tidemill_log::Location;

/// The longest request, in bytes.
const LONGEST: u64 = 4096;
/// How long one may take to arrive.
const WITHIN: Duration = Duration::from_secs(5);
/// More workers than any machine has use for.
const MOST: u32 = 1024;

/// Workers and processes of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Worker threads in each process.
    pub(crate) workers: u32,
    /// Processes.
    pub(crate) processes: u32,
}

impl Shape {
    /// Why no run can have these numbers, if so.
    pub(crate) fn wrong(self) -> Option<String> {
        let problem = |name: &str, most: u32| format!("{name}: give a number from 1 to {most}");
        if !(1..=MOST).contains(&self.workers) {
            return Some(problem("--workers", MOST));
        }
        (!(1..=256).contains(&self.processes)).then(|| problem("--processes", 256))
    }
}

#[derive(Serialize, Deserialize)]
struct Request {
    token: String,
    shape: Shape,
}

/// What a supervisor tells whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is under way.
    Step(String),
    /// The run goes on as asked for.
    Done(String),
    /// It does not, for this reason.
    Failed(String),
}

impl Answer {
    fn line(&self) -> String {
        let (word, text) = match self {
            Answer::Step(text) => ("step", text),
            Answer::Done(text) => ("done", text),
            Answer::Failed(text) => ("failed", text),
        };
        format!("{word} {}\n", text.replace('\n', " "))
    }

    fn of(line: &str) -> Option<Answer> {
        let (word, text) = line.trim_end().split_once(' ')?;
        match word {
            "step" => Some(Answer::Step(text.to_owned())),
            "done" => Some(Answer::Done(text.to_owned())),
            "failed" => Some(Answer::Failed(text.to_owned())),
            _ => None,
        }
    }
}

/// Someone wants other numbers, and is told over `answers` what becomes of it.
pub(super) struct Wish {
    pub(super) shape: Shape,
    pub(super) answers: Sender<Answer>,
}

/// The supervisor's end; it is gone when this is dropped.
pub(super) struct Control {
    path: PathBuf,
    inode: u64,
}

impl Control {
    /// Listens for the run that keeps its state at `place`, and gives every wish to `wish`.
    ///
    /// A supervisor that listened for the same place is about to be fenced; whoever asks from now on reaches this one.
    pub(super) fn listen(
        place: &Location,
        token: String,
        wish: impl Fn(Wish) + Send + Sync + Clone + 'static,
    ) -> io::Result<Control> {
        let path = path(&own_folder()?, place);
        let (listener, inode) = bind(&path)?;
        let serve = move || {
            for connection in listener.incoming().flatten() {
                let (token, wish) = (token.clone(), wish.clone());
                let answer = move || {
                    // Whoever asked and went away need not be told.
                    let _ = serve(connection, &token, &wish);
                };
                drop(thread::Builder::new().name("control".into()).spawn(answer));
            }
        };
        thread::Builder::new().name("control".into()).spawn(serve)?;
        Ok(Control { path, inode })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Another supervisor may have put its own in the place.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Asks the supervisor of the run at `place` for other numbers; gives the last answer. `None`: there is none here.
pub(crate) fn ask(
    place: &Location,
    token: String,
    shape: Shape,
    mut step: impl FnMut(&str),
) -> io::Result<Option<Answer>> {
    let mut connection = match UnixStream::connect(path(&own_folder()?, place)) {
        Ok(connection) => connection,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut request = serde_json::to_vec(&Request { token, shape }).map_err(io::Error::other)?;
    request.push(b'\n');
    connection.write_all(&request)?;
    for line in BufReader::new(connection).lines() {
        match Answer::of(&line?) {
            Some(Answer::Step(text)) => step(&text),
            Some(last) => return Ok(Some(last)),
            None => {}
        }
    }
    Ok(Some(Answer::Failed("the supervisor ended before it was done".into())))
}

fn serve(mut connection: UnixStream, token: &str, wish: &impl Fn(Wish)) -> io::Result<()> {
    connection.set_read_timeout(Some(WITHIN))?;
    let mut line = String::new();
    BufReader::new((&connection).take(LONGEST)).read_line(&mut line)?;
    for answer in answers(&line, token, wish) {
        connection.write_all(answer.line().as_bytes())?;
    }
    Ok(())
}

/// Passes a request on, or refuses it.
fn answers(line: &str, token: &str, wish: &impl Fn(Wish)) -> Receiver<Answer> {
    let (answers, told) = channel();
    let refusal = match serde_json::from_str::<Request>(line) {
        Err(_) => Some("it was asked in another version's words; use the program that runs".to_owned()),
        Ok(request) if request.token != token => {
            let name = super::processes::TOKEN;
            Some(format!("the run has another {name}: set the one that it was started with"))
        }
        Ok(Request { shape, .. }) => {
            let wrong = shape.wrong();
            if wrong.is_none() {
                wish(Wish { shape, answers: answers.clone() });
            }
            wrong
        }
    };
    if let Some(reason) = refusal {
        // The receiver is in our hands.
        let _ = answers.send(Answer::Failed(reason));
    }
    told
}

/// Listens at `path`, in the place of whatever is there.
fn bind(path: &Path) -> io::Result<(UnixListener, u64)> {
    let new = path.with_extension(std::process::id().to_string());
    // What a dead process of the same number left behind.
    let _ = fs::remove_file(&new);
    let listener = UnixListener::bind(&new)?;
    let inode = fs::symlink_metadata(&new)?.ino();
    fs::rename(&new, path)?;
    Ok((listener, inode))
}

fn path(folder: &Path, place: &Location) -> PathBuf {
    let name = match place {
        Location::Folder(data) => canonical(data).display().to_string(),
        bucket @ Location::S3 { .. } => bucket.to_string(),
    };
    folder.join(format!("{:032x}.sock", hash128(name.as_bytes(), 0)))
}

/// The folder's one name, also before it is made.
fn canonical(folder: &Path) -> PathBuf {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    for known in whole.ancestors() {
        if let (Ok(canonical), Ok(rest)) = (known.canonicalize(), whole.strip_prefix(known)) {
            // Joining nothing would leave a separator at the end.
            return canonical.join(rest).components().collect();
        }
    }
    whole
}

/// A folder that nobody else can look into.
fn own_folder() -> io::Result<PathBuf> {
    let user = fs::metadata("/proc/self")?.uid();
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|folder| folder.is_absolute());
    let folder = match runtime {
        Some(runtime) => runtime.join("tidemill"),
        None => std::env::temp_dir().join(format!("tidemill-{user}")),
    };
    match DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(&folder)?;
    if found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0 {
        return Ok(folder);
    }
    let problem = format!("{} is not a folder of this user alone (mode 700); remove it", folder.display());
    Err(io::Error::other(problem))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_wish_reaches_the_supervisor_of_its_place_alone_and_is_answered_to_the_end() {
        let places = tempfile::tempdir().unwrap();
        let place = |name: &str| Location::Folder(places.path().join(name));
        let wishes: Arc<Mutex<Vec<Shape>>> = Arc::default();
        let kept = Arc::clone(&wishes);
        let wish = move |wish: Wish| {
            kept.lock().unwrap().push(wish.shape);
            wish.answers.send(Answer::Step("stopping".into())).unwrap();
            wish.answers.send(Answer::Done("running".into())).unwrap();
        };
        let control = Control::listen(&place("a"), "secret".into(), wish).unwrap();
        let shape = Shape { workers: 2, processes: 3 };
        let mut steps = Vec::new();
        let mut ask = |name: &str, token: &str, wanted| {
            ask(&place(name), token.into(), wanted, |step| steps.push(step.to_owned())).unwrap()
        };
        assert_eq!(ask("b", "secret", shape), None);
        // The same folder, by another name and once it exists.
        fs::create_dir(places.path().join("a")).unwrap();
        assert_eq!(ask("b/../a", "secret", shape), None, "b is not there");
        assert_eq!(ask("./a", "secret", shape), Some(Answer::Done("running".into())));
        let refused = ask("a", "another", shape);
        assert!(matches!(&refused, Some(Answer::Failed(why)) if why.contains("TIDEMILL_CLUSTER_TOKEN")), "{refused:?}");
        let wrong = ask("a", "secret", Shape { workers: 0, processes: 1 });
        assert!(matches!(&wrong, Some(Answer::Failed(why)) if why.contains("--workers")), "{wrong:?}");
        assert_eq!((steps.as_slice(), wishes.lock().unwrap().as_slice()), (&["stopping".to_owned()][..], &[shape][..]));
        drop(control);
        assert_eq!(super::ask(&place("a"), "secret".into(), shape, |_| {}).unwrap(), None, "it is gone");
    }

    #[test]
    fn a_later_supervisor_takes_the_place_and_keeps_it_when_the_earlier_one_ends() {
        let folder = tempfile::tempdir().unwrap();
        let place = Location::Folder(folder.path().to_owned());
        let answering = |who: &'static str| {
            move |wish: Wish| wish.answers.send(Answer::Done(who.into())).expect("it is waited for")
        };
        let first = Control::listen(&place, String::new(), answering("first")).unwrap();
        let second = Control::listen(&place, String::new(), answering("second")).unwrap();
        let ask = || ask(&place, String::new(), Shape { workers: 1, processes: 1 }, |_| {}).unwrap();
        assert_eq!(ask(), Some(Answer::Done("second".into())));
        drop(first);
        assert_eq!(ask(), Some(Answer::Done("second".into())));
        drop(second);
        assert_eq!(ask(), None);
    }
}
