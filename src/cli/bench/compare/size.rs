//! What many keys cost: memory, disk, and the time until a member that was restarted serves.
//!
//! Fresh clusters are filled; then a member that does not lead is stopped in good order and started again. It serves when it
//! answers a linearizable get, which it can only when it has read its state, found the leader and caught up.

use super::fleet::{Fleet, READY_LIMIT, patiently};
use super::report::Report;
use super::{connect, fill, keys_of, say};
use crate::cli::exit::Failure;
use crate::clock;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::time::Duration;
use rustix::process::Signal;

/// Of one question to a member that is starting.
const TRY: Duration = Duration::from_secs(2);

/// Fills each fleet with `count` keys and restarts a member.
///
/// # Errors
/// If one can't be filled, or does not come back.
pub async fn measure(count: u64, val_size: usize, fleets: &mut [Fleet], report: &mut Report) -> Result<(), Failure> {
    for fleet in fleets.iter_mut() {
        say(format!("{count} keys into {}", fleet.name()));
        fill(&[fleet.leader().await?], count, val_size).await?;
        let name = fleet.name().to_owned();
        let mut figure =
            |what: &str, unit, figure| report.figure(&format!("{what} with {count} keys"), unit, &name, figure);
        figure("memory of a member", "MB", fleet.usage()?.resident as f64 / 1e6);
        figure("peak memory of a member", "MB", fleet.peak_mb()?);
        let leader = fleet.leader().await?;
        let place = usize::from(fleet.place(&leader) == 0);
        fleet.signal(place, Signal::TERM)?;
        fleet.restart(place).await?;
        let begun = clock::instant();
        let endpoint = fleet.endpoints()[place].clone();
        let request = pb::RangeRequest { key: keys_of(count)?.key(count - 1), ..Default::default() };
        patiently("an answer of a restarted member", READY_LIMIT, async || {
            let channel = connect(std::slice::from_ref(&endpoint), 1).await.ok()?.pop()?;
            let answer = tokio::time::timeout(TRY, KvClient::new(channel).range(request.clone())).await;
            answer.ok()?.ok().filter(|answer| answer.get_ref().count == 1)
        })
        .await?;
        figure("restart to the first answer", "ms", begun.elapsed().as_secs_f64() * 1000.0);
        figure("memory after a restart", "MB", fleet.usage_of(place)?.resident as f64 / 1e6);
    }
    Ok(())
}
