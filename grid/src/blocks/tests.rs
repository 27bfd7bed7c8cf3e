use super::*;

fn step(number: u64, step: u64) -> Step {
    Step {
        block: BlockId { process: 7, number },
        term: 3,
        number: step,
    }
}

fn watch(upto: u64, open: &[u64]) -> Watch {
    Watch {
        process: 7,
        term: 3,
        upto,
        open: open.iter().map(|number| (*number, false)).collect(),
        waits: false,
    }
}

fn blocks(max: usize) -> Blocks<u64> {
    let mut blocks = Blocks::new(max);
    assert!(blocks.lead(3).is_empty());
    blocks
}

#[test]
fn each_step_is_taken_once_and_none_behind_a_later_one() {
    let (mut blocks, now) = (blocks(9), Instant::now());
    assert_eq!(
        blocks.step(step(1, 1), now, || 1),
        Turn::Gone,
        "it never began"
    );
    assert_eq!(blocks.step(step(1, 0), now, || 1), Turn::Take(1));
    assert_eq!(blocks.step(step(1, 0), now, || 2), Turn::Past);
    assert_eq!(blocks.step(step(1, 4), now, || 2), Turn::Take(1));
    assert_eq!(blocks.step(step(1, 3), now, || 2), Turn::Past);
    // The last one may come again.
    assert_eq!(blocks.last(step(1, 3), now), Turn::Past);
    assert_eq!(blocks.last(step(1, 5), now), Turn::Take(1));
    assert_eq!(blocks.last(step(1, 5), now), Turn::Take(1));
    assert_eq!(blocks.end(step(1, 5).block), Some(1));
    assert_eq!(blocks.last(step(1, 5), now), Turn::Gone);
}

#[test]
fn what_a_process_has_no_more_is_over_and_does_not_come_back() {
    let (mut blocks, now) = (blocks(9), Instant::now());
    for number in 1..=4 {
        assert_eq!(
            blocks.step(step(number, 0), now, || number),
            Turn::Take(number)
        );
    }
    // The fourth had not begun when it said so.
    assert_eq!(blocks.watched(&watch(3, &[2]), now), [1, 3]);
    assert_eq!(blocks.step(step(3, 0), now, || 9), Turn::Gone);
    let open: Vec<u64> = blocks.of(7).map(|(number, _)| number).collect();
    assert_eq!(open, [2, 4]);
    assert_eq!(blocks.of(8).count(), 0);
}

#[test]
fn another_term_knows_nothing_of_what_was_before() {
    let (mut blocks, now) = (blocks(9), Instant::now());
    assert_eq!(blocks.step(step(1, 0), now, || 1), Turn::Take(1));
    assert_eq!(blocks.lead(4), [1]);
    assert!(blocks.lead(3).is_empty(), "late news");
    assert_eq!(blocks.step(step(1, 1), now, || 1), Turn::Gone);
    assert_eq!(blocks.step(step(2, 0), now, || 1), Turn::Gone);
    assert_eq!(blocks.last(step(1, 1), now), Turn::Gone);
    assert_eq!(blocks.count(), 0);
}

#[test]
fn there_is_a_bound_and_who_is_silent_is_forgotten() {
    let (mut blocks, now) = (blocks(1), Instant::now());
    assert_eq!(blocks.step(step(1, 0), now, || 1), Turn::Take(1));
    assert_eq!(blocks.step(step(2, 0), now, || 2), Turn::Full);
    assert_eq!(blocks.step(step(1, 1), now, || 2), Turn::Take(1));
    let patience = Duration::from_secs(1);
    let later = now + Duration::from_millis(700);
    assert!(blocks.silent(later, patience).is_empty());
    assert!(blocks.watched(&watch(1, &[1]), later).is_empty());
    assert!(blocks.silent(now + patience, patience).is_empty());
    assert_eq!(blocks.silent(later + patience, patience), [1]);
    assert_eq!(blocks.count(), 0);
}
