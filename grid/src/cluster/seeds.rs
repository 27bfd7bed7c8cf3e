//! Where seeds are: a name may stand for several addresses, one of which may be this node's own. Asks the system's resolver, each time anew, since nodes move.

/// The addresses behind a `host:port`; itself, if the resolver does not know any.
pub(crate) async fn addresses(seed: &str) -> Vec<String> {
    let found = match tokio::net::lookup_host(seed).await {
        Ok(found) => found.map(|address| address.to_string()).collect(),
        Err(_) => Vec::new(),
    };
    match found.is_empty() {
        true => vec![seed.to_owned()],
        false => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_become_addresses_and_unknown_ones_stay() {
        assert_eq!(addresses("127.0.0.1:6434").await, ["127.0.0.1:6434"]);
        let here = addresses("localhost:6434").await;
        assert!(here.contains(&"127.0.0.1:6434".to_owned()), "{here:?}");
        assert_eq!(addresses("nowhere").await, ["nowhere"]);
    }
}
