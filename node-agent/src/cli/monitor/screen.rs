//! The full-screen view: what the board says, laid out.
//!
//! This module must not know where events come from.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Cell, Row, Table},
};

use super::board::{self, Board, Counts};

/// Draws the board.
pub fn draw(frame: &mut Frame<'_>, board: &Board) {
    let [head, flows, below] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Fill(1)]).areas(frame.area());
    let [services, reasons] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(below);
    frame.render_widget(headline(board), head);
    let seconds = board.seconds() as f64;
    table(frame, flows, "Flows", &board.flows(rows(flows)), seconds);
    table(frame, services, "Services", &board.services(rows(services)), seconds);
    table(frame, reasons, "Drops, denials and refusals", &board.reasons(rows(reasons)), seconds);
}

fn headline(board: &Board) -> Line<'static> {
    let (all, seconds) = (board.all(), board.seconds());
    let mut line = Line::from(vec![
        Span::from(format!("The last {seconds} s: ")).bold(),
        Span::from(format!("{} forwarded", all.forwarded)).green(),
        Span::from(format!("  {} dropped", all.dropped)).red(),
        Span::from(format!("  {} denied", all.denied)).red(),
        Span::from(format!("  {} refused", all.refused)).yellow(),
    ]);
    if board.missed() > 0 {
        line.push_span(Span::from(format!("  {} not told (--rate)", board.missed())).yellow());
    }
    line.push_span(Span::from("   q ends").dim());
    line
}

/// How many rows a table has room for, without its frame and heading.
fn rows(area: Rect) -> usize {
    usize::from(area.height.saturating_sub(3))
}

fn table(frame: &mut Frame<'_>, area: Rect, title: &'static str, rows: &[board::Row], seconds: f64) {
    const WIDTHS: [Constraint; 3] = [Constraint::Fill(1), Constraint::Length(9), Constraint::Length(9)];
    let cells = rows.iter().map(|(name, counts)| {
        let cells =
            [name.clone(), format!("{:>9.1}", counts.total() as f64 / seconds), format!("{:>9}", failed(counts))];
        Row::new(cells.map(Cell::from)).style(style(counts))
    });
    let heading = Row::new(["", "       /s", "   failed"]).style(Style::new().bold());
    let table = Table::new(cells, WIDTHS).header(heading).block(Block::bordered().title(title));
    frame.render_widget(table, area);
}

fn failed(counts: &Counts) -> u64 {
    counts.total() - counts.forwarded
}

fn style(counts: &Counts) -> Style {
    match (counts.dropped + counts.denied, counts.refused) {
        (0, 0) => Style::new(),
        (0, _) => Style::new().fg(Color::Yellow),
        _ => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{super::board::tests::event, *};
    use crate::api::monitor::{Missed, Verdict};

    fn drawn(board: &Board, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, board)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_busiest_stand_on_the_screen() {
        let mut board = Board::new();
        for _ in 0..4 {
            board.note(&event("shop/client", "shop/front", Verdict::Forwarded, ""));
        }
        board.note(&event("shop/client", "shop/front", Verdict::Denied, "ingress-policy-denied"));
        board.miss(&Missed { flows: 7, troubles: 0, ring: 0, queue: 0 });
        board.next_second();
        let screen = drawn(&board, 120, 20);
        for words in [
            "The last 2 s: 4 forwarded  0 dropped  1 denied  0 refused  7 not told",
            "shop/client → shop/front 80/tcp",
            "2.5         1",
            "ingress-policy-denied",
            "Services",
        ] {
            assert!(screen.contains(words), "{words} is not in\n{screen}");
        }
    }

    #[test]
    fn a_terminal_without_room_is_no_reason_to_end() {
        let mut board = Board::new();
        board.note(&event("a", "b", Verdict::Dropped, "no-route"));
        for (width, height) in [(1, 1), (3, 2), (20, 5), (300, 100)] {
            drawn(&board, width, height);
        }
    }
}
