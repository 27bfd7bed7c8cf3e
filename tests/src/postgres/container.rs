//! Postgres in a container. Uses the host's network, so that its port is the same inside, outside and after a restart.

use super::{Options, Stop};
use crate::wait;
use anyhow::Context;
use testcontainers::bollard::Docker;
use testcontainers::bollard::query_parameters::{
    KillContainerOptionsBuilder, ListImagesOptionsBuilder,
};
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner;
use testcontainers::{ContainerAsync, GenericImage, ImageExt};

const IMAGE: &str = "ripen-postgres";

pub(super) struct Container {
    container: ContainerAsync<GenericImage>,
    docker: Docker,
}

/// The newest tag of the test image, if an engine answers and has it.
pub(super) async fn find_image() -> anyhow::Result<String> {
    let docker = docker_client_instance().await.context("no Docker engine")?;
    docker.ping().await.context("no Docker engine answers")?;
    let filters = [("reference", vec![IMAGE])].into_iter().collect();
    let options = ListImagesOptionsBuilder::new().filters(&filters).build();
    let images = docker.list_images(Some(options)).await?;
    let tags = images.iter().flat_map(|image| &image.repo_tags);
    let majors = tags.filter_map(|tag| tag.rsplit_once(':')?.1.parse::<u32>().ok());
    majors
        .max()
        .map(|major| major.to_string())
        .with_context(|| {
            format!("the Docker engine has no image {IMAGE} (scripts/build-postgres-image.sh)")
        })
}

impl Container {
    pub(super) async fn start(
        tag: &str,
        arguments: Vec<String>,
        options: Options,
    ) -> anyhow::Result<Container> {
        let docker = docker_client_instance().await?;
        let request = GenericImage::new(IMAGE, tag)
            .with_network("host")
            .with_cmd(arguments);
        let request = request
            .with_env_var("PG_HBA", options.hba.unwrap_or_default())
            .with_env_var("PG_TLS", options.tls.unwrap_or_default());
        let container = request.start().await?;
        Ok(Container { container, docker })
    }

    pub(super) async fn stop(&mut self, how: Stop) -> anyhow::Result<()> {
        let signal = match how {
            Stop::Fast => "SIGINT",
            Stop::Immediate => "SIGQUIT",
            Stop::Kill => "SIGKILL",
        };
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        self.docker
            .kill_container(self.container.id(), Some(options))
            .await?;
        wait::until("the container ends", || async {
            Ok((!self.container.is_running().await?).then_some(()))
        })
        .await
    }

    pub(super) async fn start_again(&mut self) -> anyhow::Result<()> {
        Ok(self.container.start().await?)
    }
}
