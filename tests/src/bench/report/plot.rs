//! A section as an SVG: a bar a variant up to its median, and its samples as dots.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::bench::figure::{Section, extremes, median, quantile, with_unit};

const WIDTH: u32 = 720;
const BAR: u32 = 44;
/// More samples than these would only blacken the row.
const DOTS: usize = 100;
/// Room for the title above and the axis below.
const FRAME: u32 = 84;

/// Draws the section's series into the file.
pub(super) fn bars(section: &Section, file: &Path) -> Result<()> {
    draw(section, file).map_err(|error| anyhow!("{}: {error}", file.display()))
}

fn draw(section: &Section, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let rows = section.series.len();
    let largest = section.series.iter().map(|series| extremes(&series.samples).1).fold(0.0, f64::max);
    let area = SVGBackend::new(file, (WIDTH, FRAME + BAR * rows as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{} ({})", section.title, section.unit), ("sans-serif", 18))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(28)
        .y_label_area_size(140)
        .build_cartesian_2d(0.0..largest * 1.12, 0.0..rows as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_max_light_lines(0)
        .x_label_formatter(&|value| with_unit(*value, ""))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (row, series) in section.series.iter().enumerate() {
        let middle = rows as f64 - row as f64 - 0.5;
        let colour = if series.name == "fairlead" { RGBColor(120, 180, 225) } else { RGBColor(200, 200, 200) };
        let figure = median(&series.samples);
        let bar = [(0.0, middle - 0.3), (figure, middle + 0.3)];
        chart.draw_series([Rectangle::new(bar, colour.filled())])?;
        let dot = |sample| Circle::new((sample, middle), 2, BLACK.mix(0.5).filled());
        chart.draw_series(dots(&series.samples).into_iter().map(dot))?;
        let inside = ("sans-serif", 13).into_text_style(&area).color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        let outside = inside.pos(Pos::new(HPos::Right, VPos::Center));
        let at = chart.backend_coord(&(0.0, middle));
        area.draw_text(&with_unit(figure, ""), &inside, (at.0 + 6, at.1))?;
        area.draw_text(&series.name, &outside, (at.0 - 8, at.1))?;
    }
    area.present()?;
    Ok(())
}

/// The samples, or evenly chosen ones of very many, the smallest and the largest among them.
fn dots(samples: &[f64]) -> Vec<f64> {
    if samples.len() <= DOTS {
        return samples.to_vec();
    }
    (0..DOTS).map(|dot| quantile(samples, dot as f64 / (DOTS - 1) as f64)).collect()
}
