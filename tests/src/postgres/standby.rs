//! An asynchronous standby of a test's Postgres, made of a copy of it, that can be kept from receiving, and take its primary's place. From installed programs only.

use super::Options;
use super::local::{self, Local};
use super::{Postgres, Server};
use crate::wait::{self, free_port};
use anyhow::{Context, ensure};

/// A standby that runs. It may be promoted in the place of its primary.
pub struct Standby {
    postgres: Postgres,
    conninfo: String,
}

impl Postgres {
    /// As [`Postgres::start`], from installed programs even where there are containers: a server that can have a [`Standby`].
    ///
    /// # Errors
    /// When there are no programs, or they do not start.
    pub async fn start_primary(options: Options) -> anyhow::Result<Postgres> {
        let bin = local::find_programs().context("no installed Postgres")?;
        let port = free_port();
        let arguments = options.arguments(port);
        let local = Local::start(&bin, arguments, options).await?;
        let server = Server::Local(Box::new(local));
        let postgres = Postgres { server, port };
        postgres.wait_ready().await?;
        Ok(postgres)
    }

    /// Copies this server and starts the copy as its standby of that name.
    ///
    /// # Errors
    /// When it cannot be copied or started.
    pub async fn standby(&self, name: &str) -> anyhow::Result<Standby> {
        let Server::Local(primary) = &self.server else {
            anyhow::bail!("only a server from installed programs can have a standby");
        };
        let port = free_port();
        let conninfo = format!(
            "host=127.0.0.1 port={} user=postgres application_name={name}",
            self.port
        );
        let local = primary.copy(self.port, port, &conninfo).await?;
        let server = Server::Local(Box::new(local));
        let postgres = Postgres { server, port };
        postgres.wait_ready().await?;
        let standby = Standby { postgres, conninfo };
        standby.caught_up(self).await?;
        Ok(standby)
    }
}

impl Standby {
    /// Receives nothing more, until [`Standby::receive`].
    ///
    /// # Errors
    /// Of Postgres.
    pub async fn stop_receiving(&self) -> anyhow::Result<()> {
        self.receive_from("").await?;
        wait::until("the standby receives no more", || async {
            let sql = "SELECT count(*) FROM pg_stat_wal_receiver";
            let row = self.postgres.connect().await?.query_one(sql, &[]).await?;
            Ok((row.get::<_, i64>(0) == 0).then_some(()))
        })
        .await
    }

    /// Receives again.
    ///
    /// # Errors
    /// Of Postgres.
    pub async fn receive(&self) -> anyhow::Result<()> {
        self.receive_from(&self.conninfo).await
    }

    async fn receive_from(&self, conninfo: &str) -> anyhow::Result<()> {
        let client = self.postgres.connect().await?;
        let sql = format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'");
        client.batch_execute(&sql).await?;
        client.batch_execute("SELECT pg_reload_conf()").await?;
        Ok(())
    }

    /// Waits until it has on its disk what the primary has by now.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn caught_up(&self, primary: &Postgres) -> anyhow::Result<()> {
        let wal = "SELECT pg_current_wal_flush_lsn()::text";
        let wal = primary.connect().await?.query_one(wal, &[]).await?;
        let wal: String = wal.get(0);
        wait::until("the standby has caught up", || async {
            let sql = format!("SELECT pg_last_wal_replay_lsn() >= '{wal}'");
            let row = self.postgres.connect().await?.query_one(&sql, &[]).await?;
            Ok(row.get::<_, Option<bool>>(0).unwrap_or(false).then_some(()))
        })
        .await
    }

    /// Comes up at the port of a primary that is gone, with these slots of it, still as a standby; [`Standby::promote`] follows.
    ///
    /// # Errors
    /// When it does not.
    pub async fn move_to(&mut self, gone: &Postgres, slots: &[&str]) -> anyhow::Result<()> {
        let Server::Local(primary) = &gone.server else {
            anyhow::bail!("only a server from installed programs can be replaced");
        };
        let arguments = primary.arguments().to_vec();
        self.postgres.stop(super::Stop::Fast).await?;
        let Server::Local(local) = &mut self.postgres.server else {
            anyhow::bail!("a standby is from installed programs");
        };
        for slot in slots {
            local.take_slot(primary, slot).await?;
        }
        local.set_arguments(arguments);
        self.postgres.port = gone.port;
        self.postgres.start_again().await
    }

    /// Becomes a primary.
    ///
    /// # Errors
    /// When it does not.
    pub async fn promote(self) -> anyhow::Result<Postgres> {
        let client = self.postgres.connect().await?;
        let promoted = client.query_one("SELECT pg_promote()", &[]).await?;
        ensure!(promoted.get::<_, bool>(0), "it is not promoted");
        Ok(self.postgres)
    }

    /// The server.
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }
}
