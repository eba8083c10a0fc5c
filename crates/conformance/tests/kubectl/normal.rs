//! What a command printed, less what may differ between two servers.

use std::path::Path;

use anyhow::{Context, Result};
use kube::config::Kubeconfig;
use regex::Regex;
use serde_json::Value;

use crate::script::Step;

/// What is masked, and by what. Blanks follow the width of what is masked, so that any number of them is two.
const MASKS: [(&str, &str); 12] = [
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UID"),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| [+-]\d{4}( \w+)?)?", "TIME"),
    (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d [+-]\d{4}", "TIME"),
    (r#"((?:resourceVersion|Resource Version)"?: *)"?\d+"?"#, "${1}VERSION"),
    (r"eyJ[\w.-]+", "TOKEN"),
    (r"\b(\d+[smhd])+\b", "AGE"),
    (r"<invalid>", "AGE"),
    (r"/tmp/(LIVE|MERGED)-\d+", "/tmp/$1"),
    (r"kubectl\S*-edit-\d+", "kubectl-edit"),
    // The two servers are of different versions, which a client may say.
    (r"Server Version: .*", "Server Version: SOME"),
    (r"(?mi)^warning: version difference.*\n", ""),
    (r"[ \t]{2,}", "  "),
];

/// Masks one side's output.
#[derive(Debug)]
pub struct Normal {
    masks: Vec<(Regex, &'static str)>,
    server: String,
    folder: String,
}

impl Normal {
    /// For the server that a kubeconfig names.
    pub fn of(kubeconfig: &Path) -> Result<Self> {
        let config = Kubeconfig::read_from(kubeconfig)?;
        let cluster = config.clusters.into_iter().next().and_then(|c| c.cluster);
        Ok(Self {
            masks: MASKS.iter().map(|(mask, by)| Ok((Regex::new(mask)?, *by))).collect::<Result<_>>()?,
            server: cluster.and_then(|c| c.server).context("the kubeconfig names no server")?,
            folder: kubeconfig.parent().context("a folder")?.display().to_string(),
        })
    }

    /// The text as it is compared.
    pub fn text(&self, printed: &str, step: &Step) -> String {
        let mut text = printed.replace(&self.server, "SERVER").replace(&self.folder, "HOME");
        // The order of an object's fields says nothing; kubectl passes on what it got for `--raw`.
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            text = sorted(&value).to_string();
        }
        for (mask, by) in &self.masks {
            text = mask.replace_all(&text, *by).into_owned();
        }
        if let Some(word) = &step.only {
            text = text.lines().filter(|l| l.contains(word.as_str())).collect::<Vec<_>>().join("\n");
        }
        // Several complaints about one object come in the order of a Go map, which is none.
        let mut lines: Vec<&str> = text.lines().collect();
        for block in lines.split_mut(|l| !l.starts_with("* ")) {
            block.sort_unstable();
        }
        lines.into_iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

/// The same with the fields of every object in the order of their names.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            names.into_iter().map(|name| (name.clone(), sorted(&fields[name]))).collect()
        }
        Value::Array(items) => items.iter().map(sorted).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
