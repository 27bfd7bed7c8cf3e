use super::*;

const WISH: Wish = Wish {
    voters: 3,
    replace_after_ms: 10_000,
};
const NOW_MS: u64 = 100_000;

/// Node 1 leads `members`; all that are not in `silent` or `leaving` were just heard of.
struct Case {
    members: Members,
    sights: BTreeMap<u64, Sight>,
}

fn case(members: u64, voters: &[u64]) -> Case {
    let seen = Sight {
        heard_ms: Some(NOW_MS - 50),
        caught_up: true,
        leaves: false,
    };
    Case {
        members: Members {
            addresses: (1..=members).map(|node| (node, String::new())).collect(),
            voters: voters.iter().copied().collect(),
        },
        sights: (1..=members).map(|node| (node, seen)).collect(),
    }
}

impl Case {
    fn sight(mut self, node: u64, change: impl FnOnce(&mut Sight)) -> Case {
        change(self.sights.get_mut(&node).unwrap());
        self
    }

    fn silent(self, node: u64, ms: u64) -> Case {
        self.sight(node, |sight| sight.heard_ms = Some(NOW_MS - ms))
    }

    fn leaving(self, node: u64) -> Case {
        self.sight(node, |sight| sight.leaves = true)
    }

    fn next(&self) -> Option<Step> {
        let view = View {
            members: &self.members,
            leader: 1,
            sights: &self.sights,
            since_ms: 0,
            now_ms: NOW_MS,
        };
        view.next(WISH)
    }
}

fn voters(voters: &[u64]) -> Option<Step> {
    Some(Step::Voters(voters.iter().copied().collect()))
}

#[test]
fn voices_grow_to_an_odd_number_and_no_further() {
    assert_eq!(case(1, &[1]).next(), None);
    assert_eq!(
        case(2, &[1]).next(),
        None,
        "two voices are no better than one"
    );
    assert_eq!(case(3, &[1]).next(), voters(&[1, 2, 3]));
    assert_eq!(case(3, &[1, 2]).next(), voters(&[1, 2, 3]));
    assert_eq!(case(5, &[1, 2, 3]).next(), None);
}

#[test]
fn a_voice_is_only_given_to_who_is_there_and_has_the_log() {
    assert_eq!(case(3, &[1]).silent(3, 2_000).next(), None);
    let behind = case(3, &[1]).sight(2, |sight| sight.caught_up = false);
    assert_eq!(behind.next(), None);
}

#[test]
fn a_dead_voter_is_replaced_in_time_if_there_is_somebody() {
    assert_eq!(case(4, &[1, 2, 3]).silent(2, 9_999).next(), None);
    let dead = case(4, &[1, 2, 3]).silent(2, 10_000);
    assert_eq!(dead.next(), voters(&[1, 3, 4]));
    assert_eq!(case(3, &[1, 2, 3]).silent(2, 90_000).next(), None);
    let never_heard = case(4, &[1, 2, 3]).sight(3, |sight| sight.heard_ms = None);
    assert_eq!(never_heard.next(), voters(&[1, 2, 4]));
}

#[test]
fn who_leaves_is_replaced_else_the_others_go_on() {
    assert_eq!(case(4, &[1, 2, 3]).leaving(3).next(), voters(&[1, 2, 4]));
    assert_eq!(case(3, &[1, 2, 3]).leaving(3).next(), voters(&[1, 2]));
    assert_eq!(case(3, &[1, 2]).leaving(3).next(), Some(Step::Remove(3)));
    assert_eq!(case(1, &[1]).leaving(1).next(), None, "somebody must stay");
}

#[test]
fn a_leader_that_leaves_hands_over_first() {
    assert_eq!(
        case(4, &[1, 2, 3]).leaving(1).next(),
        Some(Step::HandOver(2))
    );
    let second_is_away = case(3, &[1, 2, 3]).leaving(1).silent(2, 2_000);
    assert_eq!(second_is_away.next(), Some(Step::HandOver(3)));
}

#[test]
fn too_many_voices_become_fewer() {
    assert_eq!(
        case(5, &[1, 2, 3, 4, 5]).silent(3, 500).next(),
        voters(&[1, 2, 4, 5])
    );
}
