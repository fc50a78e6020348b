//! A network as a table to read.

use super::network::Network;
use crate::layers::Node;
use std::fmt;

impl Network {
    /// A table of all layers with output shapes, parameters and multiply-accumulates, branches
    /// indented.
    pub fn summary(&self) -> String {
        use fmt::Write;
        let mut text = format!(
            "{:<36}{:>10}{:>12}{:>14}\n",
            format!("{} on {}", self.name, self.input()),
            "output",
            "parameters",
            "MACs"
        );
        let costs = self.costs();
        for (i, segment) in self.segments.iter().enumerate() {
            let branch = self.branches.get(i).map_or(&[][..], Vec::as_slice);
            let lines: Vec<_> =
                segment.iter().map(|node| ("", node)).chain(branch.iter().map(|node| ("  ", node))).collect();
            let number = |n: usize| if n == 0 { String::new() } else { grouped(n) };
            // Residual blocks that are all alike take one line.
            let alike = |a: &(&str, &Node), b: &(&str, &Node)| {
                a.0 == b.0 && !a.1.inner.is_empty() && a.1.layer == b.1.layer && a.1.output == b.1.output
            };
            for group in lines.chunk_by(alike) {
                let (indent, node) = group[0];
                let times = match group.len() {
                    1 => String::new(),
                    n => format!(" ×{n}"),
                };
                let label = format!(
                    "{indent}{:<13} {}{times}",
                    node.name.rsplit('.').next().unwrap_or_default(),
                    node.layer
                );
                let parameters = number(node.parameter_count() * group.len());
                let macs = number(node.macs() * group.len());
                let _ =
                    writeln!(text, "{label:<36}{:>10}{parameters:>12}{macs:>14}", node.output.to_string());
            }
            let total = format!("exit {}: {} MACs to leave here", i + 1, grouped(costs[i].macs));
            let _ = writeln!(text, "{}{total}", if branch.is_empty() { "" } else { "  " });
        }
        let _ = write!(text, "{} parameters", grouped(self.parameter_count()));
        text
    }
}

/// 1234567 as 1,234,567.
fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}
