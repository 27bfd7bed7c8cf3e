//! The simulated system of record as a node reaches it: statements take time on the way there and back, connections are lost at any moment, and a COMMIT that is not
//! answered may have happened. What the statements mean, `postgres` says.

use crate::chance::Chance;
use crate::data::{Row, catalog};
use crate::mistake::Mistake;
use crate::net::PG;
use crate::postgres::{Fate, Postgres, Progress};
use crate::world::{Standbys, World};
use ripen_cachestore::StoreError;
use ripen_cachestore::catalog::{Catalog, Epoch, Relation};
use ripen_cachestore::change::{CommitGroup, FlushSeq, RowId};
use ripen_cachestore::flush::{Again, DeadGroup, FlushBatch, FlushOutcome};
use ripen_cachestore::home::Home;
use ripen_cachestore::load::{Gathering, Loaded};
use ripen_cachestore::progress::{FlushFate, LogIdentity, LogKey, Taken, Taker};
use ripen_cachestore::standing::Standing;
use ripen_grid::record::{Asked, Record, Tell};
use ripen_pg::ids::{Lsn, Xid};
use ripen_pg::key::Key;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A node's way to the system of record.
#[derive(Clone)]
pub struct Way {
    pub world: Arc<World>,
    pub node: u64,
    pub home: Arc<Home>,
    begun: Instant,
}

/// The only standby, by the name in the configuration.
pub const STANDBY: &str = "two";

/// How long an older leader's open transaction is waited for before its backend is ended.
const CLEARANCE_MS: u64 = 300;

/// How long a lock is waited for.
const LOCK_MS: u64 = 1000;

/// After how long the server ends what nobody says anything about.
const IDLE_MS: u64 = 5000;

/// The connection is lost.
pub fn lost() -> StoreError {
    StoreError::Postgres(any_error())
}

/// Of the driver's errors, one that anybody can make.
fn any_error() -> tokio_postgres::Error {
    let parsed = "nonsense=1".parse::<tokio_postgres::Config>();
    parsed.expect_err("there is no such option")
}

/// A transaction on a connection of its own. Dropped before it is over, its connection ends.
pub struct Open {
    way: Way,
    pub xid: u64,
    life: u64,
    over: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        // Whose machine is gone or cut off is noticed late.
        let noticed = self.way.reachable();
        let mut pg = self.way.world.pg.lock();
        if pg.life == self.life {
            pg.orphan(self.xid, if noticed { 1 } else { IDLE_MS });
        }
    }
}

impl Way {
    pub fn new(world: &Arc<World>, node: u64) -> Way {
        Way {
            world: world.clone(),
            node,
            home: Home::new(world.standbys == Standbys::Named),
            begun: Instant::now(),
        }
    }

    /// The node's clock of staleness, which never goes back.
    pub fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    fn pg<T>(&self, ask: impl FnOnce(&mut Postgres) -> T) -> T {
        ask(&mut self.world.pg.lock())
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut Chance) -> T) -> T {
        self.world.draw(draw)
    }

    pub fn reachable(&self) -> bool {
        let net = self.world.net.lock();
        let cut = net.is_cut(self.node, PG) || net.is_cut(PG, self.node);
        drop(net);
        !cut && self.pg(|pg| pg.up)
    }

    /// A message on its way there or back.
    pub async fn trip(&self) -> Result<(), StoreError> {
        let takes = self.draw(|chance| chance.pick(&[0, 0, 1, 1, 2, 5]));
        sleep(Duration::from_millis(takes)).await;
        if self.reachable() {
            return Ok(());
        }
        let takes = self.draw(|chance| chance.range(1..200));
        sleep(Duration::from_millis(takes)).await;
        Err(lost())
    }

    pub async fn begin(&self) -> Result<Open, StoreError> {
        self.trip().await?;
        let (xid, life) = self.pg(|pg| (pg.begin(), pg.life));
        Ok(Open {
            way: self.clone(),
            xid,
            life,
            over: false,
        })
    }

    /// A transaction on a connection that was made before.
    pub async fn begin_on(&self, life: u64) -> Result<Open, StoreError> {
        let open = self.begin().await?;
        match open.life == life {
            true => Ok(open),
            false => Err(lost()),
        }
    }

    /// The rows as whoever asks Postgres itself sees them, on a connection that was made before.
    pub async fn look(&self, life: u64, rows: &[RowId]) -> Result<Vec<Option<Row>>, StoreError> {
        self.trip().await?;
        let seen = self.pg(|pg| {
            let seen = rows.iter().map(|row| pg.visible(row)).collect();
            (pg.life == life).then_some(seen)
        });
        self.trip().await?;
        self.still(life)?;
        seen.ok_or_else(lost)
    }

    /// Whether a connection still stands.
    pub fn still(&self, life: u64) -> Result<(), StoreError> {
        match self.pg(|pg| pg.life == life) {
            true => Ok(()),
            false => Err(lost()),
        }
    }

    /// The progress row, locked: who had it is waited for, then ended.
    async fn clear(&self, open: &Open) -> Result<Option<Progress>, StoreError> {
        for waited in 0.. {
            open.alive()?;
            let free = self.pg(|pg| {
                if waited >= CLEARANCE_MS
                    && let Some(holder) = pg.progress_lock
                    && pg.fate(holder) == Fate::Running
                {
                    pg.abort(holder);
                }
                pg.lock_progress(open.xid)
            });
            if free {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(self.pg(|pg| pg.progress.clone()))
    }
}

impl Open {
    /// Whether the server still knows it.
    fn alive(&self) -> Result<(), StoreError> {
        let alive = |pg: &mut Postgres| pg.life == self.life && pg.running.contains_key(&self.xid);
        match self.way.reachable() && self.way.pg(alive) {
            true => Ok(()),
            false => Err(lost()),
        }
    }

    pub async fn lock(&self, row: &RowId) -> Result<bool, StoreError> {
        for _ in 0..LOCK_MS {
            self.alive()?;
            if self.way.pg(|pg| pg.lock(row, self.xid)) {
                return Ok(true);
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(false)
    }

    pub fn row(&self, row: &RowId) -> Option<Row> {
        self.way.pg(|pg| pg.row(row, self.xid))
    }

    pub fn write(&self, row: &RowId, new: Row) {
        self.way.pg(|pg| pg.write(row, new, self.xid));
    }

    pub fn roll_back(mut self) {
        self.over = true;
        self.way.pg(|pg| pg.abort(self.xid));
    }

    /// Returns when it is visible. An error: nobody knows.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        let unknown = || StoreError::UnknownOutcome(any_error());
        self.alive().map_err(|_| unknown())?;
        // The connection may be lost on the way there, or on the way back.
        let calm = self.way.world.calm.load(Ordering::Relaxed);
        let (on_the_way, on_the_way_back, takes) = self.way.draw(|chance| {
            let lost = (chance.one_in(25), chance.one_in(15));
            (!calm && lost.0, !calm && lost.1, chance.below(4))
        });
        if on_the_way {
            return Err(unknown());
        }
        // Sometimes what is on the wire arrives long after the connection was given up.
        let late = if on_the_way_back { 40 } else { 1 };
        self.way.pg(|pg| pg.commit_at(self.xid, takes * late));
        self.over = true;
        if on_the_way_back {
            sleep(Duration::from_millis(2)).await;
            return Err(unknown());
        }
        loop {
            let (life, fate) = self.way.pg(|pg| (pg.life, pg.fate(self.xid)));
            match fate {
                // Another transaction may have its number by now.
                _ if life != self.life => return Err(unknown()),
                Fate::Visible => break,
                _ if !self.way.reachable() => return Err(unknown()),
                Fate::Gone => return Err(unknown()),
                Fate::Running | Fate::Committed => sleep(Duration::from_millis(1)).await,
            }
        }
        self.way.trip().await.map_err(|_| unknown())?;
        self.way.still(self.life).map_err(|_| unknown())
    }
}

fn fenced(identity: LogIdentity) -> StoreError {
    StoreError::Fenced {
        by: "another node".to_owned(),
        identity: Some(identity),
    }
}

impl Way {
    async fn flushed(
        &self,
        batch: &FlushBatch,
        again: &Again,
        tell: Tell<'_>,
    ) -> Result<FlushOutcome, StoreError> {
        let open = self.begin().await?;
        self.pg(|pg| {
            if let Some(txn) = pg.running.get_mut(&open.xid) {
                txn.flush = Some(batch.seq);
            }
        });
        for waited in 0.. {
            open.alive()?;
            if self.pg(|pg| pg.lock_progress(open.xid)) {
                break;
            }
            if waited > 10 * LOCK_MS {
                return Err(lost());
            }
            sleep(Duration::from_millis(1)).await;
        }
        self.check(batch)?;
        self.check_home(again)?;
        self.trip().await?;
        open.alive()?;
        let rows = batch.groups.iter().flat_map(|group| &group.rows);
        let mut rows: Vec<RowId> = rows.map(|change| change.row.clone()).collect();
        rows.sort();
        rows.dedup();
        for row in &rows {
            if !open.lock(row).await? {
                let by = Box::new(StoreError::Hindered {
                    by: "somebody".to_owned(),
                });
                let held =
                    |group: &&CommitGroup| group.rows.iter().any(|change| change.row == *row);
                let rows = batch
                    .groups
                    .iter()
                    .filter(held)
                    .flat_map(|group| &group.rows);
                let rows = rows.map(|change| change.row.clone()).collect();
                return Err(StoreError::HeldUp { rows, by });
            }
        }
        let refused = |group: &CommitGroup| {
            let mut rows = group.rows.iter();
            rows.any(|change| again.refused.contains(&change.row))
        };
        let dead = self.pg(|pg| pg.carry_out(&batch.groups, refused, open.xid));
        let dead: Vec<DeadGroup> = dead
            .into_iter()
            .map(|at| DeadGroup {
                group: batch.groups[at].clone(),
                sqlstate: "23505".to_owned(),
                message: "refused".to_owned(),
            })
            .collect();
        if !self.world.makes(Mistake::UntoldFlush) {
            tell(Xid(open.xid)).await?;
        }
        self.trip().await?;
        open.alive()?;
        let forgets = again.server.is_some() && self.world.makes(Mistake::EmptyAgain);
        self.pg(|pg| {
            let progress = Progress {
                identity: batch.log.identity,
                epoch: batch.epoch,
                applied: batch.seq,
            };
            let buried = dead.iter().flat_map(|dead| &dead.group.rows);
            let buried = buried.map(|change| change.row.clone()).collect();
            if let Some(txn) = pg.running.get_mut(&open.xid) {
                (txn.progress, txn.buried) = (Some(progress), buried);
                if forgets {
                    txn.written.clear();
                }
            }
        });
        let xid = Xid(open.xid);
        if self.world.trap.swap(false, Ordering::Relaxed) {
            *self.world.sprung.lock() = Some(self.node);
            sleep(Duration::from_millis(1)).await;
        }
        open.commit().await?;
        Ok(FlushOutcome {
            xid,
            dead,
            rows: rows.len(),
            already_gone: 0,
        })
    }

    /// Whether the flush is next, and its leader the newest.
    fn check(&self, batch: &FlushBatch) -> Result<(), StoreError> {
        let progress = self.pg(|pg| pg.progress.clone());
        let Some(progress) = progress else {
            return Err(StoreError::OutOfOrder {
                asked: batch.seq,
                applied: FlushSeq(0),
            });
        };
        if progress.epoch > batch.epoch && !self.world.makes(Mistake::NoFencing) {
            return Err(fenced(progress.identity));
        }
        if progress.applied.0 + 1 != batch.seq.0 && !self.world.makes(Mistake::NoCounting) {
            return Err(StoreError::OutOfOrder {
                asked: batch.seq,
                applied: progress.applied,
            });
        }
        Ok(())
    }

    /// Whether the flush belongs on this server.
    fn check_home(&self, again: &Again) -> Result<(), StoreError> {
        let found = self.pg(|pg| pg.server);
        let right = match again.server {
            Some(wanted) => wanted == found,
            None => self.home.is(Some(found)),
        };
        if right || self.world.makes(Mistake::StrangeFlush) {
            return Ok(());
        }
        self.home.doubt();
        Err(StoreError::Strange(found))
    }

    async fn stood(&self) -> Result<Standing, StoreError> {
        self.trip().await?;
        let boasts = self.world.makes(Mistake::BoastfulStandby);
        let standing = self.pg(|pg| Standing {
            server: pg.server,
            progress: pg.progress.as_ref().map(|found| found.told()),
            wal: Some(pg.position()),
            standbys: vec![match boasts {
                true => (STANDBY.to_owned(), pg.position()),
                false => (STANDBY.to_owned(), pg.standby_position()),
            }],
        });
        self.trip().await?;
        Ok(standing)
    }

    async fn taken_over(&self, taker: Taker<'_>) -> Result<Taken, StoreError> {
        let open = self.begin().await?;
        let before = self.clear(&open).await?;
        let applied = before.as_ref().map_or(FlushSeq(0), |before| before.applied);
        if let Some(before) = before
            && before.epoch > taker.epoch
        {
            return Err(fenced(before.identity));
        }
        let epoch = match self.world.makes(Mistake::EpochStays) {
            true => 1,
            false => taker.epoch,
        };
        let progress = Progress {
            identity: taker.log.identity,
            epoch,
            applied,
        };
        self.pg(|pg| {
            if let Some(txn) = pg.running.get_mut(&open.xid) {
                txn.progress = Some(progress);
            }
        });
        // Nobody minds if it is done twice.
        open.commit().await.map_err(|_| lost())?;
        Ok(Taken {
            applied,
            other: None,
        })
    }

    async fn fate(&self, epoch: u64, seq: FlushSeq) -> Result<FlushFate, StoreError> {
        let open = self.begin().await?;
        let found = match self.world.makes(Mistake::NoCounting) {
            true => self.pg(|pg| pg.progress.clone()),
            false => self.clear(&open).await?,
        };
        open.roll_back();
        self.trip().await?;
        if self.world.makes(Mistake::UnknownIsLost) {
            return Ok(FlushFate::NotApplied);
        }
        if self.world.makes(Mistake::UnknownIsDone) {
            return Ok(FlushFate::Applied);
        }
        match found {
            Some(found) if found.applied >= seq => Ok(FlushFate::Applied),
            Some(found) if found.epoch > epoch => Err(fenced(found.identity)),
            _ => Ok(FlushFate::NotApplied),
        }
    }

    async fn loaded(&self, relation: &Relation, keys: &[Key]) -> Result<Loaded, StoreError> {
        self.trip().await?;
        let (life, server) = self.pg(|pg| (pg.life, pg.server));
        let row = |key: &Key| RowId {
            table: relation.oid,
            key: key.clone(),
        };
        let read = |pg: &mut Postgres| -> Vec<(Key, ripen_pg::tuple::Tuple)> {
            let found = keys.iter().filter_map(|key| {
                let seen = pg.visible(&row(key))?;
                Some((key.clone(), seen.tuple(&row(key))))
            });
            found.collect()
        };
        let mut rows = self.pg(read);
        let slow = self.draw(|chance| chance.pick(&[0, 0, 0, 3, 20, 100]));
        if self.world.makes(Mistake::LateSnapshot) {
            sleep(Duration::from_millis(slow)).await;
        }
        let (snapshot, wal): (_, Lsn) = self.pg(|pg| (pg.snapshot(), pg.position()));
        if !self.world.makes(Mistake::LateSnapshot) {
            // Both in one statement.
            rows = self.pg(read);
            sleep(Duration::from_millis(slow)).await;
        }
        self.trip().await?;
        self.still(life)?;
        if !self.home.is(Some(server)) && !self.world.makes(Mistake::StrangeLoad) {
            self.home.doubt();
            return Err(StoreError::Strange(server));
        }
        Ok(Loaded {
            snapshot,
            wal,
            rows,
        })
    }
}

impl Record for Way {
    fn home(&self) -> &Arc<Home> {
        &self.home
    }

    fn forget_idle(&self) {}

    fn standing(&self, _: LogKey) -> Asked<'_, Standing> {
        Box::pin(self.stood())
    }

    fn flush_again<'a>(
        &'a self,
        _: &'a Catalog,
        batch: &'a FlushBatch,
        again: &'a Again,
    ) -> Asked<'a, FlushOutcome> {
        let told = |_| -> Asked<'_, ()> { Box::pin(async { Ok(()) }) };
        Box::pin(self.flushed(batch, again, Box::new(told)))
    }

    fn newest_epoch(&self, _: i32) -> Asked<'_, u64> {
        Box::pin(async {
            self.trip().await?;
            let epoch = self.pg(|pg| pg.progress.as_ref().map_or(0, |progress| progress.epoch));
            self.trip().await?;
            Ok(epoch)
        })
    }

    fn take_over<'a>(&'a self, taker: Taker<'a>) -> Asked<'a, Taken> {
        Box::pin(self.taken_over(taker))
    }

    fn outcome(&self, _: LogKey, epoch: u64, seq: FlushSeq) -> Asked<'_, FlushFate> {
        Box::pin(self.fate(epoch, seq))
    }

    fn dead_rows(&self, _: LogKey, seq: FlushSeq) -> Asked<'_, Vec<RowId>> {
        Box::pin(async move {
            self.trip().await?;
            Ok(self.pg(|pg| pg.buried(seq)))
        })
    }

    fn flush<'a>(
        &'a self,
        _: &'a Catalog,
        batch: &'a FlushBatch,
        tell: Tell<'a>,
    ) -> Asked<'a, FlushOutcome> {
        Box::pin(async move { self.flushed(batch, &Again::default(), tell).await })
    }

    fn load_catalog(&self, epoch: Epoch) -> Asked<'_, Catalog> {
        Box::pin(async move {
            self.trip().await?;
            Ok(catalog(epoch))
        })
    }

    fn load_rows<'a>(
        &'a self,
        _: &'a Catalog,
        relation: &'a Relation,
        keys: &'a [Key],
    ) -> Asked<'a, Loaded> {
        Box::pin(self.loaded(relation, keys))
    }

    fn load_sets<'a>(
        &'a self,
        _: &'a Catalog,
        _: &'a Relation,
        _: Gathering<'a>,
    ) -> Asked<'a, Loaded> {
        // Its clients name rows by key: nobody asks.
        Box::pin(async { Err(StoreError::Unexpected("sets are not simulated".into())) })
    }
}
