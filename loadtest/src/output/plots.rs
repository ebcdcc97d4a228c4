//! Line plots as SVG, with colours that can be told apart without seeing red and green.

use std::path::Path;

use anyhow::anyhow;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;

const SIZE: (u32, u32) = (900, 480);
/// Okabe and Ito's.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// One line.
#[derive(Debug, Clone)]
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// How an axis is divided, and what it shows.
#[derive(Debug, Clone, Copy)]
pub enum Axis {
    Plain(&'static str),
    Logarithmic(&'static str),
    /// Percentiles: 0, 1, 2 and 3 stand for 0 %, 90 %, 99 % and 99.9 %.
    Nines,
}

impl Axis {
    fn label(self) -> &'static str {
        match self {
            Self::Plain(label) | Self::Logarithmic(label) => label,
            Self::Nines => "percentile",
        }
    }

    /// Where a value lies.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Plain(_) | Self::Nines => value,
            // A tenth of what is shown as the smallest: nothing is left out for being zero.
            Self::Logarithmic(_) => value.max(0.01).log10(),
        }
    }

    fn text(self, place: f64) -> String {
        match self {
            Self::Plain(_) if place >= 10_000.0 => format!("{:.0}k", place / 1000.0),
            Self::Plain(_) if place.fract() == 0.0 => format!("{place:.0}"),
            Self::Plain(_) => format!("{place:.1}"),
            Self::Logarithmic(_) => {
                let value = 10_f64.powf(place);
                if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
            }
            Self::Nines => match place {
                place if place <= 0.0 => "0 %".to_owned(),
                place => format!("{} %", (1e6 * (1.0 - 10_f64.powf(-place))).round() / 1e4),
            },
        }
    }

    /// Where values begin and end, with a little air.
    fn range(self, values: impl Iterator<Item = f64>) -> Scale {
        let (mut low, mut high) = (f64::MAX, f64::MIN);
        for place in values.map(|value| self.place(value)) {
            (low, high) = (low.min(place), high.max(place));
        }
        let low = match self {
            Self::Plain(_) | Self::Nines => 0.0,
            Self::Logarithmic(_) => low.min(high).floor().min(1.0),
        };
        let high = match self {
            Self::Plain(_) => high.max(1.0) * 1.05,
            Self::Nines => high.max(1.0),
            Self::Logarithmic(_) => high.ceil().max(low + 1.0),
        };
        Scale { axis: self, low, high }
    }
}

/// An axis with its ends; knows how its marks are written.
struct Scale {
    axis: Axis,
    low: f64,
    high: f64,
}

impl Ranged for Scale {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: plotters::coord::ranged1d::KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match self.axis {
            Axis::Plain(_) => {
                let range: plotters::coord::types::RangedCoordf64 = (self.low..self.high).into();
                range.key_points(hint)
            }
            Axis::Logarithmic(_) | Axis::Nines => {
                let (from, to) = (self.low.ceil() as i32, self.high.floor() as i32);
                (from..=to).map(f64::from).collect()
            }
        }
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Scale {
    fn format_ext(&self, value: &f64) -> String {
        self.axis.text(*value)
    }
}

/// Draws lines over one pair of axes.
pub fn draw(path: &Path, title: &str, x: Axis, y: Axis, series: &[Series]) -> anyhow::Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    draw_on(&area, title, x, y, series).map_err(|error| anyhow!("{} cannot be drawn: {error}", path.display()))
}

fn draw_on(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    x: Axis,
    y: Axis,
    series: &[Series],
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let all = || series.iter().flat_map(|series| &series.points);
    let (width, height) = (x.range(all().map(|point| point.0)), y.range(all().map(|point| point.1)));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(width, height)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .label_style(("sans-serif", 14))
        .x_desc(x.label())
        .y_desc(y.label())
        .draw()?;
    for (series, colour) in series.iter().zip(COLOURS.into_iter().cycle()) {
        let points = series.points.iter().map(|point| (x.place(point.0), y.place(point.1)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(3)))?
            .label(series.name.clone())
            .legend(move |(left, top)| PathElement::new([(left, top), (left + 20, top)], colour.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .label_font(("sans-serif", 15))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_an_axis_are_written_as_people_read_them() {
        assert_eq!(
            [0.0, 1.0, 2.0, 3.0, 4.0].map(|place| Axis::Nines.text(place)),
            ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]
        );
        assert_eq!(Axis::Plain("s").text(20_000.0), "20k");
        assert_eq!([-1.0, 0.0, 2.0].map(|place| Axis::Logarithmic("ms").text(place)), ["0.10", "1.00", "100"]);
    }

    #[test]
    fn every_line_is_drawn_and_named() {
        let folder = std::env::temp_dir().join(format!("doorbuster-plot-{}", std::process::id()));
        let series = ["one row", "tokens"]
            .map(|name| Series { name: name.to_owned(), points: vec![(0.0, 0.0), (1.0, 1.0), (2.0, 900.0)] });
        draw(&folder, "Sold", Axis::Plain("s"), Axis::Logarithmic("units"), &series).unwrap();
        let svg = std::fs::read_to_string(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        assert!(svg.matches("<polyline").count() >= 2, "{svg}");
        assert!(svg.contains("one row") && svg.contains("tokens") && svg.contains("Sold"));
    }
}
