//! The whole path, once: submit, claim, run, conclude, acknowledge.

use grange_tests::{Client, Farm, Returned, repository};
use serde_json::json;

#[tokio::test]
async fn a_job_runs_end_to_end() {
    let farm = Farm::start().await;
    let agent = farm.agent("h1", &[repository().join("examples/plugins/echo")]).await;
    let client: Client = farm.client("alice").await;
    let record = client.run("echo", &json!({"text": "hello"})).await;
    assert_eq!(record.value(), json!("hello"));
    drop(agent);
}
