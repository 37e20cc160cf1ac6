//! Drives one upload with tus-uploader, with its own retries, more of them.
//!
//! The only argument is the job, as JSON: `path`, and `endpoint` or the `url` of an upload that is there already.
//! The only line on stdout tells the outcome, as JSON.

use serde_json::{Value, json};
use tus_uploader::{Client, FileSource, Result, UploadInfo, UploadMetadata, url::Url};

async fn upload(job: &Value) -> Result<UploadInfo> {
    let field = |name: &str| job[name].as_str().unwrap_or_default();
    let source = FileSource::open(field("path")).await?;
    // By itself it gives up within about a second, sooner than a server is started again.
    let client =
        Client::new(Url::parse(field("endpoint")).expect("an endpoint")).with_max_retries(6);
    match job["url"].as_str() {
        Some(url) => client.upload_at(url)?.upload(source).await,
        None => client.upload_from(source, UploadMetadata::new()).await,
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let job = std::env::args().nth(1).expect("a job");
    let job: Value = serde_json::from_str(&job).expect("a job in JSON");
    let outcome = match upload(&job).await {
        Ok(info) => json!({"url": info.url().as_str(), "error": null}),
        Err(error) => json!({"url": null, "error": error.to_string()}),
    };
    println!("{outcome}");
}
