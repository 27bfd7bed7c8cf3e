//! What a node tells another that loads rows: out of its memory, or by a load of its own that serves all who ask. Does; never tells more than it has been told (`floor`).

use super::floor::Short;
use super::limits::{ANSWER_BYTES_MAX, CATCH_UP_PATIENCE, LEND_ATTEMPTS_MAX, OWNER_PATIENCE};
use super::wire::{self, Ask, Kind, Lending, Lendings, Question};
use super::{Peers, count};
use crate::change::RowId;
use crate::rows::slot::Lend;
use bytes::Bytes;
use ripen_pg::ids::TableOid;
use std::collections::HashSet;
use tokio::time::Instant;

impl Peers {
    /// Answers another node. Cancel safe.
    ///
    /// # Errors
    /// In words, when it is not understood here.
    pub async fn answer(&self, question: &[u8]) -> Result<Bytes, String> {
        match Question::decode(question).map_err(|malformed| malformed.to_string())? {
            Question::Presence => Ok(wire::encode_presence(self.up_ms())),
            Question::Rows(ask) => {
                let lending = tokio::time::timeout(OWNER_PATIENCE, self.lend(&ask));
                let lent = lending.await.ok().flatten();
                Ok(lent.unwrap_or_else(|| declined(&ask)))
            }
        }
    }

    /// `None`: nothing that this node knows may be told.
    async fn lend(&self, ask: &Ask) -> Option<Bytes> {
        let feed = &self.parts.feed;
        let beginnings = feed.beginnings();
        if !self.catches_up(ask).await || !self.parts.member.may_read() {
            return None;
        }
        let tables = ask.tables.iter();
        let same = tables.filter(|asked| self.shape(asked.table) == Some(asked.shape));
        let same: HashSet<TableOid> = same.map(|asked| asked.table).collect();
        let rows: Vec<RowId> = ask.rows().collect();
        let look = |row: &RowId| {
            let shared = same.contains(&row.table);
            let rows = &self.parts.rows;
            let withheld = || self.parts.fences.has(row) || !self.shares(row.table);
            let lend = shared.then(|| rows.lend(row, withheld)).flatten();
            lend.unwrap_or(Lend::Withheld)
        };
        let mut found: Vec<Lend> = rows.iter().map(look).collect();
        if ask.kind == Kind::Own {
            for _ in 0..LEND_ATTEMPTS_MAX {
                let unknown = rows.iter().zip(&found);
                let unknown = unknown.filter(|(_, lend)| matches!(lend, Lend::Unknown));
                let unknown: Vec<RowId> = unknown.map(|(row, _)| row.clone()).collect();
                if unknown.is_empty() {
                    break;
                }
                count(&self.stats.loaded, unknown.len());
                let loading = self.parts.loader.load_for(ask.node, &unknown);
                if loading.await.is_err() {
                    break;
                }
                for (row, lend) in rows.iter().zip(&mut found) {
                    if matches!(lend, Lend::Unknown) {
                        *lend = look(row);
                    }
                }
            }
        }
        // Whatever was true in the beginning is true still, or nothing is told.
        let answers = self.told_at_least().answers(&ask.told).is_ok();
        if !answers || feed.beginnings() != beginnings || !self.parts.member.may_read() {
            return None;
        }
        Some(self.encode(found))
    }

    fn encode(&self, found: Vec<Lend>) -> Bytes {
        let (mut lendings, mut lent) = (Lendings::default(), 0);
        for lend in found {
            lendings.push(&match lend {
                Lend::Base(_) if lendings.bytes() >= ANSWER_BYTES_MAX => Lending::Later,
                Lend::Base(base) => {
                    lent += 1;
                    Lending::Lent(base)
                }
                Lend::Unknown | Lend::Withheld => Lending::Declined,
            });
        }
        count(&self.stats.lent, lent);
        lendings.encode()
    }

    /// Waits until this node has been told what the asking one had been told.
    async fn catches_up(&self, ask: &Ask) -> bool {
        let begun = Instant::now();
        loop {
            match self.told_at_least().answers(&ask.told) {
                Ok(()) => return true,
                Err(Short::Elsewhere) => return false,
                Err(Short::Behind) if begun.elapsed() >= CATCH_UP_PATIENCE => return false,
                Err(Short::Behind) => tokio::time::sleep(crate::limits::LOG_POLL).await,
            }
        }
    }
}

fn declined(ask: &Ask) -> Bytes {
    let mut lendings = Lendings::default();
    for _ in ask.rows() {
        lendings.push(&Lending::Declined);
    }
    lendings.encode()
}
