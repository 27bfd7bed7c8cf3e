//! What settings about several nodes mean, and which contradict each other.

use super::*;
use crate::config::{Config, Sources};

const NODE: &[(&str, &str)] = &[
    ("upstream", "postgres://h/d"),
    ("cluster_listen", "127.0.0.1:6434"),
];
const SECRET: &str = "a secret of the cluster";

fn load(flags: &[(&str, &str)]) -> Result<Config, String> {
    let own = |(key, text): &(&str, &str)| ((*key).to_owned(), (*text).to_owned());
    let sources = Sources {
        flags: flags.iter().map(own).collect(),
        ..Sources::default()
    };
    Config::load(&sources).map_err(|problems| problems.to_string())
}

fn node(flags: &[(&str, &str)]) -> Result<ClusterConfig, String> {
    let config = load(&[NODE, flags].concat())?;
    Ok(config.cluster.member().expect("it listens for others"))
}

#[track_caller]
fn fails(flags: &[(&str, &str)], expected: &str) {
    assert_eq!(node(flags).map(drop), Err(expected.to_owned()));
}

#[test]
fn without_an_address_for_others_it_is_a_node_alone() {
    let alone = load(&NODE[..1]).expect("good");
    assert_eq!(alone.cluster.member(), None);
    let off = [
        ("upstream", "postgres://h/d"),
        ("bootstrap", "false"),
        ("join", ""),
    ];
    assert_eq!(load(&off).expect("good").cluster.member(), None);
}

#[test]
fn settings_of_a_cluster_mean_nothing_to_a_node_alone() {
    for (key, text) in [
        ("cluster_advertise", "h:1"),
        ("join", "h:1"),
        ("bootstrap", "true"),
        ("cluster_secret", SECRET),
        ("cluster_secret_file", "f"),
        ("cluster_ca", "f"),
        ("voters", "5"),
        ("replace_after", "1min"),
    ] {
        let error = load(&[NODE[0], (key, text)]).expect_err(key);
        let flag = key.replace('_', "-");
        let expected = format!(
            "--{flag}: {key}: means nothing without cluster_listen; give the address for other nodes (--cluster-listen HOST:PORT), or leave this out for a node alone"
        );
        assert_eq!(error, expected);
    }
}

#[test]
fn a_node_is_known_by_the_address_it_tells() {
    let bound = "127.0.0.1:7000".parse().expect("an address");
    let address = |flags| node(flags).expect("good").address(bound);
    assert_eq!(address(&[("bootstrap", "true")]), "127.0.0.1:6434");
    let anywhere: &[_] = &[
        ("cluster_listen", "0.0.0.0:6434"),
        ("cluster_advertise", "ripen-1:6434"),
        ("cluster_secret", SECRET),
    ];
    assert_eq!(address(anywhere), "ripen-1:6434");
    assert_eq!(address(&[("cluster_listen", "[::1]:0")]), "[::1]:7000");
    for listen in ["0.0.0.0:6434", "[::]:6434"] {
        fails(
            &[("cluster_listen", listen), ("cluster_secret", SECRET)],
            "--cluster-listen: cluster_listen: is no address that other nodes could use; say which one they shall use with cluster_advertise",
        );
        fails(
            &[("cluster_advertise", listen), ("cluster_secret", SECRET)],
            "--cluster-advertise: cluster_advertise: is no address that other nodes could use; give this node's name or its own address",
        );
    }
    fails(
        &[("cluster_advertise", "localhost:0")],
        "--cluster-advertise: cluster_advertise: has no port that other nodes could use",
    );
    fails(
        &[("cluster_listen", "127.0.0.1:6433")],
        "--cluster-listen: cluster_listen: is the same address as admin_listen",
    );
}

#[test]
fn a_node_founds_a_cluster_or_joins_one_or_goes_on() {
    let founder = node(&[("bootstrap", "true")]).expect("good");
    assert_eq!(founder.seeds(None).expect("it founds"), [""; 0]);
    let newcomer = node(&[("join", "localhost:1, [::1]:2")]).expect("good");
    assert_eq!(
        newcomer.seeds(None).expect("it joins"),
        ["localhost:1", "[::1]:2"]
    );
    let old = node(&[]).expect("good");
    assert!(old.seeds(Some(7)).is_ok());
    assert!(matches!(old.seeds(None), Err(ClusterError::Nowhere)));
    fails(
        &[("bootstrap", "true"), ("join", "127.0.0.1:1")],
        "--bootstrap: bootstrap: contradicts join: the first node founds the cluster, all others join it; take away one of the two",
    );
    fails(
        &[("join", "127.0.0.1:6434")],
        "--join: join: names only this node itself; name another one, or found a cluster with bootstrap",
    );
    fails(&[("join", "h")], "--join: join: \"h\" is not host:port");
}

#[test]
fn nodes_of_several_machines_must_prove_that_they_belong() {
    let missing = "cluster_listen: nodes on several machines must prove to each other that they belong; give all of them the same cluster_secret (or cluster_secret_file), \
                   or each its cluster_cert and cluster_key with their common cluster_ca";
    let missing = format!("--cluster-listen: {missing}");
    for flag in [
        ("cluster_listen", "10.0.0.1:6434"),
        ("cluster_advertise", "ripen-1:6434"),
        ("join", "ripen-1:6434"),
    ] {
        fails(&[flag], &missing);
        assert!(node(&[flag, ("cluster_secret", SECRET)]).is_ok());
    }
    let here = node(&[("join", "localhost:1,127.1.2.3:4,[::1]:5")]).expect("good");
    assert_eq!(here.proof, Proof::Nothing);
    assert!(here.keys().expect("good").is_none());
}

#[test]
fn one_kind_of_proof_is_enough_and_must_be_whole() {
    let files = [
        ("cluster_ca", "a.pem"),
        ("cluster_cert", "c.pem"),
        ("cluster_key", "k.pem"),
    ];
    let proof = node(&files).expect("good").proof;
    assert!(matches!(proof, Proof::Certificates { chain, .. } if chain == Path::new("c.pem")));
    fails(
        &files[..1],
        "--cluster-ca: cluster_ca: needs cluster_cert and cluster_key",
    );
    fails(
        &files[1..],
        "--cluster-cert: cluster_cert: needs cluster_ca",
    );
    let both = [("cluster_secret", SECRET), files[0], files[1], files[2]];
    fails(
        &both,
        "--cluster-secret: cluster_secret: contradicts cluster_ca: nodes know each other by a secret or by certificates; take away one of the two",
    );
    fails(
        &[("cluster_secret", SECRET), ("cluster_secret_file", "f")],
        "--cluster-secret-file: cluster_secret_file: contradicts cluster_secret; give one of the two",
    );
    fails(
        &[("cluster_secret", "short")],
        "--cluster-secret: cluster_secret: the cluster's secret must have at least 16 bytes, for example from \"openssl rand -hex 32\"",
    );
}

#[test]
fn a_secret_is_not_shown() {
    let config = load(&[NODE, &[("cluster_secret", SECRET)]].concat()).expect("good");
    assert!(!format!("{config:?}").contains(SECRET));
    let shown = config.rows();
    assert!(shown.iter().all(|(_, value, _)| !value.contains(SECRET)));
    let row = shown.iter().find(|(key, ..)| key == "cluster_secret");
    assert_eq!(row.map(|(_, value, _)| value.as_str()), Some("***"));
}

#[test]
fn keys_are_made_of_a_secret_in_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret");
    std::fs::write(&path, format!("{SECRET}\n")).expect("written");
    assert_eq!(secret_in(&path).expect("read"), SECRET.as_bytes());
    let of = |path: &Path| {
        let path = path.display().to_string();
        node(&[("cluster_secret_file", &path)]).expect("good")
    };
    std::fs::write(&path, "short\r\n").expect("written");
    let short = of(&path).keys().map(drop);
    assert!(matches!(
        short,
        Err(ClusterError::Keys(KeysError::ShortSecret))
    ));
    let missing = of(&folder.path().join("missing")).keys().map(drop);
    assert!(matches!(missing, Err(ClusterError::SecretFile { .. })));
}

#[test]
fn the_wish_is_as_said() {
    let wish = node(&[("voters", "5"), ("replace_after", "1min")]);
    let wish = wish.expect("good").wish;
    assert_eq!((wish.voters, wish.replace_after_ms), (5, 60_000));
    assert_eq!(node(&[]).expect("good").wish.voters, 3);
    fails(
        &[("voters", "4")],
        "--voters: voters: \"4\" is not one of \"3\", \"5\", \"7\"",
    );
    fails(
        &[("replace_after", "10ms")],
        "--replace-after: replace_after: \"10ms\" is less than 1s",
    );
}
