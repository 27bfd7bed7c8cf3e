//! Finds contradictions between settings about several nodes. Never reads a file: what the data folder belongs to is known only at the start.

use crate::config::cluster::{is_loopback, is_wildcard};
use crate::config::{ClusterSettings, Config, schema};

/// Tells `report` which key does not fit, and why.
pub(super) fn check(config: &Config, report: &mut impl FnMut(&str, String)) {
    let mut report = |key: &str, message: &str| report(key, message.to_owned());
    let settings = &config.cluster;
    let Some(listen) = &settings.cluster_listen else {
        return check_alone(config, &mut report);
    };
    for (name, address) in [
        ("listen", &config.listen),
        ("admin_listen", &config.admin_listen),
    ] {
        if listen == address && !listen.ends_with(":0") {
            report("cluster_listen", &format!("is the same address as {name}"));
        }
    }
    let advertised = settings.cluster_advertise.as_ref().unwrap_or(listen);
    check_address(settings, advertised, &mut report);
    check_beginning(settings, advertised, &mut report);
    check_proof(settings, &mut report);
    let mut addresses = settings.join.iter().chain([listen, advertised]);
    if !says_proof(settings) && !addresses.all(|address| is_loopback(address)) {
        report(
            "cluster_listen",
            "nodes on several machines must prove to each other that they belong; give all of them the same cluster_secret (or cluster_secret_file), \
             or each its cluster_cert and cluster_key with their common cluster_ca",
        );
    }
}

/// Settings of a cluster, but no cluster.
fn check_alone(config: &Config, report: &mut impl FnMut(&str, &str)) {
    let settings = &config.cluster;
    let idle = |name: &str| {
        (name == "bootstrap" && !settings.bootstrap)
            || (name == "join" && settings.join.is_empty())
            || !config.origins.contains_key(name)
    };
    for name in schema::CLUSTER.iter().filter(|name| !idle(name)) {
        let message = "means nothing without cluster_listen; give the address for other nodes (--cluster-listen HOST:PORT), or leave this out for a node alone";
        report(name, message);
    }
}

fn check_address(
    settings: &ClusterSettings,
    advertised: &str,
    report: &mut impl FnMut(&str, &str),
) {
    match &settings.cluster_advertise {
        None if is_wildcard(advertised) => report(
            "cluster_listen",
            "is no address that other nodes could use; say which one they shall use with cluster_advertise",
        ),
        Some(_) if is_wildcard(advertised) => report(
            "cluster_advertise",
            "is no address that other nodes could use; give this node's name or its own address",
        ),
        Some(address) if address.ends_with(":0") => report(
            "cluster_advertise",
            "has no port that other nodes could use",
        ),
        _ => {}
    }
}

fn check_beginning(
    settings: &ClusterSettings,
    advertised: &str,
    report: &mut impl FnMut(&str, &str),
) {
    if settings.bootstrap && !settings.join.is_empty() {
        report(
            "bootstrap",
            "contradicts join: the first node founds the cluster, all others join it; take away one of the two",
        );
    }
    if !settings.join.is_empty() && settings.join.iter().all(|seed| seed == advertised) {
        report(
            "join",
            "names only this node itself; name another one, or found a cluster with bootstrap",
        );
    }
}

fn check_proof(settings: &ClusterSettings, report: &mut impl FnMut(&str, &str)) {
    let secrets = [
        ("cluster_secret", settings.cluster_secret.is_some()),
        (
            "cluster_secret_file",
            settings.cluster_secret_file.is_some(),
        ),
    ];
    let certificates = [
        ("cluster_ca", settings.cluster_ca.is_some()),
        ("cluster_cert", settings.cluster_cert.is_some()),
        ("cluster_key", settings.cluster_key.is_some()),
    ];
    let given = |keys: &[(&'static str, bool)]| -> Vec<&'static str> {
        let given = keys.iter().filter(|(_, given)| *given);
        given.map(|(name, _)| *name).collect()
    };
    let (by_secret, by_certificates) = (given(&secrets), given(&certificates));
    if let [_, second] = by_secret[..] {
        report(second, "contradicts cluster_secret; give one of the two");
    }
    if let (Some(secret), Some(certificate)) = (by_secret.first(), by_certificates.first()) {
        let message = format!(
            "contradicts {certificate}: nodes know each other by a secret or by certificates; take away one of the two"
        );
        report(secret, &message);
    }
    if by_certificates.len() == 1 || by_certificates.len() == 2 {
        let missing = certificates.iter().filter(|(_, given)| !given);
        let missing: Vec<&str> = missing.map(|(name, _)| *name).collect();
        let message = format!("needs {}", missing.join(" and "));
        report(by_certificates[0], &message);
    }
}

fn says_proof(settings: &ClusterSettings) -> bool {
    settings.cluster_secret.is_some()
        || settings.cluster_secret_file.is_some()
        || settings.cluster_ca.is_some()
        || settings.cluster_cert.is_some()
        || settings.cluster_key.is_some()
}
