// SPDX-License-Identifier: EUPL-1.2
// SPDX-FileCopyrightText: 2026 microvm-spectrum contributors

//! A picture of a terminal, from what programs printed there: SVG with the text of each line.

/// As many characters as a line has.
pub const COLUMNS: u16 = 100;
/// The size of a character in the picture, in pixels.
const WIDTH: usize = 8;
const HEIGHT: usize = 18;
const MARGIN: usize = 12;

/// What one character looks like.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Look {
    bold: bool,
    colour: Option<&'static str>,
}

/// Draws what a terminal showed. Knows the colours that the program uses, and line ends.
pub fn svg(title: &str, shown: &str) -> String {
    let lines = lines(shown);
    let (width, height) = (usize::from(COLUMNS) * WIDTH + 2 * MARGIN, lines.len() * HEIGHT + 2 * MARGIN);
    let mut text = format!(
        "<!-- SPDX-License-Identifier: EUPL-1.2\n     SPDX-FileCopyrightText: 2026 microvm-spectrum contributors\n     \
         Written by checks/record-terminal. -->\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{title}</title>\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"#1c1c22\"/>\n\
         <g font-family=\"monospace\" font-size=\"13\" fill=\"#d8d8e0\" xml:space=\"preserve\" \
         style=\"white-space: pre\">\n"
    );
    for (number, line) in lines.iter().enumerate() {
        let y = MARGIN + HEIGHT * number + HEIGHT * 3 / 4;
        let mut column = 0;
        for run in line.chunk_by(|(_, a), (_, b)| a == b) {
            let characters: String = run.iter().map(|(c, _)| *c).collect();
            let look = run[0].1;
            let (bold, colour) = (if look.bold { " font-weight=\"bold\"" } else { "" }, look.colour);
            let colour = colour.map_or_else(String::new, |colour| format!(" fill=\"{colour}\""));
            // The width is given, whatever font there is.
            let (x, length) = (MARGIN + column * WIDTH, run.len() * WIDTH);
            text += &format!(
                "<text x=\"{x}\" y=\"{y}\" textLength=\"{length}\"{bold}{colour}>{}</text>\n",
                characters.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
            );
            column += run.len();
        }
    }
    text + "</g>\n</svg>\n"
}

/// The characters of each line of the terminal, with their looks.
fn lines(shown: &str) -> Vec<Vec<(char, Look)>> {
    let (mut lines, mut look) = (vec![Vec::new()], Look::default());
    let mut rest = shown.trim_end();
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c == '\x1b' {
            let (codes, after) = rest.split_once('m').unwrap();
            rest = after;
            for code in codes.trim_start_matches('[').split(';') {
                look = match code {
                    "" | "0" => Look::default(),
                    "1" => Look { bold: true, ..look },
                    "31" => Look { colour: Some("#ff6b6b"), ..look },
                    "32" => Look { colour: Some("#7ec97e"), ..look },
                    "34" => Look { colour: Some("#7aa2f7"), ..look },
                    other => panic!("no colour for {other:?} in {shown:?}"),
                };
            }
        } else if c == '\n' {
            lines.push(Vec::new());
        } else if c != '\r' {
            if lines.last().unwrap().len() == usize::from(COLUMNS) {
                lines.push(Vec::new());
            }
            lines.last_mut().unwrap().push((c, look));
        }
    }
    lines
}
