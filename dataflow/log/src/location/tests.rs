use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use super::*;

const UNSET: &str = "S3_ENDPOINT is not set: run `make services`, which says how to set it";

fn parsed(text: &str) -> Result<Location, String> {
    text.parse::<Location>().map_err(|error| error.to_string())
}

fn s3(bucket: &str, prefix: &str) -> Location {
    Location::S3 { bucket: bucket.into(), prefix: prefix.into() }
}

#[test]
fn a_text_without_a_scheme_is_a_folder() {
    for text in ["data", "/data/lake", "./s3:/x", "c:odd name"] {
        assert_eq!(parsed(text), Ok(Location::Folder(text.into())));
    }
}

#[test]
fn a_bucket_has_a_prefix_without_slashes_at_its_ends() {
    assert_eq!(parsed("s3://lake"), Ok(s3("lake", "")));
    assert_eq!(parsed("s3://lake/"), Ok(s3("lake", "")));
    assert_eq!(parsed("s3://lake/a/b-1//"), Ok(s3("lake", "a/b-1")));
    for location in [s3("lake", ""), s3("lake", "a/b")] {
        assert_eq!(parsed(&location.to_string()), Ok(location));
    }
}

#[test]
fn what_names_no_place_is_refused_with_the_two_forms() {
    for text in ["", "gs://lake/x", "s3://", "s3:///x", "s3://a b/x", "s3://lake/a//b", "s3://lake/.."] {
        let error = parsed(text).unwrap_err();
        assert!(error.ends_with("Give a folder, or s3://BUCKET/PREFIX"), "{error}");
        assert!(error.starts_with(&format!("{text:?} names no place")), "{error}");
    }
}

#[test]
fn a_server_that_is_not_there_is_refused_with_the_remedy() {
    // Nobody listens on a port that was just given back.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let builder = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(format!("http://127.0.0.1:{port}"))
        .with_access_key_id("key")
        .with_secret_access_key("secret");
    let settings = s3::Settings::new(builder, "lake", "a/b");
    let bridge = ObjectStoreBridge::remote(settings.connect(s3::Repeats::None).unwrap()).unwrap();
    let error = settings.probe(&bridge).unwrap_err();
    let start = format!("s3://lake/a/b at http://127.0.0.1:{port} does not answer; start it, or set AWS_ENDPOINT_URL");
    assert!(error.to_string().starts_with(&start), "{error}");
    let failed = bridge.create("x", b"").unwrap_err();
    assert_eq!(failed.kind(), crate::StoreErrorKind::Retryable, "{failed}");
}

#[test]
fn half_a_pair_of_keys_is_refused_with_the_remedy() {
    let builder = object_store::aws::AmazonS3Builder::new().with_access_key_id("key");
    let error = s3::Settings::new(builder, "lake", "").connect(s3::Repeats::None).unwrap_err();
    assert!(error.to_string().contains("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), "{error}");
}

#[test]
fn wrong_keys_are_refused_with_the_remedy() {
    assert!(std::env::var_os("S3_ENDPOINT").is_some(), "{UNSET}");
    let builder = object_store::aws::AmazonS3Builder::from_env().with_secret_access_key("another");
    let settings = s3::Settings::new(builder, "tidemill", "x");
    let bridge = ObjectStoreBridge::remote(settings.connect(s3::Repeats::None).unwrap()).unwrap();
    let error = settings.probe(&bridge).unwrap_err().to_string();
    assert!(error.contains("refuses us (SignatureDoesNotMatch): AWS_ACCESS_KEY_ID and"), "{error}");
}

/// A way to a server that can be cut, at an address of its own.
struct Line {
    address: SocketAddr,
    server: SocketAddr,
    /// While it is there, connections are taken; the thread gives it up when the line is cut.
    cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    taking: Option<JoinHandle<()>>,
}

impl Line {
    fn to(server: SocketAddr) -> Line {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut line = Line { address: any, server, cut: Arc::default(), open: Arc::default(), taking: None };
        line.mend();
        line
    }

    /// Takes connections again.
    fn mend(&mut self) {
        let listener = TcpListener::bind(self.address).unwrap();
        self.address = listener.local_addr().unwrap();
        self.cut.store(false, Ordering::SeqCst);
        let (server, cut, open) = (self.server, Arc::clone(&self.cut), Arc::clone(&self.open));
        self.taking = Some(thread::spawn(move || {
            for client in listener.incoming() {
                if cut.load(Ordering::SeqCst) {
                    return;
                }
                let (client, upstream) = (client.unwrap(), TcpStream::connect(server).unwrap());
                for (mut from, mut to) in [(&client, &upstream), (&upstream, &client)]
                    .map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
                {
                    thread::spawn(move || {
                        // A line that is cut ends both ways with an error, as it should.
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                open.lock().unwrap().extend([client, upstream]);
            }
        }));
    }

    /// Ends all connections and refuses new ones.
    fn cut(&mut self) {
        self.cut.store(true, Ordering::SeqCst);
        // Whoever waits for a connection is woken by one.
        drop(TcpStream::connect(self.address));
        self.taking.take().unwrap().join().unwrap();
        for end in self.open.lock().unwrap().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn an_outage_under_load_is_waited_out_and_nothing_is_lost() {
    let endpoint = std::env::var("S3_ENDPOINT").expect(UNSET);
    let server: SocketAddr = endpoint.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let mut line = Line::to(server);
    let random = RandomState::new().build_hasher().finish();
    let builder = object_store::aws::AmazonS3Builder::from_env();
    let through_line =
        builder.clone().with_config(object_store::aws::AmazonS3ConfigKey::Endpoint, format!("http://{}", line.address));
    let prefix = format!("log-tests/{random:016x}");
    let bridge = |reached| {
        let settings = s3::Settings::new(reached, "tidemill", &prefix);
        Arc::new(ObjectStoreBridge::remote(settings.connect(s3::Repeats::None).unwrap()).unwrap())
    };
    let direct = bridge(builder);

    let done = Arc::new(AtomicU32::new(0));
    let failed = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&failed);
    let pause = move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        thread::yield_now();
    };
    let patient = Arc::new(PatientStore::new(bridge(through_line), "the server").pausing(Arc::new(pause)));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (patient, done) = (Arc::clone(&patient), Arc::clone(&done));
            thread::spawn(move || {
                for number in 0..120 {
                    let path = format!("{writer}/{number:03}");
                    patient.put(&path, path.as_bytes()).unwrap();
                    patient.create(&format!("{path}-once"), path.as_bytes()).unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let wait_for = |counter: &AtomicU32, more: u32| {
        let least = counter.load(Ordering::SeqCst) + more;
        while counter.load(Ordering::SeqCst) < least {
            thread::yield_now();
        }
    };
    for _ in 0..2 {
        wait_for(&done, 60);
        line.cut();
        wait_for(&failed, 30);
        line.mend();
    }
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    let mut found = 0;
    for path in direct.list("").unwrap() {
        let expected = path.trim_end_matches("-once");
        assert_eq!(direct.get(&path).unwrap().as_deref(), Some(expected.as_bytes()), "{path} holds what was put");
        direct.delete(&path).unwrap();
        found += 1;
    }
    assert_eq!(found, 3 * 120 * 2);
}
