use super::*;

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
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
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
