//! The report as Markdown.

use crate::bench::{
    figure::{Section, extremes, median, with_unit},
    report::Run,
};

/// The whole document; `plots` are the sections' files, in their order.
pub(super) fn document(run: &Run, sections: &[Section], plots: &[Option<String>]) -> String {
    let mut text = String::from("# Benchmark report\n\n");
    text += &format!(
        "{} rounds of {} s, the variants by turns; client and server on {} cores unless a section says otherwise.\n\
         A ratio is the median of the rounds' ratios.\n\n",
        run.rounds, run.seconds, run.cores
    );
    for line in &run.machine {
        text += &format!("- {line}\n");
    }
    if let Some(warning) = run.warning() {
        text += &format!("\n**{warning}**\n");
    }
    text += "\n## Targets\n\n";
    let mut rows = vec![["Figure", "Came out", "Asked", ""].map(str::to_owned).to_vec()];
    for check in sections.iter().flat_map(|section| &section.checks) {
        let verdict = if check.met() { "pass" } else { "**MISS**" };
        let value = with_unit(check.value, &check.unit);
        rows.push(vec![check.figure.clone(), value, check.target.describe(&check.unit), verdict.to_owned()]);
    }
    text += &table(&rows);
    for (section, plot) in sections.iter().zip(plots) {
        text += &format!("\n## {}\n\n", section.title);
        if !section.error.is_empty() {
            text += &format!("Could not run: {}\n", section.error);
        }
        if let Some(plot) = plot {
            let heading = ["Variant", "Median", "Min", "Max"].map(str::to_owned).to_vec();
            let rows = section.series.iter().map(|series| {
                let (min, max) = extremes(&series.samples);
                let figures = [median(&series.samples), min, max].map(|figure| with_unit(figure, &section.unit));
                [vec![series.name.clone()], figures.to_vec()].concat()
            });
            text += &table(&[heading].into_iter().chain(rows).collect::<Vec<_>>());
            text += &format!("\n![{}]({plot})\n", section.title);
        }
        if !section.table.is_empty() {
            text += &table(&section.table);
        }
        for note in &section.notes {
            text += &format!("\n{note}\n");
        }
    }
    text
}

fn table(rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text += &format!("| {} |\n", row.join(" | "));
        if index == 0 {
            text += &format!("|{}\n", "---|".repeat(row.len()));
        }
    }
    text
}
