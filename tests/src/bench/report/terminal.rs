//! The report on the terminal: aligned columns, a line per figure.

use std::{
    fmt::Write,
    io::{IsTerminal, stdout},
};

use crate::bench::figure::{Section, extremes, median, with_unit};

/// One section: its variants' figures, its table and its notes.
pub fn section(section: &Section) -> String {
    let mut text = String::new();
    if !section.series.is_empty() {
        let heading = ["", "median", "min", "max"].map(str::to_owned).to_vec();
        let rows = section.series.iter().map(|series| {
            let (min, max) = extremes(&series.samples);
            let figures = [median(&series.samples), min, max].map(|figure| with_unit(figure, &section.unit));
            [vec![series.name.clone()], figures.to_vec()].concat()
        });
        text += &format!("  {}\n{}", section.title, aligned(&[heading].into_iter().chain(rows).collect::<Vec<_>>()));
    }
    if !section.table.is_empty() {
        text += &format!("  {}\n{}", section.title, aligned(&section.table));
    }
    text
}

/// Every figure that something is asked of, with what is asked and whether it is so.
pub fn summary(sections: &[Section]) -> String {
    let colour = stdout().is_terminal();
    let paint = |code: u8, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
    let mut rows = vec![["", "figure", "asked", ""].map(str::to_owned).to_vec()];
    for check in sections.iter().flat_map(|section| &section.checks) {
        let verdict = if check.met() { paint(32, "pass") } else { paint(31, "MISS") };
        let value = with_unit(check.value, &check.unit);
        rows.push(vec![check.figure.clone(), value, check.target.describe(&check.unit), verdict]);
    }
    let mut text = String::from("\n");
    if rows.len() > 1 {
        text += &aligned(&rows);
    }
    for section in sections.iter().filter(|section| !section.error.is_empty()) {
        writeln!(text, "  {} {}: {}", paint(31, "FAILED"), section.case, section.error).expect("a String takes all");
    }
    text
}

/// Columns as wide as their widest cell, the first to the left and figures to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(
                |(column, (cell, &width))| {
                    if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
                },
            )
            .collect();
        writeln!(text, "    {}", cells.join("  ").trim_end()).expect("a String takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figure::{Series, Target};

    #[test]
    fn a_section_and_its_summary() {
        let mut found = Section::new("case", "Rate", "/s");
        let series = |name: &str, sample: f64| Series { name: name.into(), samples: vec![sample] };
        found.series = vec![series("direct", 9_000.0), series("fairlead", 10_800.0)];
        found.compare("fairlead", "direct", Target::AtLeast(1.05));
        found.compare("fairlead", "direct", Target::AtLeast(1.5));
        let expected = "  Rate
                 median        min        max
    direct     9,000 /s   9,000 /s   9,000 /s
    fairlead  10,800 /s  10,800 /s  10,800 /s
";
        assert_eq!(section(&found), expected);
        let summary = summary(&[found]);
        assert!(summary.contains("Rate, fairlead / direct    1.20  ≥ 1.05  pass"), "{summary}");
        assert!(summary.contains("Rate, fairlead / direct    1.20  ≥ 1.50  MISS"), "{summary}");
    }
}
