//! A bar on stderr for commands that take long, where a person looks on. The flows say how far they are; see the engine's
//! `domain/progress.rs`.

use std::io::IsTerminal as _;
use std::time::Duration;

use doorbuster_engine::domain::progress::{Progress, Step};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;

use super::output::Format;

/// What is done by then needs no bar.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
const REDRAW_EVERY: Duration = Duration::from_millis(200);
const COUNTED: &str = "  {msg} {bar:36} {pos:>7}/{len} {elapsed}";
const UNCOUNTED: &str = "  {msg} {spinner} {elapsed}";

/// Gone when it is dropped, without a trace on the screen.
pub(super) struct Bar {
    bar: ProgressBar,
    /// Draws nothing until it ends.
    waiting: Option<JoinHandle<()>>,
}

impl Bar {
    /// Draws only on a terminal, and not beside JSON, which a program reads.
    pub(super) fn start(format: Format) -> Self {
        if format.is_json() || !std::io::stderr().is_terminal() {
            return Self { bar: ProgressBar::hidden(), waiting: None };
        }
        Self::on(ProgressDrawTarget::stderr, SHOWN_AFTER)
    }

    fn on(target: impl FnOnce() -> ProgressDrawTarget + Send + 'static, after: Duration) -> Self {
        let bar = ProgressBar::hidden();
        let shown = bar.clone();
        let waiting = tokio::spawn(async move {
            tokio::time::sleep(after).await;
            shown.set_draw_target(target());
            shown.enable_steady_tick(REDRAW_EVERY);
        });
        Self { bar, waiting: Some(waiting) }
    }

    /// What a flow tells it to.
    pub(super) fn progress(&self) -> Progress {
        let bar = self.bar.clone();
        Progress::to(move |step| show(&bar, step))
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(waiting) = &self.waiting {
            waiting.abort();
        }
        self.bar.finish_and_clear();
    }
}

fn show(bar: &ProgressBar, step: Step) {
    let template = if step.of.is_some() { COUNTED } else { UNCOUNTED };
    if bar.message() != step.what {
        bar.set_style(ProgressStyle::with_template(template).expect("the template is a constant"));
        bar.set_message(step.what);
    }
    if let Some(all) = step.of {
        bar.set_length(all);
        bar.set_position(step.done);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use indicatif::TermLike;

    use super::*;

    /// A terminal that keeps all that was ever drawn.
    #[derive(Debug, Clone, Default)]
    struct Screen(Arc<Mutex<String>>);

    impl Screen {
        fn drawn(&self) -> String {
            self.0.lock().unwrap().clone()
        }

        fn bar(&self, after: Duration) -> Bar {
            let screen = self.clone();
            Bar::on(move || ProgressDrawTarget::term_like(Box::new(screen)), after)
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn what_takes_long_is_drawn_with_its_figures_and_what_does_not_is_not() {
        let (quick, slow) = (Screen::default(), Screen::default());
        let (not_yet, now) = (quick.bar(Duration::from_secs(60)), slow.bar(Duration::ZERO));
        let deadline = Instant::now() + Duration::from_secs(10);
        // Both are told the same, over and over, until one of them is drawn.
        while !slow.drawn().contains("units made") {
            not_yet.progress().tell("units made", 5, Some(10));
            now.progress().tell("units made", 5, Some(10));
            assert!(Instant::now() < deadline, "{:?}", slow.drawn());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(slow.drawn().contains("5/10"), "{:?}", slow.drawn());
        drop(not_yet);
        assert_eq!(quick.drawn(), "");
    }
}
