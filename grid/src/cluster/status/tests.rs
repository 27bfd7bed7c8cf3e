//! What counts as safe, and who could lead.

use super::*;

const LAST: u64 = 1_000;

/// A leader, node 1, that sees voters: how long each has been silent, and how far it is.
fn leader(voters: &[(Option<u64>, u64)]) -> MemberStatus {
    let seen = |(place, (silent_ms, matched)): (usize, &(Option<u64>, u64))| Seen {
        node: place as u64 + 1,
        address: format!("ripen-{}:6434", place + 1),
        votes: true,
        silent_ms: *silent_ms,
        matched: Some(*matched),
    };
    MemberStatus {
        node: 1,
        leads: true,
        term: 5,
        last: LAST,
        members: voters.iter().enumerate().map(seen).collect(),
        ..MemberStatus::default()
    }
}

const HERE: (Option<u64>, u64) = (Some(90), LAST);
const AWAY: (Option<u64>, u64) = (Some(SILENT_MS), LAST);
const BEHIND: (Option<u64>, u64) = (Some(90), LAST - CAUGHT_UP_ENTRIES - 1);
const NOT_HEARD: (Option<u64>, u64) = (None, LAST);

#[test]
fn three_are_safe_only_when_all_are_there() {
    assert_eq!(leader(&[HERE, HERE, HERE]).safe(), Ok(()));
    for missing in [AWAY, BEHIND, NOT_HEARD] {
        let few = leader(&[HERE, HERE, missing]).safe().unwrap_err();
        let expected = "2 of 3 voters are there and up to date, 3 are needed before one may be lost; away or behind: node 3";
        assert_eq!(few.to_string(), expected);
    }
}

#[test]
fn two_are_too_few() {
    let few = leader(&[HERE, HERE]).safe().unwrap_err();
    let expected = "2 of 2 voters are there and up to date, 3 are needed before one may be lost";
    assert_eq!(few.to_string(), expected);
}

#[test]
fn five_may_lack_one_and_seven_two() {
    assert!(leader(&[HERE, HERE, HERE, HERE, AWAY]).safe().is_ok());
    assert!(leader(&[HERE, HERE, HERE, AWAY, BEHIND]).safe().is_err());
    let seven = [HERE, HERE, HERE, HERE, HERE, AWAY, AWAY];
    assert!(leader(&seven).safe().is_ok());
    let seven = [HERE, HERE, HERE, HERE, AWAY, AWAY, AWAY];
    assert!(leader(&seven).safe().is_err());
}

/// Whatever voters are lost or behind: with one fit one fewer, a majority is left. Counted by hand, not by the same formula.
#[test]
fn safe_is_a_majority_after_any_one_loss() {
    for voters in 2..=7usize {
        for away in 0..voters {
            let sights: Vec<_> = (0..voters)
                .map(|place| if place < voters - away { HERE } else { AWAY })
                .collect();
            let left = voters - away - 1;
            assert_eq!(
                leader(&sights).safe().is_ok(),
                2 * left > voters,
                "{away} of {voters} away"
            );
        }
    }
}

#[test]
fn learners_do_not_count() {
    let mut status = leader(&[HERE, HERE, HERE, AWAY]);
    status.members[3].votes = false;
    assert_eq!(status.safe(), Ok(()));
    let mut status = leader(&[HERE, HERE, AWAY, HERE]);
    status.members[3].votes = false;
    assert!(status.safe().is_err());
}

#[test]
fn nobody_is_safe_alone_or_without_a_leader_or_while_voters_change() {
    assert_eq!(leader(&[HERE]).safe(), Err(Unsafe::Alone));
    let mut changing = leader(&[HERE, HERE, HERE]);
    changing.changing = true;
    assert_eq!(changing.safe(), Err(Unsafe::Changing));
    let mut led = leader(&[HERE, HERE, HERE]);
    led.leads = false;
    assert_eq!(led.safe(), Err(Unsafe::NoLeader));
    assert_eq!(MemberStatus::default().safe(), Err(Unsafe::NoLeader));
}

#[test]
fn the_heir_is_there_and_lacks_least() {
    let one_less = (Some(90), LAST - 1);
    assert_eq!(leader(&[HERE, one_less, HERE]).heir(), Some(3));
    assert_eq!(leader(&[HERE, one_less, AWAY]).heir(), Some(2));
    assert_eq!(leader(&[HERE, AWAY, BEHIND]).heir(), None);
    let mut learner = leader(&[HERE, HERE]);
    learner.members[1].votes = false;
    assert_eq!(learner.heir(), None);
}

#[test]
fn a_follower_learns_from_its_leader_and_from_nobody_else() {
    let own = MemberStatus {
        node: 2,
        term: 5,
        may_read: true,
        members: vec![Seen::default()],
        ..MemberStatus::default()
    };
    let seen = leader(&[HERE, HERE, HERE]);
    let view = own.clone().completed(seen.clone());
    assert_eq!((view.node, view.may_read, view.leads), (2, true, false));
    assert_eq!((view.last, &view.members), (LAST, &seen.members));
    let earlier = MemberStatus {
        term: 4,
        ..seen.clone()
    };
    assert_eq!(own.clone().completed(earlier), own);
    let deposed = MemberStatus {
        leads: false,
        ..seen
    };
    assert_eq!(own.clone().completed(deposed), own);
}

#[test]
fn newer_nodes_may_say_more_and_older_ones_less() {
    let status = leader(&[HERE, NOT_HEARD]);
    let mut json = serde_json::to_value(&status).unwrap();
    json["weather"] = "fine".into();
    json.as_object_mut().unwrap().remove("changing");
    assert_eq!(
        serde_json::from_value::<MemberStatus>(json).unwrap(),
        status
    );
}
