//! Runs what docs/other-languages.md has for Rust, and prints a line for each thing that came of it.

mod keyward;

use keyward::v1::audit_service_client::AuditServiceClient;
use keyward::v1::batch_encrypt_result::Result as ItemResult;
use keyward::v1::encryption_service_client::EncryptionServiceClient;
use keyward::v1::{BatchEncryptRequest, DecryptRequest, EncryptRequest, ListEntriesRequest, ReadEntriesRequest};
use std::time::{Duration, Instant};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::{ErrorInfo, RpcStatusExt};

const LIMIT: usize = 64 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [ca, cert, key] = [2, 3, 4].map(|index| std::fs::read_to_string(&arguments[index]).unwrap());
    let channel = keyward::connect(&arguments[1], &ca, &cert, &key)?;
    if arguments.len() > 5 {
        flood(channel).await;
        return Ok(());
    }
    let opened = keyward::round_trip(channel.clone(), b"hello").await?;
    println!("opened {}", String::from_utf8(opened)?);

    let mut encryption = EncryptionServiceClient::new(channel.clone()).max_decoding_message_size(LIMIT);
    let request = DecryptRequest { parent: "tenants/acme".into(), ciphertext: b"none".into(), ..Default::default() };
    report("failure", &encryption.decrypt(request).await.unwrap_err());

    let requests = ["tenants/acme/keys/orders", "tenants/acme/keys/none"].map(sealing).to_vec();
    let batch = encryption.batch_encrypt(BatchEncryptRequest {
        parent: "tenants/acme".into(),
        requests,
        ..Default::default()
    }).await?;
    for item in batch.into_inner().results {
        match item.result {
            Some(ItemResult::Response(response)) => println!("item {}", !response.ciphertext.is_empty()),
            Some(ItemResult::Error(failure)) => {
                let again = failure.get_details_retry_info().is_some();
                print_failure("item", failure.code, failure.get_details_error_info(), again);
            }
            None => println!("item none"),
        }
    }

    let mut audit = AuditServiceClient::new(channel).max_decoding_message_size(LIMIT);
    let request = ListEntriesRequest { parent: "tenants/acme".into(), page_size: 1000, ..Default::default() };
    let page = audit.list_entries(request).await?.into_inner();
    println!("page {}", page.entries.iter().map(|entry| entry.leaf.len()).sum::<usize>());

    let request = ReadEntriesRequest { parent: "tenants/acme".into(), ..Default::default() };
    let mut entries = audit.read_entries(request).await?.into_inner();
    entries.message().await?;
    println!("reading");
    loop {
        if let Err(failure) = entries.message().await {
            report("ended", &failure);
            return Ok(());
        }
    }
}

fn sealing(name: &str) -> EncryptRequest {
    EncryptRequest { name: name.into(), plaintext: b"hello".into(), ..Default::default() }
}

fn report(what: &str, failure: &Status) {
    let (info, again, _) = keyward::explain(failure);
    print_failure(what, failure.code() as i32, info, again);
}

fn print_failure(what: &str, code: i32, info: Option<ErrorInfo>, again: bool) {
    let (reason, domain) = info.map(|info| (info.reason, info.domain)).unwrap_or_default();
    println!("{what} {code} {reason} {domain} {again}");
}

/// Keeps 256 calls in flight on one connection, each with less time than it takes.
async fn flood(channel: Channel) {
    let end = Instant::now() + Duration::from_secs(4);
    let calls: Vec<_> = (0..256)
        .map(|_| {
            let mut encryption = EncryptionServiceClient::new(channel.clone());
            tokio::spawn(async move {
                while Instant::now() < end {
                    let mut request = Request::new(sealing("tenants/acme/keys/orders"));
                    request.set_timeout(Duration::from_millis(40));
                    let _ = encryption.encrypt(request).await;
                }
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    println!("flooded");
}
