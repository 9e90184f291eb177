//! Compressed responses as Node reads them: whatever the size of a body, and of the pieces in which
//! it comes, its content is what the origin sent.

use std::{fs, process::Stdio, sync::Arc, time::Duration};

use tokio::process::Command;

use crate::support::{
    client::get,
    front::Front,
    origins::planned::{Framing, Hints, Plan, PlannedOrigin, Plans},
    seed,
};

const CASES: usize = 60;

/// Decodes each file with Node's own libraries, strictly, and writes the content beside it.
const DECODE: &str = "
const { readFileSync, writeFileSync } = require('fs');
const { gunzipSync, brotliDecompressSync } = require('zlib');
const decode = { gzip: gunzipSync, br: brotliDecompressSync };
for (const name of process.argv.slice(1)) {
  const [, coding] = name.split('.');
  writeFileSync(`${name}.plain`, decode[coding](readFileSync(name)));
}
";

/// Draws a response; a third of them fit into one read.
fn plan(random: &mut fastrand::Rng) -> Plan {
    let size = match random.u32(..3) {
        0 => random.usize(1024..8000),
        1 => random.usize(8000..66_000),
        _ => random.usize(66_000..400_000),
    };
    let pieces = [size, size.div_ceil(2), 7000, 1000];
    let is_slow = random.u32(..4) == 0;
    Plan {
        status: 200,
        size,
        seed: random.u64(..),
        is_text: random.u32(..4) != 0,
        content_type: "application/json",
        framing: [Framing::Length, Framing::Length, Framing::Chunked][random.usize(..3)],
        coding: None,
        has_trailers: false,
        hints: Hints::None,
        piece: if is_slow {
            size.div_ceil(3)
        } else {
            pieces[random.usize(..4)]
        },
        pause: is_slow.then_some(Duration::from_millis(10)),
        cache_control: "no-store",
        has_tag: false,
        has_ranges: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_decodes_whatever_is_compressed() {
    let seed = seed::drawn();
    let mut random = fastrand::Rng::with_seed(seed);
    let plans = Arc::<Plans>::default();
    let origin = PlannedOrigin::start(&plans).await;
    let level = random.u8(1..=6);
    let gateway = Front::to(&origin)
        .route(&format!(
            "compression: {{ levels: {{ gzip: {level}, br: {level} }} }}"
        ))
        .start()
        .await;
    let folder = tempfile::tempdir().expect("there is room");
    let (mut names, mut contents) = (Vec::new(), Vec::new());
    let mut connection = gateway.connect().await;
    for case in 0..CASES {
        let plan = plan(&mut random);
        let path = format!("/{case}");
        plans.set(&path, plan.clone());
        // Most of them are gzip, which has two encoders; Node 20 knows no zstd.
        let coding = ["gzip", "gzip", "gzip", "br"][random.usize(..4)];
        let request = get(&path).header("accept-encoding", coding);
        let response = connection.send(&request).await.expect("it is whole");
        assert_eq!(
            response.header("content-encoding"),
            Some(coding),
            "{plan:?}"
        );
        let name = folder.path().join(format!("{case}.{coding}"));
        fs::write(&name, &response.body).expect("there is room");
        names.push(name);
        contents.push(plan.content());
    }
    let decoder = Command::new("node")
        .args(["-e", DECODE])
        .args(
            names
                .iter()
                .map(|name| name.file_name().expect("it has one")),
        )
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .output()
        .await
        .expect("`make setup-tests` installs Node");
    let errors = String::from_utf8_lossy(&decoder.stderr);
    assert!(decoder.status.success(), "{errors}");
    for (name, content) in names.iter().zip(&contents) {
        let plain = format!("{}.plain", name.display());
        let decoded = fs::read(plain).expect("Node has written it");
        assert!(decoded == *content, "{}", name.display());
    }
}
