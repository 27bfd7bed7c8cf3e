//! Logs of several nodes: what was acknowledged survives every minority, and all nodes apply the same.

use crate::group::{Group, until};
use crate::support::command;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use ripen_grid::log::LogError;
use std::collections::BTreeSet;

fn all_but(node: u64) -> BTreeSet<u64> {
    (1..=3).filter(|other| *other != node).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_apply_the_same() {
    let group = Group::of(3, None).await;
    for number in 0..200 {
        group.write(number, 100).await;
    }
    assert_eq!(group.agreed().await, (0..200).collect::<Vec<_>>());
    let members = group.running[&2].log.members();
    assert_eq!(members.voters, (1..=3).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_takes_proposals() {
    let group = Group::of(3, None).await;
    let leader = group.leader().await;
    let other = *all_but(leader).first().unwrap();
    let refused = group.running[&other].log.propose(command(1, 10)).await;
    assert!(matches!(refused, Err(LogError::NotLeader)), "{refused:?}");
    until(|| (group.leadership(other).leader == Some(leader)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_catches_up_when_it_is_back() {
    let mut group = Group::of(3, None).await;
    group.write(1, 10).await;
    let dead = group.leader().await;
    let term = group.leadership(dead).term;
    group.crash(dead, None).await;
    group.write(2, 10).await;
    let next = group.leader().await;
    assert!(group.leadership(next).term > term);
    group.start(dead).await.unwrap();
    group.write(3, 10).await;
    assert_eq!(group.agreed().await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_acknowledges_nothing_and_yields() {
    let group = Group::of(3, None).await;
    group.write(1, 10).await;
    let old = group.leader().await;
    group.isolate(&[old].into());
    let lonely = group.running[&old].log.propose(command(100, 10));
    let next = group.leader_among(&all_but(old)).await;
    let ticket = group.running[&next].log.propose(command(2, 10));
    ticket.await.unwrap();
    group.heal();
    assert!(lonely.await.is_err(), "it was never on a majority");
    group.write(3, 10).await;
    assert_eq!(group.agreed().await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_gets_a_snapshot_and_the_rest() {
    let mut group = Group::of(1, Some(20 << 10)).await;
    for number in 0..300 {
        group.write(number, 300).await;
    }
    assert!(group.running[&1].log.stats().snapshots > 0);
    group.start(2).await.unwrap();
    group.running[&1].log.add_member(2, "").await.unwrap();
    for number in 300..320 {
        group.write(number, 300).await;
    }
    assert_eq!(group.agreed().await, (0..320).collect::<Vec<_>>());
    group.crash(2, None).await;
    group.start(2).await.unwrap();
    assert_eq!(group.agreed().await, (0..320).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let group = Group::of(3, None).await;
    group.write(1, 10).await;
    let old = group.leader().await;
    let heir = *all_but(old).first().unwrap();
    group.running[&old].log.hand_over(heir).await.unwrap();
    until(|| group.leadership(heir).here.then_some(())).await;
    group.write(2, 10).await;
    assert_eq!(group.agreed().await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_left_is_gone_and_the_others_go_on() {
    let group = Group::of(3, None).await;
    let leader = group.leader().await;
    let leaving = *all_but(leader).first().unwrap();
    let log = &group.running[&leader].log;
    log.set_voters(all_but(leaving)).await.unwrap();
    log.remove_members([leaving].into()).await.unwrap();
    assert!(!log.members().addresses.contains_key(&leaving));
    group.write(1, 10).await;
    assert_eq!(group.running[&leader].numbers.get(), [1]);
}

/// Machines lose power and links are cut while numbers are written. The seed draws the faults; threads and clocks are real, so it does not replay everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_faults_of_a_minority() {
    for seed in crate::crash::seeds().take(4) {
        println!("LOG_SEEDS={seed}..{}", seed + 1);
        let mut rng = StdRng::seed_from_u64(seed);
        let mut group = Group::of(3, Some(rng.random_range(5_000..50_000))).await;
        let mut next = 0;
        for _ in 0..6 {
            let victim = rng.random_range(1..=3);
            match rng.random_range(0..3) {
                0 => group.crash(victim, None).await,
                1 => {
                    let mut chance = |bound| rng.random_range(0..bound);
                    group.crash(victim, Some(&mut chance)).await;
                }
                _ => group.isolate(&[victim].into()),
            }
            for _ in 0..rng.random_range(1..30) {
                group.write(next, rng.random_range(0..1000)).await;
                next += 1;
            }
            group.heal();
            if !group.running.contains_key(&victim) {
                group.start(victim).await.unwrap();
            }
        }
        let applied = group.agreed().await;
        // A write whose outcome was unknown was tried again, so numbers may come twice here.
        let mut numbers = applied.clone();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..next).collect::<Vec<_>>(), "{applied:?}");
    }
}
