//! Whole-system benchmarks: Ripen beside plain Postgres and PgBouncer in one run. Ratios and medians, never absolute times.

pub mod pgbench;
