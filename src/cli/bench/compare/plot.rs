//! The drawing: for each load how many times the reference's operations per second a server does.
//!
//! One bar per load and server, from zero, with a line at 1, where the reference is. The text is text, so it can be searched and
//! read aloud.

use super::report::Report;
use std::fmt::Write as _;

/// In pixels.
const LEFT: f64 = 190.0;
const WIDTH: f64 = 460.0;
const BAR: f64 = 16.0;
const SPACE: f64 = 10.0;
const TOP: f64 = 46.0;
/// Of the first, the second, ... server.
const COLOURS: [&str; 4] = ["#2b6cb0", "#c05621", "#2f855a", "#6b46c1"];

/// The ratios of `report` as an SVG document.
pub fn svg(report: &Report) -> String {
    let Some((reference, compared)) = report.servers().split_last() else { return String::new() };
    let gains = report.gains();
    let most = gains.iter().flat_map(|(_, gains)| gains.iter().flatten()).fold(1.0, |most: f64, gain| most.max(*gain));
    let scale = WIDTH / (most * 1.1);
    let block = compared.len() as f64 * BAR + SPACE;
    let height = TOP + gains.len() as f64 * block + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Operations per second, as multiples of those of {reference}</text>\n",
        LEFT + WIDTH + 60.0
    );
    for (place, server) in compared.iter().enumerate() {
        let (x, colour) = (LEFT + place as f64 * 110.0, COLOURS[place % COLOURS.len()]);
        let _ = writeln!(out, "<rect x=\"{x:.0}\" y=\"28\" width=\"10\" height=\"10\" fill=\"{colour}\"/>");
        let _ = writeln!(out, "<text x=\"{:.0}\" y=\"37\">{server}</text>", x + 14.0);
    }
    for (row, (what, gains)) in gains.iter().enumerate() {
        let y = TOP + row as f64 * block;
        let middle = y + (block - SPACE) / 2.0 + 4.0;
        let _ = writeln!(out, "<text x=\"{:.0}\" y=\"{middle:.0}\" text-anchor=\"end\">{what}</text>", LEFT - 8.0);
        for (place, gain) in gains[..compared.len()].iter().enumerate() {
            let Some(gain) = gain else { continue };
            let (y, width, colour) = (y + place as f64 * BAR, gain * scale, COLOURS[place % COLOURS.len()]);
            let _ = writeln!(
                out,
                "<rect x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{:.0}\" fill=\"{colour}\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.0}\">{gain:.2} x</text>",
                BAR - 2.0,
                LEFT + width + 5.0,
                y + BAR - 5.0
            );
        }
    }
    let one = LEFT + scale;
    let _ = writeln!(
        out,
        "<line x1=\"{one:.1}\" y1=\"{:.0}\" x2=\"{one:.1}\" y2=\"{height:.0}\" stroke=\"#333\" stroke-dasharray=\"3 3\"/>\n</svg>",
        TOP - 4.0
    );
    out
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn a_bar_for_each_load_and_a_line_at_the_reference() {
        let mut report = report();
        for (what, ours) in [("put", 300.0), ("get", 150.0)] {
            report.figure(what, "op/s", "ours", ours);
            report.figure(what, "op/s", "etcd", 100.0);
        }
        report.figure("put p99", "ms", "ours", 7.0);
        let svg = svg(&report);
        assert_eq!((svg.matches(" x</text>").count(), svg.matches("<line").count()), (2, 1), "{svg}");
        assert!(
            svg.contains("3.00 x") && svg.contains("1.50 x") && svg.starts_with("<svg ") && svg.ends_with("</svg>\n")
        );
    }
}
