//! `kube-baremetal crds`.

use anyhow::{Context, Result};

/// Prints every CRD as one YAML stream.
pub fn print() -> Result<()> {
    print!("{}", text()?);
    Ok(())
}

/// The YAML stream, which is also what `deploy/crds/` holds.
pub fn text() -> Result<String> {
    let mut out = String::new();
    for crd in api::crds::all() {
        out.push_str("---\n");
        // Through JSON first: it drops nothing, and numbers stay what they are.
        let value = serde_json::to_value(&crd).context("a CRD does not become JSON")?;
        out.push_str(&serde_saphyr::to_string(&value).context("a CRD does not become YAML")?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_crds_are_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds/kube-baremetal.yaml");
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(
            committed == super::text().unwrap(),
            "deploy/crds is out of date: run `make generate`"
        );
    }
}
