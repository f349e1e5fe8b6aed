//! What the demo prints: sections and checks on stdout, what goes on meanwhile on stderr.
//!
//! Colours and vanishing lines are for terminals only.

use std::{
    collections::BTreeMap,
    env,
    io::{IsTerminal, Write, stderr, stdout},
};

/// The longest bar, in columns.
const BAR: usize = 40;

/// Where the demo prints.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    colours: bool,
    live: bool,
}

impl Screen {
    /// This process's stdout and stderr.
    pub fn new() -> Self {
        let colours = stdout().is_terminal() && env::var_os("NO_COLOR").is_none();
        Self { colours, live: stderr().is_terminal() }
    }

    /// A line of the result.
    pub fn line(&self, text: &str) {
        self.clear_progress();
        // Whoever closed stdout doesn't want to know.
        let _ = writeln!(stdout(), "{text}");
    }

    /// What goes on now; on a terminal the next line takes its place.
    pub fn progress(&self, text: &str) {
        let mut err = stderr().lock();
        let _ = if self.live { write!(err, "\r\x1b[2K  {text} …") } else { writeln!(err, "{text}") };
        let _ = err.flush();
    }

    /// Takes back what `progress` left on a terminal.
    pub fn clear_progress(&self) {
        if self.live {
            let _ = write!(stderr(), "\r\x1b[2K");
        }
    }

    /// A section's title: what it is about, and how it was done.
    pub fn title(&self, subject: &str, how: &str) -> String {
        format!("{} {how}", self.paint("1;36", &format!("{subject:<10}")))
    }

    /// What didn't fit into the title.
    pub fn more(&self, how: &str) -> String {
        format!("{:10} {how}", "")
    }

    /// How many each had, as bars that are as long as theirs is of the largest.
    pub fn bars(&self, counts: &BTreeMap<String, usize>) -> Vec<String> {
        let largest = counts.values().copied().max().unwrap_or(0).max(1);
        let total = counts.values().sum::<usize>().max(1);
        let bar = |(name, &count): (&String, &usize)| {
            let bar = "█".repeat((count * BAR).div_ceil(largest));
            let bar = self.paint("34", &format!("{bar:<BAR$}"));
            format!("  {name:<10} {bar} {count:>5}  {:>3} %", (count * 100 + total / 2) / total)
        };
        counts.iter().map(bar).collect()
    }

    /// What went well.
    pub fn good(&self, text: &str) -> String {
        self.paint("32", text)
    }

    /// What didn't.
    pub fn bad(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// What matters less.
    pub fn dim(&self, text: &str) -> String {
        self.paint("2", text)
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// A number with a comma between thousands.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn bars_say_how_much_of_the_largest() {
        let screen = Screen { colours: false, live: false };
        let bars = screen.bars(&BTreeMap::from([("a".to_owned(), 30), ("b".to_owned(), 15), ("c".to_owned(), 0)]));
        let lengths: Vec<_> = bars.iter().map(|bar| bar.matches('█').count()).collect();
        assert_eq!(lengths, [BAR, BAR / 2, 0]);
        assert!(bars[1].ends_with("33 %"), "{bars:?}");
    }
}
