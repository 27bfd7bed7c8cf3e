//! A process of which only the size is real: rows fill whatever they may, at a price that the estimate does not know, and the allocator gives back what it likes.

use super::*;

const MAX: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

struct Process {
    bound: MemoryBound,
    /// Not rows, and not to be given up by them.
    others: u64,
    rows: u64,
    pinned: u64,
    /// Real bytes per estimated one, in percent.
    price: u64,
    /// What the allocator holds for rows, and which part of what is free it gives back per round.
    held: u64,
    gives_back: f64,
    complaints: Vec<Complaint>,
}

impl Process {
    fn new(price: u64, gives_back: f64) -> Process {
        Process {
            bound: MemoryBound::new(MAX),
            others: 60 * MIB,
            rows: 0,
            pinned: 0,
            price,
            held: 0,
            gives_back,
            complaints: Vec::new(),
        }
    }

    fn size(&self) -> u64 {
        self.others + self.held
    }

    /// One round, in which rows grow by at most so many bytes. Answers what they may take.
    fn round(&mut self, fill: u64) -> u64 {
        let verdict = self.bound.decide(&Measured {
            process: self.size(),
            rows: self.rows,
            pinned: self.pinned,
        });
        self.complaints.extend(verdict.complaint);
        self.rows = (self.rows + fill).min(verdict.rows_max).max(self.pinned);
        let needed = self.rows * self.price / 100;
        let free = self.held.saturating_sub(needed);
        self.held = needed.max(self.held - (free as f64 * self.gives_back) as u64);
        verdict.rows_max
    }

    fn rounds(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.round(20 * MIB);
        }
    }
}

#[test]
fn rows_fill_the_process_up_to_its_bound_and_never_beyond_whatever_they_really_take() {
    for price in [40, 80, 100, 130, 160, 200] {
        for gives_back in [0.0, 0.1, 1.0] {
            let mut process = Process::new(price, gives_back);
            for _ in 0..300 {
                process.round(20 * MIB);
                assert!(process.size() <= MAX, "{price} % {gives_back}");
            }
            let full = process.size() > MAX / 100 * 90 || process.rows == MAX;
            assert!(full, "{price} % {gives_back}: {}", process.size() / MIB);
            assert!(process.complaints.is_empty());
        }
    }
}

#[test]
fn it_comes_to_rest() {
    for price in [40, 100, 160, 200, 300] {
        for gives_back in [0.0, 0.1, 1.0] {
            let mut process = Process::new(price, gives_back);
            process.rounds(300);
            let before = process.rows;
            for _ in 0..300 {
                process.round(20 * MIB);
                let moved = process.rows.abs_diff(before);
                assert!(moved < MAX / 200, "{price} % {gives_back}: {moved}");
            }
        }
    }
}

#[test]
fn a_trembling_measure_does_not_wear_rows_away() {
    let mut process = Process::new(120, 0.0);
    process.rounds(300);
    let before = process.rows;
    for round in 0..2000 {
        process.others = (60 + [0, 9, 3, 7, 1][round % 5]) * MIB;
        process.round(20 * MIB);
    }
    assert!(process.rows > before * 9 / 10, "{}", process.rows / MIB);
}

#[test]
fn rows_make_room_for_others_and_take_it_again() {
    for gives_back in [0.05, 1.0] {
        let mut process = Process::new(130, gives_back);
        process.rounds(300);
        let before = process.rows;
        process.others += 300 * MIB;
        process.rounds(100);
        assert!(process.size() <= MAX, "{}", process.size() / MIB);
        assert!(process.rows > before / 2, "{}", process.rows / MIB);
        process.others -= 300 * MIB;
        process.rounds(100);
        assert!(process.rows > before * 9 / 10, "{}", process.rows / MIB);
        assert!(process.size() <= MAX && process.complaints.is_empty());
    }
}

#[test]
fn memory_that_rows_have_left_is_theirs_to_take_again() {
    let mut process = Process::new(100, 0.0);
    process.rounds(300);
    let before = process.rows;
    // They expire, and nothing is given back.
    process.rows = 0;
    process.rounds(100);
    assert!(process.rows > before * 9 / 10, "{}", process.rows / MIB);
}

#[test]
fn what_is_not_rows_leaves_a_floor_and_is_complained_of_once() {
    let mut process = Process::new(100, 1.0);
    process.rounds(100);
    process.others = 2 * MAX;
    process.rounds(500);
    let floor = MAX / limits::MEMORY_FLOOR_PART;
    assert!(process.rows.abs_diff(floor) < MIB, "{}", process.rows / MIB);
    let [complaint] = process.complaints[..] else {
        panic!("{:?}", process.complaints);
    };
    assert_eq!((complaint.pinned, complaint.others), (0, 2 * MAX));
    // Over and again.
    process.others = 60 * MIB;
    process.rounds(100);
    process.others = 2 * MAX;
    process.rounds(500);
    assert_eq!(process.complaints.len(), 2);
}

#[test]
fn pinned_rows_stay_and_so_does_the_floor_above_them() {
    let mut process = Process::new(100, 1.0);
    process.rounds(100);
    process.pinned = MAX;
    process.rounds(500);
    assert!(process.rows >= MAX + MAX / limits::MEMORY_FLOOR_PART);
    assert_eq!(process.complaints.len(), 1);
    assert!(process.complaints[0].pinned == MAX);
}

#[test]
fn an_allocator_that_gives_nothing_back_is_given_time() {
    let mut process = Process::new(100, 0.0);
    process.rounds(300);
    let before = process.rows;
    process.others += 100 * MIB;
    process.rounds(20);
    assert!(process.rows > before * 7 / 10, "{}", process.rows / MIB);
    process.rounds(2000);
    assert!(process.rows <= MAX / limits::MEMORY_FLOOR_PART + MIB);
    assert_eq!(process.complaints.len(), 1);
}

#[test]
fn a_bound_below_the_program_itself_is_survived() {
    let mut bound = MemoryBound::new(1);
    let measured = Measured {
        process: 60 * MIB,
        ..Measured::default()
    };
    let complaints = (0..1000).filter_map(|_| bound.decide(&measured).complaint);
    assert_eq!(complaints.count(), 1);
    assert_eq!(bound.decide(&Measured::default()).complaint, None);
}
