//! What a machine offers, a line each, with the way to what is missing.

use kbuild_tasks::machine::{Finding, Found};

pub fn findings(findings: &[Finding]) -> String {
    let width = findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or(0);
    findings
        .iter()
        .map(|finding| lines(finding, width))
        .collect()
}

fn lines(finding: &Finding, width: usize) -> String {
    let mark = match finding.found {
        Found::Yes => '+',
        Found::No => '-',
    };
    let mut text = format!("{mark} {:width$}  {}\n", finding.name, finding.text);
    if !finding.help.is_empty() {
        text.push_str(&format!("  {:width$}  help: {}\n", "", finding.help));
    }
    text
}
